"""What a test sees of an event loop: for how long it was kept from its work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_EVERY_S = 0.005


@asynccontextmanager
async def watched(
    clock: Callable[[], float] = time.perf_counter,
) -> AsyncIterator[list[float]]:
    """Measure the loop while the block runs: afterwards the list holds its longest step, in s.

    By ``time.thread_time`` only its own computing counts, however busy the machine is.
    """
    longest = [0.0]

    async def watch() -> None:
        while True:
            begun = clock()
            await asyncio.sleep(_EVERY_S)
            longest[0] = max(longest[0], clock() - begun)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(_EVERY_S * 2)
    try:
        yield longest
    finally:
        await asyncio.sleep(_EVERY_S * 2)
        watching.cancel()
