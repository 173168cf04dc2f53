"""Streams of an event loop on their way to the staging place."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from provider_uploads.client.arguments import StagedUpload
from provider_uploads.sources.staging import BLOCK_BYTES, NewCopy, checked_block

T = TypeVar("T")


class AsyncReadable(Protocol):
    """What is read asynchronously, such as Starlette's ``UploadFile``."""

    async def read(self, size: int = ..., /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""


async def copied(staged: StagedUpload, stream: Any) -> int:
    """Copy a stream, a block at a time; return its size in bytes.

    Whatever is raised, nothing of the copy stays. Files are written in threads, which are held for
    one block only: a browser may take an hour over its bytes.
    """
    copy = await _to_its_end(staged.begin, NewCopy.discard)
    try:
        async for block in _gathered(_blocks(stream)):
            await _to_its_end(partial(copy.write, block))
        return await _to_its_end(copy.finish)
    except BaseException:  # a browser that leaves cancels it
        await asyncio.shield(asyncio.to_thread(copy.discard))
        raise


async def _to_its_end(call: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """Call in a thread; when cancelled, wait for its end first: nobody else may touch the file."""
    done = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        with suppress(Exception):
            result = await done
            if undo is not None:
                await asyncio.to_thread(undo, result)
        raise


async def _gathered(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield larger blocks: a server hands over 64 KiB at most, and each goes to a thread."""
    waiting: list[bytes] = []
    size = 0
    async for block in blocks:
        waiting.append(block)
        size += len(block)
        if size >= BLOCK_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


async def _blocks(stream: Any) -> AsyncIterator[bytes]:
    """Yield a stream's bytes: of an asynchronous iterator, or of what has ``read``."""
    read = getattr(stream, "read", None)
    if read is None:
        iterate = getattr(stream, "__aiter__", None)
        if iterate is None:
            checked_block(stream, None)
        async for block in iterate():  # type: ignore[misc]
            yield checked_block(stream, block)
        return
    while True:
        block = await _read(read)
        if not (piece := checked_block(stream, block)):
            return
        yield piece


async def _read(read: Callable[[int], Any]) -> Any:
    if inspect.iscoroutinefunction(read):
        return await read(BLOCK_BYTES)
    block = await asyncio.to_thread(read, BLOCK_BYTES)
    # What is asynchronous without saying so, such as a wrapper, has only made something to await.
    return await block if isinstance(block, Awaitable) else block
