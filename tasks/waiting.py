"""Coming back later: the waits of the tasks are countdowns, never sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import Any, NoReturn, TypeVar

from celery import Task
from celery.exceptions import Reject

from config.policy import policy
from provider_uploads.background import begin
from provider_uploads.backoff import Backoff
from provider_uploads.errors import NewerPayloadError, ServiceDownError, TransientError
from provider_uploads.rows import Row
from tasks.context import ledger, stopping

T = TypeVar("T")

#: A stopping worker is noticed within this many seconds.
_STOP_SEEN_S = 0.2


def come_back(task: Task[Any, Any], countdown: float, turn: str = "") -> NoReturn:
    """Deliver this message again after ``countdown`` seconds, to any worker.

    ``turn`` is the mark of one that is reserved for then; a task that takes none gets none.
    """
    kwargs = {**(task.request.kwargs or {}), "turn": turn}
    if not turn:
        del kwargs["turn"]
    try:
        raise task.retry(countdown=countdown, kwargs=kwargs)
    except Reject as error:  # not published; Celery would drop the message
        raise Reject("its successor could not be sent", requeue=True) from error


def try_again(task: Task[Any, Any], row: Row, error: TransientError) -> NoReturn:
    """Come back after the backoff, or after what the provider asked for if that is longer.

    The last of ``policy.upload_tries`` raises ``error`` itself. While the service is down for all,
    tries are not counted.
    """
    if isinstance(error, ServiceDownError) and not _outlived(row):
        ledger().note(row.request.upload_id, str(error))
        come_back(task, Backoff(error.retry_after_s, jitter_s=error.retry_after_s / 4).delay(0))
    tries = row.stumbles + 1
    if tries >= policy.upload_tries:
        raise error
    wait_s = max(policy.upload_retry.delay(row.stumbles), error.retry_after_s or 0.0)
    ledger().stumbled(
        row.request.upload_id,
        f"try {tries} of {policy.upload_tries} failed, next in {wait_s:.1f} s: {error}",
    )
    come_back(task, wait_s)


def _outlived(row: Row) -> bool:
    """Whether an upload has waited as long for the service as an outage may last."""
    return time.time() > row.queued_at + policy.outage_s


def unless_stopping(call: Callable[[], T]) -> T:
    """Return what ``call`` returns; a worker that stops meanwhile gives the message back.

    For a request that cannot be stopped from outside: its thread is left behind.
    """
    done = begin(call)
    while not wait([done], timeout=_STOP_SEEN_S).done:
        if stopping.is_set():
            raise Reject("the worker is stopping", requeue=True)
    return done.result()


def leave_for_newer(
    task: Task[Any, Any], tickets: Sequence[str], error: NewerPayloadError
) -> NoReturn:
    """Leave a message that only a newer worker can read; after a day of that, raise ``error``."""
    if task.request.retries + 1 >= policy.newer_payload_tries:
        raise error
    for ticket in tickets:
        ledger().note(ticket, str(error))
    come_back(task, policy.newer_payload_retry_s)
