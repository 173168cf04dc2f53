"""What the broker holds: the tickets that some message, in a queue or at a worker, still moves.

kombu keeps a queue as a Redis list, and what workers hold as the values of a hash, under
``protocol.KEY_PREFIX``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

from redis import Redis

from provider_uploads import protocol
from provider_uploads.messages import tickets_of

_PAGE = 1000


def held_tickets(redis: Redis, queues: Iterable[str]) -> set[str]:
    """Return the tickets of all messages in these queues and in workers' hands.

    Reads every message: about 10 µs each. One that moves from a queue to a worker while this
    reads is found in one place or the other, because the workers' part is read last.
    """
    found: set[str] = set()
    for queue in queues:
        for message in _waiting(redis, f"{protocol.KEY_PREFIX}{queue}"):
            found.update(tickets_of(message))
    for _, held in redis.hscan_iter(f"{protocol.KEY_PREFIX}unacked", count=_PAGE):
        found.update(tickets_of(_message(held, held=True)))
    return found


def _waiting(redis: Redis, key: str) -> Iterator[Any]:
    # From the left, where messages come in: one that comes while we read is read twice, not never.
    start = 0
    while page := cast("list[str]", redis.lrange(key, start, start + _PAGE - 1)):
        yield from map(_message, page)
        start += _PAGE


def _message(text: str, *, held: bool = False) -> Any:
    """Return a message; None for what is none."""
    try:
        found = json.loads(text)
        return found[0] if held else found
    except (ValueError, LookupError, TypeError):
        return None
