"""``python -m benchmarks.web_app``: an asyncio app in a process of its own, ours or bare Redis.

submit KIND URL PATH COUNT AT_ONCE    prints the milliseconds of each request as JSON
streams KIND URL TICKET COUNT         prints "idle", reads a line, prints "open", then "done"
                                      when all streams have seen the upload's end
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis

from provider_uploads import AsyncUploadQueue
from provider_uploads.ledger.connection import closed
from provider_uploads.ledger.upload_steps import row_key

#: What a submit writes: the row's request, and the message.
_ROW, _MESSAGE = "r" * 400, "m" * 1300


async def submit(kind: str, url: str, path: str, count: str, at_once: str) -> None:
    """Serve ``count`` requests, ``at_once`` of them under way at any time."""
    queue, client = AsyncUploadQueue(url), Redis.from_url(url, max_connections=2000)

    async def ours() -> None:
        await queue.submit(path)

    async def bare() -> None:
        os.stat(path)  # noqa: PTH116 - the least that is known of a file
        async with client.pipeline(transaction=False) as pipe:
            pipe.hset(f"bare:{uuid.uuid4().hex}", mapping={"stage": "QUEUED", "request": _ROW})
            pipe.lpush("bare", _MESSAGE)
            await pipe.execute()

    request: Callable[[], Awaitable[None]] = ours if kind == "ours" else bare
    # The connections, and what the first request loads.
    await request()
    await asyncio.gather(*(request() for _ in range(int(at_once))))
    times: list[float] = []
    left = iter(range(int(count)))

    async def visitor() -> None:
        for _ in left:
            begun = time.perf_counter()
            await request()
            times.append((time.perf_counter() - begun) * 1000)

    await asyncio.gather(*(visitor() for _ in range(int(at_once))))
    print(json.dumps(times))
    await queue.close()
    await closed(client)


async def streams(kind: str, url: str, ticket: str, count: str) -> None:
    """Hold ``count`` streams of one upload open until it has ended."""
    queue, client = AsyncUploadQueue(url), Redis.from_url(url, max_connections=2000)
    pool = BlockingConnectionPool.from_url(url, decode_responses=True, max_connections=32)
    rows: Any = Redis(connection_pool=pool)
    seen: list[asyncio.Event] = [asyncio.Event() for _ in range(int(count))]

    async def ours(first: asyncio.Event) -> None:
        async for _ in queue.events([ticket]):
            first.set()

    async def bare(first: asyncio.Event) -> None:
        pubsub: Any = client.pubsub()
        await pubsub.subscribe(row_key(ticket))
        async for message in pubsub.listen():
            row = await rows.hgetall(row_key(ticket))
            first.set()
            if message["type"] == "message" and row["stage"] == "CANCELLED":
                break
        await closed(pubsub)

    await queue.status(ticket)
    await rows.ping()
    await told("idle")
    reader = ours if kind == "ours" else bare
    async with asyncio.TaskGroup() as readers:
        for first in seen:
            readers.create_task(reader(first))
        await asyncio.gather(*(first.wait() for first in seen))
        print("open", flush=True)
    print("done", flush=True)
    await queue.close()
    await closed(rows)
    await pool.disconnect()
    await closed(client)


async def told(text: str) -> None:
    """Say something and wait for a line."""
    print(text, flush=True)
    await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    _, what, *given = sys.argv
    asyncio.run(submit(*given) if what == "submit" else streams(*given))
