"""Lanes: a queue for each profile's single uploads, and one for those that came many at once.

Workers take from all lanes in turn, so ten thousand files of one profile are no queue for the one
file of another. A lane whose uploads fill slots only to wait for their turn under a rate limit is
left alone until they have had it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from kombu.utils.scheduling import round_robin_cycle

from provider_uploads import contract
from provider_uploads.ledger import Ledger
from provider_uploads.limits import Turn
from provider_uploads.profiles import DEFAULT_PROFILE

#: A profile whose workers have not been seen for so long has no lane: its uploads take the default
#: one, which every worker serves, and the worker says what is missing.
SERVED_S: Final = 3600

#: A lane is full when this part of a worker's slots waits for turns…
_SLOTS_WAITING: Final = 0.25
#: …that are this long away, or take this long one after another: longer than the second for which
#: a worker that listens to the other lanes does not listen to this one.
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

    def queue_of(self, profile: str, *, bulk: bool = False) -> str:
        """Return the queue for an upload; a round trip for any but the default profile."""
        if profile != DEFAULT_PROFILE:
            with self._ledger.reached():
                served = self._ledger.redis.exists(_served(profile))
            profile = profile if served else DEFAULT_PROFILE
        return contract.transfer_queue(profile, bulk=bulk)

    def queues(self) -> list[str]:
        """Return all queues that may hold a message."""
        with self._ledger.reached():
            known = {DEFAULT_PROFILE, *map(str, self._ledger.redis.smembers(_KNOWN))}
        return [*transfer_queues(known), contract.CONTROL_QUEUE]


def transfer_queues(profiles: Iterable[str]) -> list[str]:
    """Return the queues of these profiles' lanes."""
    return [
        contract.transfer_queue(profile, bulk=bulk)
        for profile in sorted(profiles)
        for bulk in (False, True)
    ]


def _served(profile: str) -> str:
    return f"{contract.KEY_PREFIX}lane:{profile}"


class Waiting:
    """The tasks of this process that hold a slot and wait for a turn, by lane; thread-safe."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._lock = threading.Lock()
        self._turns: dict[str, dict[object, Turn]] = {}

    @contextmanager
    def of(self, queue: str) -> Iterator[Waiter]:
        """Count a task as waiting while the block runs and its waiter has a turn to wait for."""
        waiter = Waiter(self, queue)
        try:
            yield waiter
        finally:
            waiter.waits_for(None)

    def note(self, queue: str, waiter: object, turn: Turn | None) -> None:
        """Note what a waiter waits for; None: nothing."""
        with self._lock:
            turns = self._turns.setdefault(queue, {})
            if turn is None:
                turns.pop(waiter, None)
            else:
                turns[waiter] = turn

    def full(self, queue: str) -> bool:
        """Whether a lane has enough of this worker's slots."""
        with self._lock:
            turns = [*self._turns.get(queue, {}).values()]
        if len(turns) < max(1, self.slots * _SLOTS_WAITING):
            return False
        one_after_another_s = len(turns) * max(turn.interval_s for turn in turns)
        return max(one_after_another_s, min(turn.wait_s for turn in turns)) >= _LONG_S


class Waiter:
    """One task that waits."""

    def __init__(self, waiting: Waiting, queue: str) -> None:
        self._waiting = waiting
        self._queue = queue

    def waits_for(self, turn: Turn | None) -> None:
        """Say what for; None: for nothing any more."""
        self._waiting.note(self._queue, self, turn)


#: This process's. A worker's slots are known when it is ready.
waiting = Waiting(slots=1)


class LaneCycle(round_robin_cycle):  # type: ignore[type-arg]  # generic in stubs only
    """The order in which kombu asks Redis for messages: in turn, without the lanes that are full.

    Named in the transport option ``queue_order_strategy``.
    """

    def consume(self, n: int) -> list[str]:  # type: ignore[override]  # kombu returns lists
        """Return the queues to ask next."""
        return [queue for queue in super().consume(n) if not waiting.full(queue)]
