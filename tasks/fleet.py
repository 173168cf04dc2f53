"""A worker as part of the fleet: its queues, its tier, and the rates that are set while it runs."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.signals import celeryd_after_setup
from celery.worker.control import Panel, control_command

from config.policy import Policy
from config.tiers import TASKS, tier_of
from provider_uploads import protocol
from provider_uploads.errors import (
    ConfigurationError,
    MissingCredentialsError,
    ProviderUploadsError,
)
from provider_uploads.fleet.api_keys import publish_key
from provider_uploads.fleet.limits import publish, published
from provider_uploads.fleet.queues import SERVED_S, Queues, transfer_queues
from provider_uploads.fleet.slots import slots
from provider_uploads.fleet.tiers import per_minute
from provider_uploads.fleet.worker_info import misspelt
from provider_uploads.messages import check_tasks
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.settings import settings, unknown_variables
from tasks.celery import app
from tasks.connections import ledger, limits, log

_celery_rate_limit = Panel.data["rate_limit"]
_WORK_OF_TASK = {task: work for work, task in TASKS.items()}


@celeryd_after_setup.connect
def _serve_every_profile(instance: Any, **_: Any) -> None:
    """``-Q transfer`` means the transfer queues of every profile this worker knows."""
    queues = instance.app.amqp.queues
    if protocol.TRANSFER_QUEUE in queues.consume_from:
        for name in transfer_queues(_profiles()):
            queues.select_add(queues[name])


@celeryd_after_setup.connect
def _refuse_unknown_tasks(instance: Any, **_: Any) -> None:
    """A task whose tickets nobody knows would be submitted again while it lives."""
    try:
        check_tasks(instance.app.tasks)
    except ConfigurationError as error:
        raise SystemExit(f"provider-uploads: {error}") from None


@celeryd_after_setup.connect
def _warn_without_key(**_: Any) -> None:
    """Uploads would end one after another; other workers may have the key, so it is no error."""
    for name in sorted(_profiles()):
        profile = settings().profile(name)
        if profile.api_key is None and profile.provider == "gemini":
            missing = MissingCredentialsError(profile.provider, name)
            log.warning("%s Until then each of its uploads here ends in that error.", missing)


@celeryd_after_setup.connect
def _warn_of_misspelt_variables(**_: Any) -> None:
    """A variable that nothing reads is a slip that shows much later."""
    for found in unknown_variables(Policy.model_fields).items():
        log.warning("nothing reads the variable %s", misspelt(found))


class Fleet(bootsteps.StartStopStep):
    """Tells the fleet what this worker serves, again and again while it lives."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """Begin; called again after each reconnect."""
        own = not parent.pool.uses_semaphore  # as the prefork pool does, whose slots are processes
        slots.count = parent.controller.concurrency if own else None
        self._join(parent)
        self._timer = parent.timer.call_repeatedly(SERVED_S / 4, self._join, (parent,))

    def stop(self, parent: Any) -> None:
        """Say no more; after an hour it is forgotten."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    shutdown = stop

    def _join(self, parent: Any) -> None:
        try:
            for name in _profiles():
                publish(ledger(), name, tier_of(name))
            for name in settings().profile_names:
                publish_key(ledger(), name, settings().profile(name).key())
            if protocol.TRANSFER_QUEUE in parent.app.amqp.queues.consume_from:
                Queues(ledger()).serve(_profiles())
        except ProviderUploadsError as error:  # the consumer will notice, and start us again
            log.warning("the fleet does not know of this worker: %s", error)


def _profiles() -> set[str]:
    return {DEFAULT_PROFILE, *settings().profiles}


@control_command(
    name="rate_limit",
    args=[("task_name", str), ("rate_limit", str)],
    signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>",
)
def rate_limit(state: Any, task_name: str, rate_limit: str | None, **_: Any) -> Any:
    """Set a task's rate for the whole fleet, workers to come included.

    Celery's own command, and Flower's form, with the one difference that the rate is written to
    Redis, where it holds for all.
    """
    wanted = "0" if rate_limit is None else str(rate_limit)
    # In Celery's words 0 is no limit.
    ours = "unlimited" if wanted.partition("/")[0].strip() in {"", "0"} else wanted
    try:
        per_minute(None if ours == "unlimited" else ours)
    except ValueError as error:
        return {"error": str(error)}
    answer = _celery_rate_limit(state, task_name, wanted)
    if "ok" in answer and task_name in _WORK_OF_TASK:
        profiles = {*_profiles(), *published(ledger())}
        limits().set_rate(_WORK_OF_TASK[task_name], ours, profiles=profiles)
    return answer


app.steps["consumer"].add(Fleet)
