"""A worker's slots, and how many of them may be occupied by waiting.

Tasks that wait for a permit may occupy a part of the slots and no more. The others of their queue
are retried later, and their queue is skipped meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from provider_uploads.fleet.limits import Permit

#: Parts of a worker's slots that may wait for permits: from one queue, and from all.
_QUEUE_SHARE: Final = 0.25
_TOTAL_SHARE: Final = 0.5
#: Waits that last longer than this, together or each, make a queue skipped: longer than one
#: blocking fetch from the broker, which takes a second.
_LONG_S: Final = 2.0


class Slots:
    """The slots of this process that wait for a permit or for storage; thread-safe.

    ``count`` is None where the slots are other processes: nobody knows then who waits, every task
    keeps its slot, and no queue is skipped.
    """

    def __init__(self, count: int | None) -> None:
        self.count = count
        self._lock = threading.Lock()
        self._may_wait: dict[str, set[Waiter]] = {}
        self._permits: dict[str, dict[Waiter, Permit]] = {}
        self._paused_until: dict[str, float] = {}
        self._retries: dict[str, list[float]] = {}
        self._remote = 0

    @contextmanager
    def reading_remotely(self, share: float) -> Iterator[bool]:
        """Yield whether a task may read from a remote source while the block runs.

        At most ``share`` of the slots may, and always one: a source is somebody else's server, and
        slow ones must leave slots for others.
        """
        with self._lock:
            free = self.count is None or self._remote < max(1, int(self.count * share))
            self._remote += free
        try:
            yield free
        finally:
            with self._lock:
                self._remote -= free

    @contextmanager
    def waiter(self, queue: str) -> Iterator[Waiter]:
        """Count a task while the block runs, as far as its waiter says that it waits."""
        waiter = Waiter(self, queue)
        try:
            yield waiter
        finally:
            with self._lock:
                self._may_wait.get(queue, set()).discard(waiter)
                self._permits.get(queue, {}).pop(waiter, None)

    def may_wait(self, queue: str, waiter: Waiter) -> bool:
        """Whether a task may keep its slot for as long as it takes; once it may, it may."""
        with self._lock:
            waiting = self._may_wait.setdefault(queue, set())
            if waiter in waiting or self.count is None:
                return True
            total = sum(map(len, self._may_wait.values()))
            free = total < int(self.count * _TOTAL_SHARE) and len(waiting) < self._queue_share()
            if free:
                waiting.add(waiter)
            return free

    def waits_for(self, queue: str, waiter: Waiter, permit: Permit) -> None:
        """Record what a task that keeps its slot waits for."""
        with self._lock:
            self._permits.setdefault(queue, {})[waiter] = permit

    def pause(self, queue: str, seconds: float) -> None:
        """Skip a queue for a while: one of its tasks gave its slot away."""
        with self._lock:
            until = time.monotonic() + seconds
            self._paused_until[queue] = max(self._paused_until.get(queue, 0.0), until)

    def retried(self, queue: str, seconds: float) -> None:
        """Record a retry; as many as there are slots make their queue skipped until then."""
        with self._lock:
            if self.count is not None:
                self._retries.setdefault(queue, []).append(time.monotonic() + seconds)

    def skip(self, queue: str) -> bool:
        """Whether this worker takes nothing from a queue for now."""
        if self.count is None:
            return False
        now = time.monotonic()
        with self._lock:
            permits = [*self._permits.get(queue, {}).values()]
            retries = self._retries[queue] = [at for at in self._retries.get(queue, []) if at > now]
            paused = self._paused_until.get(queue, 0.0) > now
        if paused or len(retries) >= self.count:
            return True
        if len(permits) < self._queue_share():
            return False
        one_after_another_s = len(permits) * max(permit.interval_s for permit in permits)
        return max(one_after_another_s, min(permit.wait_s for permit in permits)) >= _LONG_S

    def _queue_share(self) -> int:
        return max(1, int((self.count or 0) * _QUEUE_SHARE))


class Waiter:
    """One task that may have to wait."""

    def __init__(self, slots: Slots, queue: str) -> None:
        self._slots = slots
        self._queue = queue

    def may_wait(self) -> bool:
        """Whether to wait here, however long."""
        return self._slots.may_wait(self._queue, self)

    def waits_for(self, permit: Permit) -> None:
        """Record what for."""
        self._slots.waits_for(self._queue, self, permit)


#: This process's. A worker's slots are counted when it is ready.
slots = Slots(count=None)
