"""Changes of uploads, as they happen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from provider_uploads.ledger.connection import Connection
from provider_uploads.ledger.uploads import row_key


@contextmanager
def subscription(
    connection: Connection, tickets: Iterable[str]
) -> Iterator[Callable[[float], str | None]]:
    """Subscribe to the changes of uploads.

    Yields a function that waits so many seconds for one and returns its ticket, or None.
    """
    pubsub = connection.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    with connection.reached(), pubsub:
        pubsub.subscribe(*map(row_key, tickets))

        def wait(seconds: float) -> str | None:
            message = pubsub.get_message(timeout=seconds)
            return message["channel"].rpartition(":")[2] if message else None

        yield wait
