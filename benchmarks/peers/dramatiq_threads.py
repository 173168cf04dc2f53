"""A dramatiq actor that uploads, then sleeps between polls."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends.redis import RedisBackend
from redis import Redis

from benchmarks.peers import gemini

_URL = os.environ["BENCH_REDIS_URL"]
#: A wait for a result blocks at the server, beyond a client's own timeout of a few seconds.
_CLIENT = Redis.from_url(_URL, socket_timeout=None)

broker = RedisBroker(url=_URL)
broker.add_middleware(Results(backend=RedisBackend(client=_CLIENT)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def upload(path: str, mime_type: str, poll_s: float) -> dict[str, Any]:
    return gemini.upload(path, mime_type, poll_s)


def deliver(paths: list[str], mime_type: str, poll_s: float) -> list[dict[str, Any]]:
    """Enqueue all, and wait for the last first."""
    messages = [upload.send(path, mime_type, poll_s) for path in paths]
    return [message.get_result(block=True, timeout=120_000) for message in reversed(messages)]
