"""Redis's clock, which is the fleet's: what workers compare with each other is said in its time.

kombu and Celery take each machine's own: a worker ten minutes ahead takes every message of the
others for overdue, and its countdowns come ten minutes late elsewhere.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from functools import cache

from provider_uploads.errors import QueueUnavailableError
from provider_uploads.ledger.connection import Connection
from provider_uploads.settings import settings

#: Clocks drift by milliseconds in this time; one that is set is followed within it.
_MEASURED_EVERY_S = 30.0
#: Less is what a busy machine makes of a round trip, and harms nobody.
_WORTH_IT_S = 0.25


class RedisClock:
    """How far this machine's clock is ahead of Redis's; thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._ahead_s = 0.0
        self._due = 0.0

    def ahead_s(self) -> float:
        """Return the seconds; measured now and then, by one round trip."""
        if time.monotonic() >= self._due and self._lock.acquire(blocking=self._due == 0.0):
            try:
                if time.monotonic() >= self._due:
                    self._measure()
            finally:
                self._lock.release()
        return self._ahead_s

    def now(self) -> float:
        """Return the time on Redis's clock, in seconds since 1970."""
        return time.time() - self.ahead_s()

    def _measure(self) -> None:
        with suppress(QueueUnavailableError):  # what was measured last still holds
            before = time.time()
            now = self._connection.now()
            ahead_s = (before + time.time()) / 2 - now
            self._ahead_s = ahead_s if abs(ahead_s) > _WORTH_IT_S else 0.0
        self._due = time.monotonic() + _MEASURED_EVERY_S


@cache
def redis_clock() -> RedisClock:
    """Return this process's."""
    return RedisClock(Connection(settings().redis_url, timeout_s=settings().redis_timeout_s))
