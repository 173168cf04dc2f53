"""The remote-control command by which each worker describes itself, for the doctor."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

from config.policy import Policy
from config.tiers import tier_of
from provider_uploads import protocol
from provider_uploads.fleet.worker_info import describe_worker
from provider_uploads.settings import settings
from tasks.celery import app


@inspect_command(name=protocol.WORKER_INFO)
def worker_info(state: Any, **_: Any) -> dict[str, Any]:
    """Describe this worker. It sends no request, since the whole worker waits meanwhile."""
    return describe_worker(
        state.hostname,
        [queue.name for queue in state.consumer.task_consumer.queues],
        state.consumer.controller.concurrency,
        app.conf.broker_transport_options["visibility_timeout"],
        (f"{name}: {tier_of(name).name}" for name in settings().profile_names),
        Policy.model_fields,
    ).model_dump(mode="json")
