"""The Celery application: ``celery -A tasks worker``."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Task
from kombu.exceptions import OperationalError

from provider_uploads.errors import ConfigurationError, ProviderUploadsError
from provider_uploads.fleet.keepalive import KeepAlive
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.settings import settings


def _refuse_overrides() -> None:
    """Celery lets these variables win over any configuration, silently."""
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        if os.environ.get(name, settings().redis_url) != settings().redis_url:
            raise ConfigurationError(
                f"{name} would send this worker to another server than PROVIDER_UPLOADS_REDIS_URL. "
                "Unset it, or set both to the same URL."
            )


class UploadsApp(Celery[Any]):
    """Celery, with one name for a message that could not be sent."""

    # A worker is no part of the web app whose DJANGO_SETTINGS_MODULE it may inherit.
    builtin_fixups: set[str] = set()  # noqa: RUF012 - as Celery declares it

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Send a task's message; raises OperationalError if Redis cannot be reached."""
        try:
            return super().send_task(*args, **kwargs)
        except AttributeError as error:
            # A consumer that lost Redis closes the pooled connections under those who are
            # publishing, and kombu then finds None in the place of one.
            raise OperationalError(f"the connection was closed: {error}") from error


class UploadsTask(Task[Any, Any]):
    """What all our tasks have in common."""

    # How often to retry is decided by the tasks. Celery's default is 3, and
    # ``retry(max_retries=None)`` means that default, not "no limit".
    max_retries = None
    # An error with a name is an outcome, logged as a line; only faults get a traceback.
    throws = (ProviderUploadsError,)


def _check_settings() -> None:
    """End the process with one sentence if a variable is wrong; Celery would print a traceback."""
    try:
        _refuse_overrides()
        from config.tiers import tier_of

        for profile in (DEFAULT_PROFILE, *settings().profiles):
            tier_of(profile)
    except ConfigurationError as error:
        raise SystemExit(f"provider-uploads: {error}") from None


_check_settings()
app = UploadsApp(
    "provider_uploads",
    task_cls=UploadsTask,
    include=[
        "tasks.ingest",
        "tasks.upload",
        "tasks.poll",
        "tasks.delete",
        "tasks.generate",
        "tasks.sweep",
        "tasks.unstage",
        "tasks.fleet",
        "tasks.revoke",
        "tasks.worker_info",
    ],
)
app.config_from_object("config.celeryconfig")
app.steps["consumer"].add(KeepAlive)
