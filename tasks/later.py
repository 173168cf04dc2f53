"""How a message comes back: after a countdown, to its queue at once, or to a newer worker.

Whatever the reason, a message that comes back again and again is slowed down, and a reason is said
once for each message.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from celery import Task
from celery.exceptions import Reject
from celery.signals import after_setup_logger
from kombu.exceptions import OperationalError

from config.policy import policy
from provider_uploads.errors import NewerPayloadError, NewerRowError, QueueUnavailableError
from tasks.connections import log, stopping

#: Messages remembered by each worker: far more than it can hold.
_MOST = 20_000
_MINUTE_S = 60.0


@dataclass
class _Message:
    returned_at: deque[float] = field(default_factory=deque)
    said: set[str] = field(default_factory=set)
    waited: int = 0


class Returns:
    """How often messages came back to this worker lately, by their ids; thread-safe."""

    def __init__(self, most_a_minute: int) -> None:
        self._most = most_a_minute
        self._lock = threading.Lock()
        self._messages: OrderedDict[str, _Message] = OrderedDict()

    def wait_s(self, message_id: str) -> float:
        """Count a return; return how long it should wait at least: 0 for one that is not hot."""
        with self._lock:
            returned_at = self._of(message_id).returned_at
            returned_at.append(time.monotonic())
            return _MINUTE_S / self._most if self._hot(returned_at) else 0.0

    def hot(self, message_id: str) -> bool:
        """Whether a message came back more often than it may within the last minute."""
        with self._lock:
            known = self._messages.get(message_id)
            return known is not None and self._hot(known.returned_at)

    def first(self, message_id: str, reason: str) -> bool:
        """Whether this is the first time that a message has this reason; else nothing is said."""
        with self._lock:
            said = self._of(message_id).said
            new = reason not in said
            said.add(reason)
            return new

    def has(self, message_id: str, reason: str) -> bool:
        """Whether a message had this reason before."""
        with self._lock:
            known = self._messages.get(message_id)
            return known is not None and reason in known.said

    def waited(self, message_id: str) -> int:
        """Count a wait for a newer worker; return how many there were."""
        with self._lock:
            known = self._of(message_id)
            known.waited += 1
            return known.waited

    def _of(self, message_id: str) -> _Message:
        known = self._messages.setdefault(message_id, _Message())
        self._messages.move_to_end(message_id)
        while len(self._messages) > _MOST:
            self._messages.popitem(last=False)
        return known

    def _hot(self, returned_at: deque[float]) -> bool:
        while returned_at and returned_at[0] < time.monotonic() - _MINUTE_S:
            returned_at.popleft()
        return len(returned_at) > self._most


#: This worker's.
returns = Returns(policy.returns_per_minute)


class _Quiet(logging.Filter):
    """Leaves out Celery's lines about a message that comes back too often.

    Of a message that comes back on purpose, it leaves out the traceback.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        data = getattr(record, "data", None)
        if not isinstance(data, dict):
            return True
        if data.get("internal"):
            record.exc_info = record.exc_text = None
        return not returns.hot(str(data.get("id")))


@after_setup_logger.connect
def _be_quiet(**_: Any) -> None:
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).addFilter(_Quiet())


def say(message_id: str, reason: str, text: str, *values: object) -> None:
    """Log a warning, once for each message and reason."""
    if returns.first(message_id, reason):
        log.warning(text, *values)


def retry_later(
    task: Task[Any, Any], countdown: float, token: str = "", shown: str | None = None
) -> NoReturn:
    """Deliver this message again after ``countdown`` seconds, to any worker.

    ``token`` names a permit that is reserved for then; messages carry it as ``turn``. ``shown`` is
    what Flower and logs show as its arguments; None: what they show now, which Celery would forget.
    A message that comes back more often than ``policy.returns_per_minute`` waits longer.
    """
    _retry(task, max(countdown, returns.wait_s(str(task.request.id))), token, shown)


def _retry(
    task: Task[Any, Any], countdown: float, token: str = "", shown: str | None = None
) -> NoReturn:
    kwargs = {**(task.request.kwargs or {}), "turn": token}
    if not token:
        del kwargs["turn"]
    reprs: dict[str, Any] = {
        "argsrepr": shown or getattr(task.request, "argsrepr", None),
        "kwargsrepr": getattr(task.request, "kwargsrepr", None),
    }
    try:
        raise task.retry(countdown=countdown, kwargs=kwargs, **reprs)
    except Reject as error:  # not published; Celery would drop the message
        raise Reject("its successor could not be sent", requeue=True) from error


def leave_for_newer_worker(task: Task[Any, Any], error: NewerPayloadError) -> NoReturn:
    """Leave a message that only a newer worker can handle; after a day of that, raise ``error``."""
    ticket = str(task.request.id)
    say(ticket, "newer", "%s waits for a newer worker: %s", ticket, error)
    if outwaited(task, error):
        raise error
    retry_later(task, policy.newer_payload_retry_s)


def outwaited(task: Task[Any, Any], error: NewerPayloadError) -> bool:
    """Whether a message has waited for a newer worker as long as it may.

    One about a row of a newer version waits until the ledger has forgotten the row.
    """
    if isinstance(error, NewerRowError):
        return False
    return (task.request.retries or 0) + 1 >= policy.newer_payload_tries


@contextmanager
def coming_back(task: Task[Any, Any]) -> Iterator[None]:
    """Bring a message back where its task cannot end: Redis is away, or a newer worker is needed.

    All tasks of ours run in it (``UploadsTask``).
    """
    ticket = str(task.request.id)
    try:
        yield
    except NewerPayloadError as error:
        leave_for_newer_worker(task, error)
    except (QueueUnavailableError, OperationalError) as error:
        say(ticket, type(error).__name__, "%s goes back to the queue: %s", ticket, error)
        _requeue(task, error)
    except Reject as error:
        reason, requeue = error.args
        if not requeue:
            raise
        _requeue(task, reason)


def _requeue(task: Task[Any, Any], reason: Exception | str | None) -> NoReturn:
    """Put a message back into its queue: at once, or later if it comes back too often."""
    wait_s = returns.wait_s(str(task.request.id))
    if wait_s and not stopping.is_set():
        try:
            _retry(task, wait_s)
        except (Reject, OperationalError, QueueUnavailableError):  # it cannot be sent either
            stopping.wait(wait_s)
    raise Reject(reason, requeue=True)
