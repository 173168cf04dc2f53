"""What a user would write instead: one small module each, with the SDK's own calls in a task.

No module here imports anything of ours. Where the servers are stands in ``BENCH_REDIS_URL`` and
``BENCH_GEMINI_URL``. Every peer polls every ``poll_s`` and holds its slot meanwhile.
"""
