"""The Celery application: ``celery -A tasks worker``."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

from celery import Celery
from celery.signals import celeryd_init
from kombu.exceptions import OperationalError

from provider_uploads.errors import ConfigurationError
from provider_uploads.fleet.keepalive import KeepAlive
from provider_uploads.fleet.redis_clock import redis_clock
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
        os.environ.pop(name, None)  # the configuration has it as Celery takes it


class UploadsApp(Celery[Any]):
    """Celery, with one name for a message that could not be sent."""

    # A worker is no part of the web app whose DJANGO_SETTINGS_MODULE it may inherit.
    builtin_fixups: set[str] = set()  # noqa: RUF012 - as Celery declares it
    amqp_cls = "provider_uploads.fleet.transport:Amqp"

    def now(self) -> datetime:
        """Return Redis's time: countdowns and expiries mean the same to every worker."""
        return super().now() - timedelta(seconds=redis_clock().ahead_s())

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Send a task's message; raises OperationalError if Redis cannot be reached."""
        try:
            return super().send_task(*args, **kwargs)
        except AttributeError as error:
            # A consumer that lost Redis closes the pooled connections under those who are
            # publishing, and kombu then finds None in the place of one.
            raise OperationalError(f"the connection was closed: {error}") from error


def _check_settings() -> None:
    """End the process with one sentence if a variable is wrong; Celery would print a traceback."""
    try:
        _refuse_overrides()
        from config.tiers import tier_of

        for profile in (DEFAULT_PROFILE, *settings().profiles):
            tier_of(profile)
    except ConfigurationError as error:
        raise SystemExit(f"provider-uploads: {error}") from None


@celeryd_init.connect
def _refuse_other_apps(instance: Any, **_: Any) -> None:
    """Our tasks need our queues and settings; in another app's worker they end in retries."""
    if instance.app is not app:
        raise SystemExit(
            f"provider-uploads: the app {instance.app.main!r} includes our tasks, which only run "
            "in our own workers (provider-uploads worker). For uploads in your own chains use "
            "provider_uploads.canvas instead; see docs/celery.md."
        )


_check_settings()
app = UploadsApp(
    "provider_uploads",
    task_cls="tasks.task:UploadsTask",
    include=[
        "tasks.ingest",
        "tasks.upload",
        "tasks.poll",
        "tasks.delete",
        "tasks.generate",
        "tasks.create_batch",
        "tasks.poll_batch",
        "tasks.collect_batch",
        "tasks.clean_up_batch",
        "tasks.sweep",
        "tasks.unstage",
        "tasks.notify",
        "tasks.fleet",
        "tasks.watch",
        "tasks.revoke",
        "tasks.worker_info",
    ],
)
app.config_from_object("config.celeryconfig")
app.steps["consumer"].add(KeepAlive)
