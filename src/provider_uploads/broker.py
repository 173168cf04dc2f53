"""What the broker holds: the tickets that some message, waiting or taken, still moves.

kombu keeps a queue as a Redis list and what workers hold as the values of a hash, under
``contract.KEY_PREFIX``. A message is JSON:

    {"headers": {"id": "<ticket>", "task": "provider_uploads.upload", …},
     "body": "<base64 of [args, kwargs, …]>", …}
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

from redis import Redis

from provider_uploads import contract

_PAGE = 1000


def held_tickets(redis: Redis, queues: Iterable[str]) -> set[str]:
    """Return the tickets of all messages in these queues and in workers' hands.

    Reads every message: about 10 µs each. One that moves from a queue to a worker while this
    reads is found in one place or the other, because the workers' part is read last.
    """
    found: set[str] = set()
    for queue in queues:
        for message in _waiting(redis, f"{contract.KEY_PREFIX}{queue}"):
            found.update(_tickets(message))
    for _, held in redis.hscan_iter(f"{contract.KEY_PREFIX}unacked", count=_PAGE):
        found.update(_tickets(json.loads(held)[0]))
    return found


def _waiting(redis: Redis, key: str) -> Iterator[dict[str, Any]]:
    # From the left, where messages come in: one that comes while we read is read twice, not never.
    start = 0
    while page := cast("list[str]", redis.lrange(key, start, start + _PAGE - 1)):
        yield from map(json.loads, page)
        start += _PAGE


def _tickets(message: dict[str, Any]) -> Iterator[str]:
    headers = message.get("headers") or {}
    task = headers.get("task")
    if task in {contract.UPLOAD, contract.POLL, contract.GENERATE}:
        yield headers["id"]
    elif task == contract.DELETE:
        (upload_id,), *_ = _body(message)
        yield upload_id
    elif task == contract.INGEST:
        (payloads, *question), *_ = _body(message)
        yield from (payload["upload_id"] for payload in payloads)
        yield from filter(None, question)


def _body(message: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(message["body"]))
