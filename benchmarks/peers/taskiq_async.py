"""A taskiq task on the asynchronous SDK, over the broker that acknowledges: Redis streams."""

from __future__ import annotations

import asyncio
import os
from functools import cache
from typing import Any

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers import gemini

_URL = os.environ["BENCH_REDIS_URL"]

broker = RedisStreamBroker(url=_URL).with_result_backend(RedisAsyncResultBackend(redis_url=_URL))


@broker.task
async def upload(path: str, mime_type: str, poll_s: float) -> dict[str, Any]:
    return await gemini.upload_async(path, mime_type, poll_s)


def deliver(paths: list[str], mime_type: str, poll_s: float) -> list[dict[str, Any]]:
    """Enqueue all, and wait for the last first."""

    async def all_of_them() -> list[dict[str, Any]]:
        tasks = [await upload.kiq(path, mime_type, poll_s) for path in paths]
        waited = [await task.wait_result(timeout=120) for task in reversed(tasks)]
        for result in waited:
            result.raise_for_error()
        return [result.return_value for result in waited]

    return _loop().run(all_of_them())


@cache
def _loop() -> asyncio.Runner:
    runner = asyncio.Runner()
    runner.run(broker.startup())
    return runner
