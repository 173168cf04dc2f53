"""``provider_uploads.about``: what this worker is, for whoever asks all workers at once."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

from config.tiers import tier_of
from provider_uploads import contract
from provider_uploads.about import about_this
from provider_uploads.settings import settings
from tasks.celery import app


@inspect_command(name=contract.ABOUT)
def about(state: Any, **_: Any) -> dict[str, Any]:
    """Say what this worker is. Asks nobody, since all of the worker waits meanwhile."""
    return about_this(
        state.hostname,
        [queue.name for queue in state.consumer.task_consumer.queues],
        state.consumer.controller.concurrency,
        app.conf.broker_transport_options["visibility_timeout"],
        (f"{name}: {tier_of(name).name}" for name in settings().profile_names),
    ).model_dump(mode="json")
