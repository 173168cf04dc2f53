"""One reader of changes: what it follows, and what it has not been told of yet."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from provider_uploads.errors import (
    InvalidRequestError,
    QueueUnavailableError,
    ResultTimeoutError,
)
from provider_uploads.schemas import UploadStatus

#: Fields that change by themselves.
_SECONDS: Final = {"queued_s": 0.0, "upload_s": 0.0, "processing_s": 0.0, "running_s": 0.0}


class Watch:
    """The uploads that one reader follows until all have ended; not thread-safe by itself."""

    def __init__(
        self, tickets: Iterable[str], timeout_s: float | None, heartbeat_s: float | None
    ) -> None:
        """Follow these uploads; the options are those of ``UploadQueue.events``."""
        for field, value in (("timeout_s", timeout_s), ("heartbeat_s", heartbeat_s)):
            if value is not None and not value >= 0:
                raise InvalidRequestError(field, repr(value), "must be zero or more seconds")
        self.open = dict.fromkeys(tickets)
        self.outage: QueueUnavailableError | None = None
        self._news: dict[str, UploadStatus] = {}
        self._told: dict[str, UploadStatus] = {}
        self._begun = self._beat = time.monotonic()
        self._timeout_s = timeout_s
        self._heartbeat_s = heartbeat_s

    def offer(self, status: UploadStatus) -> bool:
        """Take note of a status; return whether there is something new to tell."""
        ticket = status.ticket
        if ticket not in self.open:
            return False
        if status.stage.ended:
            del self.open[ticket]
        elif _same(status, self._news.get(ticket) or self._told.get(ticket)):
            return False
        self._news[ticket] = status
        return True

    def take(self) -> UploadStatus | None:
        """Return something new to tell; None if there is nothing."""
        if not self._news:
            return None
        ticket = next(iter(self._news))
        self._told[ticket] = self._news.pop(ticket)
        self._beat = time.monotonic()
        return self._told[ticket]

    @property
    def finished(self) -> bool:
        """Whether all has ended and been told."""
        return not (self.open or self._news)

    def beats(self) -> bool:
        """Whether a heartbeat is due; then the next one is due later."""
        now = time.monotonic()
        due = self._heartbeat_s is not None and now - self._beat >= self._heartbeat_s
        if due:
            self._beat = now
        return due

    def wait_s(self) -> float | None:
        """Return how long to wait for news at most; None: for ever. Raises when the time is up."""
        now = time.monotonic()
        waits = []
        if self._timeout_s is not None:
            waited_s = now - self._begun
            if waited_s >= self._timeout_s:
                ticket = next(iter(self.open))
                told = self._told[ticket]
                what = "upload" if type(told) is UploadStatus else "batch"
                late = ResultTimeoutError(ticket, told.stage.value, round(waited_s, 3), what)
                raise self.outage or late
            waits.append(self._timeout_s - waited_s)
        if self._heartbeat_s is not None:
            waits.append(max(self._beat + self._heartbeat_s - now, 0.0))
        return min(waits, default=None)


def _same(status: UploadStatus, other: UploadStatus | None) -> bool:
    # The fields themselves: every reader of an upload compares each of its changes.
    return other is not None and vars(status) | _SECONDS == vars(other) | _SECONDS
