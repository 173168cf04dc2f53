"""Dead letters: what came out of a queue, or would not go back into one, and nobody can read.

They are kept in Redis for somebody to look at, the newest thousand of them:

    LPUSH provider_uploads:dead_letters        {"at": …, "queue": "transfer", "reason": …, …}
    INCR  provider_uploads:dead_letters_total
"""

from __future__ import annotations

import time
from typing import Final, cast

from provider_uploads import protocol
from provider_uploads.ledger.connection import Connection
from provider_uploads.schemas import Record

_KEY = f"{protocol.KEY_PREFIX}dead_letters"
_TOTAL_KEY = f"{_KEY}_total"

#: So many are kept, and of each so much: 16 MB at most.
MOST: Final = 1000
MOST_BYTES: Final = 16 * 1024


class DeadLetter(Record):
    """One of them. ``item`` may hold whatever its sender wrote, secrets included."""

    #: Seconds since 1970.
    at: float
    queue: str
    reason: str
    #: Its first 16 KiB; what is not UTF-8 is escaped.
    item: str
    size_bytes: int


class DeadLetters:
    """The dead letters in one Redis; raises QueueUnavailableError as the ledger does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._redis = connection.redis

    def put(self, queue: str, item: bytes, reason: str) -> None:
        """Keep an item that was taken from a queue."""
        letter = DeadLetter(
            at=time.time(),
            queue=queue,
            reason=reason,
            item=item[:MOST_BYTES].decode(errors="backslashreplace"),
            size_bytes=len(item),
        )
        with self._connection.reached(), self._redis.pipeline() as pipe:
            pipe.lpush(_KEY, letter.model_dump_json())
            pipe.ltrim(_KEY, 0, MOST - 1)
            pipe.incr(_TOTAL_KEY)
            pipe.execute()

    def count(self) -> int:
        """Return how many there have been since they were last dropped."""
        with self._connection.reached():
            return int(cast("str | None", self._redis.get(_TOTAL_KEY)) or 0)

    def read(self, most: int = MOST) -> list[DeadLetter]:
        """Return those that are kept, the newest first."""
        with self._connection.reached():
            kept = cast("list[str]", self._redis.lrange(_KEY, 0, most - 1))
        return [DeadLetter.model_validate_json(one) for one in kept]

    def drop(self) -> None:
        """Forget all of them."""
        with self._connection.reached():
            self._redis.delete(_KEY, _TOTAL_KEY)
