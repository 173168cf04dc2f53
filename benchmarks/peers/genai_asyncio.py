"""google-genai's asynchronous client, with a semaphore around each file."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

from benchmarks.peers import gemini


def deliver(paths: list[str], mime_type: str, poll_s: float) -> list[dict[str, Any]]:
    """Upload all of them, as many at once as the semaphore lets in."""

    async def all_of_them() -> list[dict[str, Any]]:
        slots = asyncio.Semaphore(gemini.SLOTS)

        async def one(path: str) -> dict[str, Any]:
            async with slots:
                return await gemini.upload_async(path, mime_type, poll_s)

        return await asyncio.gather(*map(one, paths))

    return _loop().run(all_of_them())


@cache
def _loop() -> asyncio.Runner:
    return asyncio.Runner()
