"""The open uploads: those that have not ended, and ended ones whose file is to be deleted."""

from __future__ import annotations

from typing import cast

from provider_uploads.ledger.connection import Connection
from provider_uploads.ledger.upload_steps import OPEN_KEY, row_key
from provider_uploads.schemas import Stage


class OpenUploads:
    """The index that ``upload_write.lua`` keeps; raises QueueUnavailableError like the ledger."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._redis = connection.redis

    def unmoved(self, quiet_s: float, most: int = 10_000) -> list[str]:
        """Return the tickets that have not changed for ``quiet_s`` seconds, the oldest first."""
        with self._connection.reached():
            until = self._connection.now() - quiet_s
            keys = self._redis.zrangebyscore(OPEN_KEY, 0, until, start=0, num=most)
        prefix = row_key("")
        return [str(key).removeprefix(prefix) for key in keys]

    def oldest_queued(self, most: int = 10_000) -> tuple[str, float, str | None] | None:
        """Return ticket, seconds of waiting and note of the upload that is QUEUED for longest.

        Only the ``most`` uploads that have not changed for longest count; None if none is QUEUED.
        """
        with self._connection.reached():
            now = self._connection.now()
            keys = cast("list[str]", self._redis.zrange(OPEN_KEY, 0, most - 1))
            with self._redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hmget(key, "stage", "queued_at", "note")
                rows = pipe.execute(raise_on_error=False)  # one may be of the wrong type
        queued = [
            (float(row[1]), key.rpartition(":")[2], row[2])
            for key, row in zip(keys, rows, strict=True)
            if isinstance(row, list) and row[0] == Stage.QUEUED and row[1]
        ]
        if not queued:
            return None
        queued_at, ticket, note = min(queued)
        return ticket, now - queued_at, note

    def forget(self, ticket: str) -> None:
        """Take an upload out of the index."""
        with self._connection.reached():
            self._redis.zrem(OPEN_KEY, row_key(ticket))
