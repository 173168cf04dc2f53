"""When: Celery tasks and canvases. A wheel carries them: ``provider_uploads.local.workers``."""
