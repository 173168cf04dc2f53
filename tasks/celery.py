"""The Celery application: ``celery -A tasks worker``."""

from __future__ import annotations

import os

from celery import Celery

from provider_uploads.errors import ConfigurationError
from provider_uploads.keepalive import KeepAlive
from provider_uploads.settings import settings


def _refuse_overrides() -> None:
    """Celery lets these variables win over any configuration, silently."""
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        if os.environ.get(name, settings().redis_url) != settings().redis_url:
            raise ConfigurationError(
                f"{name} would send this worker to another server than PROVIDER_UPLOADS_REDIS_URL. "
                "Unset it, or set both to the same URL."
            )


_refuse_overrides()
app = Celery(
    "provider_uploads", include=["tasks.ingest", "tasks.upload", "tasks.poll", "tasks.delete"]
)
app.config_from_object("config.celeryconfig")
app.steps["consumer"].add(KeepAlive)
