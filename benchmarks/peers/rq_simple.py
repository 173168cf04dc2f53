"""An rq job that uploads, then sleeps between polls: a worker process does one at a time."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from redis import Redis
from rq import Queue

from benchmarks.peers import gemini


def upload(path: str, mime_type: str, poll_s: float) -> dict[str, Any]:
    return gemini.upload(path, mime_type, poll_s)


def deliver(paths: list[str], mime_type: str, poll_s: float) -> list[dict[str, Any]]:
    """Enqueue all, and wait for the last first."""
    jobs = [_queue().enqueue(upload, path, mime_type, poll_s) for path in paths]
    done = []
    for job in reversed(jobs):
        result = job.latest_result(timeout=120)
        if result is None or result.type is not result.Type.SUCCESSFUL:
            raise RuntimeError(f"{job.args[0]} failed: {result and result.exc_string}")
        done.append(result.return_value)
    return done


@cache
def _queue() -> Queue:
    # A wait for a result blocks at the server, beyond the client's own timeout of a few seconds.
    url = os.environ["BENCH_REDIS_URL"]
    return Queue(connection=Redis.from_url(url, socket_timeout=None))
