"""All workers at once, asked through Celery's remote control.

The question is published to every worker's mailbox, under the broker's key prefix; each answers
into a list of the asker's, who deletes it:

    PUBLISH provider_uploads:/0.celery.pidbox       {"method": "provider_uploads.about", …}
    LPUSH   provider_uploads:<id>.reply.celery.pidbox   {"celery@host": {"worker": …}}
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.pidbox import Mailbox
from pydantic import ValidationError
from redis.exceptions import RedisError

from provider_uploads import protocol
from provider_uploads.doctor.clock import Skew
from provider_uploads.errors import QueueUnavailableError
from provider_uploads.fleet.worker_info import WorkerInfo
from provider_uploads.settings import Settings, without_secrets

#: Seconds without a further answer before all have answered; if none has, it is asked once more.
_SILENCE_S = 1.0
_LONGER_SILENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that answered, and how far its clock is ahead of this machine's."""

    about: WorkerInfo
    skew: Skew


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers that answered."""

    workers: tuple[Worker, ...] = ()
    #: The names of those that did not understand the question.
    strangers: tuple[str, ...] = ()

    def serving(self, queue: str) -> list[WorkerInfo]:
        """Return those that take messages from a queue."""
        return [worker.about for worker in self.workers if queue in worker.about.queues]


def ask(settings: Settings) -> Fleet:
    """Ask all workers what they are; takes 1 s, and 3 s when there is none.

    Raises QueueUnavailableError when Redis cannot be reached or does not answer.
    """
    try:
        return _ask(settings, _SILENCE_S) or _ask(settings, _LONGER_SILENCE_S) or Fleet()
    except (OperationalError, RedisError, OSError) as error:
        server = without_secrets(settings.redis_url)
        raise QueueUnavailableError(server, type(error).__name__) from error


def _ask(settings: Settings, silence_s: float) -> Fleet | None:
    """Return who answers before it has been silent for so long; None if nobody does."""
    workers: list[Worker] = []
    strangers: list[str] = []

    def answered(body: Mapping[str, Any]) -> None:
        now = time.time()
        for name, said in body.items():
            try:
                about = WorkerInfo.model_validate(said)
            except ValidationError:  # an older worker: it answers with an error
                strangers.append(name)
            else:
                workers.append(Worker(about, Skew.measured(asked, about.clock_s, now)))

    timeout_s = settings.redis_timeout_s
    with Connection(
        settings.redis_url,
        connect_timeout=timeout_s,
        transport_options={
            "global_keyprefix": protocol.KEY_PREFIX,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "max_retries": 1,
            "interval_start": 0,
            "interval_max": 0,
        },
    ) as connection:
        # Celery's own way would go through an app, which listens to CELERY_BROKER_URL.
        mailbox = Mailbox("celery", "fanout", connection, accept=["json"], serializer="json")
        asked = time.time()
        mailbox.multi_call(protocol.WORKER_INFO, timeout=silence_s, callback=answered)
    if not (workers or strangers):
        return None
    return Fleet(
        tuple(sorted(workers, key=lambda worker: worker.about.worker)), tuple(sorted(strangers))
    )
