"""Where bytes come from: local files, buckets, https and staged copies."""
