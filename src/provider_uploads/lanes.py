"""Lanes: a profile's queues for single uploads, for those that came many at once, for questions.

Workers take from all lanes in turn, so ten thousand files of one profile are no queue for the one
file of another. Tasks that wait for a turn under a rate limit may hold a part of a worker's slots
and no more; the others of their lane come back later, and their lane is left alone meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from kombu.utils.scheduling import round_robin_cycle

from provider_uploads import contract
from provider_uploads.contract import Lane
from provider_uploads.ledger import Ledger
from provider_uploads.limits import Turn
from provider_uploads.profiles import DEFAULT_PROFILE

#: A profile whose workers have not been seen for so long has no lane: its uploads take the default
#: one, which every worker serves, and the worker says what is missing.
SERVED_S: Final = 3600

#: Parts of a worker's slots that may wait for turns: those of one lane, and of all.
_LANE_WAITS: Final = 0.25
_ALL_WAIT: Final = 0.5
#: A wait that is longer, or that takes longer one after another, closes a lane: longer than the
#: second for which a worker that listens to the other lanes does not listen to this one.
_LONG_S: Final = 2.0

_KNOWN = f"{contract.KEY_PREFIX}lanes"


class Lanes:
    """Who serves what, in a ledger's Redis; raises QueueUnavailableError as the ledger does."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def serve(self, profiles: Iterable[str]) -> None:
        """Say that a worker serves the lanes of these profiles."""
        with self._ledger.reached(), self._ledger.redis.pipeline(transaction=False) as pipe:
            for profile in profiles:
                pipe.sadd(_KNOWN, profile)
                pipe.set(_served(profile), "1", ex=SERVED_S)
            pipe.execute()

    def queue_of(self, profile: str, lane: Lane = Lane.SINGLE) -> str:
        """Return the queue for a lane's messages; a round trip for any but the default profile."""
        if profile != DEFAULT_PROFILE:
            with self._ledger.reached():
                served = self._ledger.redis.exists(_served(profile))
            profile = profile if served else DEFAULT_PROFILE
        return contract.transfer_queue(profile, lane)

    def queues(self) -> list[str]:
        """Return all queues that may hold a message."""
        with self._ledger.reached():
            known = {DEFAULT_PROFILE, *map(str, self._ledger.redis.smembers(_KNOWN))}
        return [*transfer_queues(known), contract.CONTROL_QUEUE]


def transfer_queues(profiles: Iterable[str]) -> list[str]:
    """Return the queues of these profiles' lanes."""
    return [contract.transfer_queue(profile, lane) for profile in sorted(profiles) for lane in Lane]


def _served(profile: str) -> str:
    return f"{contract.KEY_PREFIX}lane:{profile}"


class Waiting:
    """The tasks of this process that wait for a turn or for room, by lane; thread-safe.

    ``slots`` is None where the slots are other processes: nobody knows then who waits, every task
    holds its slot, and no lane is full.
    """

    def __init__(self, slots: int | None) -> None:
        self.slots = slots
        self._lock = threading.Lock()
        self._stay: dict[str, set[Waiter]] = {}
        self._turns: dict[str, dict[Waiter, Turn]] = {}
        self._closed: dict[str, float] = {}
        self._away: dict[str, list[float]] = {}

    @contextmanager
    def of(self, queue: str) -> Iterator[Waiter]:
        """Count a task while the block runs, as far as its waiter says that it waits."""
        waiter = Waiter(self, queue)
        try:
            yield waiter
        finally:
            with self._lock:
                self._stay.get(queue, set()).discard(waiter)
                self._turns.get(queue, {}).pop(waiter, None)

    def may_stay(self, queue: str, waiter: Waiter) -> bool:
        """Whether a task may hold its slot for as long as it takes; once it may, it may."""
        with self._lock:
            stay = self._stay.setdefault(queue, set())
            if waiter in stay or self.slots is None:
                return True
            all_who_stay = sum(map(len, self._stay.values()))
            free = all_who_stay < int(self.slots * _ALL_WAIT) and len(stay) < self._of_a_lane()
            if free:
                stay.add(waiter)
            return free

    def waits_for(self, queue: str, waiter: Waiter, turn: Turn) -> None:
        """Note what a task that holds its slot waits for."""
        with self._lock:
            self._turns.setdefault(queue, {})[waiter] = turn

    def close(self, queue: str, seconds: float) -> None:
        """Take nothing from a lane for a while: one of its tasks gave its slot away."""
        with self._lock:
            until = time.monotonic() + seconds
            self._closed[queue] = max(self._closed.get(queue, 0.0), until)

    def away(self, queue: str, seconds: float) -> None:
        """Note that a task of a lane comes back later; as many as there are slots close it."""
        with self._lock:
            if self.slots is not None:
                self._away.setdefault(queue, []).append(time.monotonic() + seconds)

    def full(self, queue: str) -> bool:
        """Whether a lane has enough of this worker."""
        if self.slots is None:
            return False
        now = time.monotonic()
        with self._lock:
            turns = [*self._turns.get(queue, {}).values()]
            away = self._away[queue] = [at for at in self._away.get(queue, []) if at > now]
            closed = self._closed.get(queue, 0.0) > now
        if closed or len(away) >= self.slots:
            return True
        if len(turns) < self._of_a_lane():
            return False
        one_after_another_s = len(turns) * max(turn.interval_s for turn in turns)
        return max(one_after_another_s, min(turn.wait_s for turn in turns)) >= _LONG_S

    def _of_a_lane(self) -> int:
        return max(1, int((self.slots or 0) * _LANE_WAITS))


class Waiter:
    """One task that may have to wait."""

    def __init__(self, waiting: Waiting, queue: str) -> None:
        self._waiting = waiting
        self._queue = queue

    def may_stay(self) -> bool:
        """Whether to wait here, however long."""
        return self._waiting.may_stay(self._queue, self)

    def waits_for(self, turn: Turn) -> None:
        """Say what for."""
        self._waiting.waits_for(self._queue, self, turn)


#: This process's. A worker's slots are known when it is ready.
waiting = Waiting(slots=None)


class LaneCycle(round_robin_cycle):  # type: ignore[type-arg]  # generic in stubs only
    """The order in which kombu asks Redis for messages: in turn, without the lanes that are full.

    Named in the transport option ``queue_order_strategy``.
    """

    def consume(self, n: int) -> list[str]:  # type: ignore[override]  # kombu returns lists
        """Return the queues to ask next."""
        return [queue for queue in super().consume(n) if not waiting.full(queue)]
