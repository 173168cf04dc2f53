"""A profile's transfer queues: for single uploads, for many at once, and for questions.

Workers take from all queues in turn, so one file of a profile does not wait behind ten thousand of
another. Which profiles some worker serves is kept in Redis.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from provider_uploads import protocol
from provider_uploads.ledger.connection import Connection
from provider_uploads.ledger.steps import Steps, reply
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.protocol import PriorityQueue

#: A profile whose workers have not been seen for so long has no queues: its uploads take the
#: default ones, which every worker serves, and the worker says what is missing.
SERVED_S: Final = 3600

_KNOWN = f"{protocol.KEY_PREFIX}lanes"


def queue_of(profile: str, kind: PriorityQueue = PriorityQueue.SINGLE) -> Steps[str]:
    """Return the queue for a message; a round trip for any but the default profile."""
    if profile != DEFAULT_PROFILE:
        served = yield from reply(("EXISTS", _served(profile)))
        profile = profile if served else DEFAULT_PROFILE
    return protocol.transfer_queue(profile, kind)


class Queues:
    """Who serves what, in Redis; raises QueueUnavailableError as the ledger does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._redis = connection.redis

    def serve(self, profiles: Iterable[str]) -> None:
        """Record that a worker serves the queues of these profiles."""
        with self._connection.reached(), self._redis.pipeline(transaction=False) as pipe:
            for profile in profiles:
                pipe.sadd(_KNOWN, profile)
                pipe.set(_served(profile), "1", ex=SERVED_S)
            pipe.execute()

    def queue_of(self, profile: str, kind: PriorityQueue = PriorityQueue.SINGLE) -> str:
        """Return the queue for a message; a round trip for any but the default profile."""
        return self._connection.run(queue_of(profile, kind))

    def queues(self) -> list[str]:
        """Return all queues that may hold a message."""
        with self._connection.reached():
            known = {DEFAULT_PROFILE, *map(str, self._redis.smembers(_KNOWN))}
        return [*transfer_queues(known), protocol.CONTROL_QUEUE]


def transfer_queues(profiles: Iterable[str]) -> list[str]:
    """Return the transfer queues of these profiles."""
    return [
        protocol.transfer_queue(profile, kind)
        for profile in sorted(profiles)
        for kind in PriorityQueue
    ]


def _served(profile: str) -> str:
    return f"{protocol.KEY_PREFIX}lane:{profile}"
