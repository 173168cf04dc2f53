"""Waiting for an upload or an answer, and following uploads as they change."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Final, TypeVar

from provider_uploads.backoff import Backoff
from provider_uploads.errors import (
    InvalidRequestError,
    QueueUnavailableError,
    ResultTimeoutError,
)
from provider_uploads.ledger.changes import subscription
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.schemas import UploadStatus

T = TypeVar("T")

#: Between two reads of the ledger while waiting for a result: soon at first, then twice a second.
_READ_AGAIN: Final = Backoff(0.02, 1.5, 0.5)
#: How long to listen for changes before the clock is read.
_LISTEN_S: Final = 0.5


def wait_for(ticket: str, read: Callable[[], tuple[T | None, str]], timeout_s: float | None) -> T:
    """Call ``read`` until it returns something; with it comes the stage, for the error.

    Raises ResultTimeoutError after ``timeout_s`` seconds (None: never; 0: at once). An outage of
    Redis that begins during the wait is waited out as long; only then it is an error.
    """
    if timeout_s is not None and not timeout_s >= 0:
        raise InvalidRequestError("timeout_s", repr(timeout_s), "must be zero or more seconds")
    begun = time.monotonic()
    reads = 0
    stage = ""
    while True:
        outage: QueueUnavailableError | None = None
        try:
            found, stage = read()
        except QueueUnavailableError as error:
            if not stage:
                raise
            outage = error
        else:
            if found is not None:
                return found
        waited_s = time.monotonic() - begun
        if timeout_s is not None and waited_s >= timeout_s:
            raise outage or ResultTimeoutError(ticket, stage, round(waited_s, 3))
        wait_s = _READ_AGAIN.delay(reads)
        left_s = wait_s if timeout_s is None else timeout_s - waited_s
        time.sleep(min(wait_s, left_s))
        reads += 1


def events(
    ledger: Ledger, tickets: Sequence[str], timeout_s: float | None
) -> Generator[UploadStatus, None, None]:
    """Yield each upload's status now, and again with every change, until all have ended.

    An outage of Redis that begins meanwhile is waited out as in ``wait_for``.
    """
    begun = time.monotonic()
    open_tickets = dict.fromkeys(tickets)
    connected = False
    while open_tickets:
        try:
            with subscription(ledger, open_tickets) as wait:
                changed = list(open_tickets)  # subscribed first: nothing happens in between
                while open_tickets:
                    for status in ledger.statuses(changed):
                        connected = True
                        if status.ticket in open_tickets:
                            yield status
                        if status.stage.ended:
                            open_tickets.pop(status.ticket, None)
                    _check_time(ledger, open_tickets, begun, timeout_s)
                    changed = [one] if (one := wait(_LISTEN_S)) else []
                    # What else has arrived by now is the same news.
                    while changed and (one := wait(0)) is not None:
                        changed += [one] if one not in changed else []
        except QueueUnavailableError:
            late = timeout_s is not None and time.monotonic() - begun >= timeout_s
            if late or not connected:
                raise
            time.sleep(_LISTEN_S)


def _check_time(
    ledger: Ledger, open_tickets: Mapping[str, None], begun: float, timeout_s: float | None
) -> None:
    waited_s = time.monotonic() - begun
    if open_tickets and timeout_s is not None and waited_s >= timeout_s:
        ticket = next(iter(open_tickets))
        (status,) = ledger.statuses([ticket])
        raise ResultTimeoutError(ticket, status.stage.value, round(waited_s, 3))
