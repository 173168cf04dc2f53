"""The site's own app of this name; the workers' ``tasks`` is another package."""
