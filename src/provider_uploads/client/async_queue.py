"""The queue for web apps with an event loop: the operations of ``UploadQueue``, awaited."""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple, Self, TypeVar, Unpack, overload
from weakref import WeakKeyDictionary

from provider_uploads.client import arguments
from provider_uploads.client.async_batch_queue import AsyncBatchQueue
from provider_uploads.client.async_event_stream import AsyncChangeFeed, AsyncEventStream
from provider_uploads.client.async_stream import AsyncReadable, copied
from provider_uploads.client.operations import Operations
from provider_uploads.client.queue import UploadQueue
from provider_uploads.client.submission import SubmitOptions, shows_options, submission_for
from provider_uploads.ledger import batch_steps
from provider_uploads.ledger.connection import AsyncConnection
from provider_uploads.ledger.steps import Steps
from provider_uploads.ledger.upload_steps import Page
from provider_uploads.questions import Answer, Question
from provider_uploads.schemas import Delivery, Stage, UploadResult, UploadStatus
from provider_uploads.settings import settings
from provider_uploads.sources.staging import Readable
from provider_uploads.sweep import Finding

T = TypeVar("T")

#: Beyond so many uploads, a call computes in a thread.
_MANY = 100


class _OfLoop(NamedTuple):
    """What belongs to one event loop."""

    connection: AsyncConnection
    changes: AsyncChangeFeed


class AsyncUploadQueue(AsyncBatchQueue):
    """A queue of uploads in one Redis for asyncio; made once per process.

    It takes and raises what ``UploadQueue`` does, call by call, and no call blocks the event loop:
    Redis is reached by redis.asyncio, and files are looked at and copied in threads. Each event
    loop gets connections of its own. A call that is cancelled may have been carried out; a
    cancelled ``result`` or ``events`` changes nothing.
    """

    def __init__(self, redis_url: str | None = None) -> None:
        """Use ``redis_url``, or ``PROVIDER_UPLOADS_REDIS_URL``; nothing is connected yet."""
        self._url = arguments.server(redis_url)
        self._operations = Operations()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = WeakKeyDictionary()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the event streams of this event loop and close its connections."""
        found = self._loops.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found.changes.close()
            await found.connection.close()

    aclose = close  # for contextlib.aclosing

    # -- submitting ----------------------------------------------------------------------------

    @shows_options
    async def submit(self, path: str | os.PathLike[str], **options: Unpack[SubmitOptions]) -> str:
        """Queue one file or URL; return its ticket. See ``UploadQueue.submit``."""
        submission = await asyncio.to_thread(submission_for, path, **options)
        return await self._run(self._operations.submit(submission))

    @shows_options
    async def submit_stream(
        self,
        fileobj: Readable | AsyncReadable | AsyncIterator[bytes],
        *,
        filename: str | None = None,
        max_bytes: int | None = None,
        **options: Unpack[SubmitOptions],
    ) -> str:
        """Copy a stream to ``PROVIDER_UPLOADS_STAGING``, queue the copy, return the ticket.

        The stream is any asynchronous iterator of bytes, such as ``request.stream()``; what has an
        asynchronous ``read(size)``, such as Starlette's ``UploadFile``; or a binary file. No thread
        is held while it waits for bytes. Otherwise as ``UploadQueue.submit_stream``, and nothing
        stays when the call is cancelled while the copy is made.
        """
        staged = await asyncio.to_thread(arguments.staged, fileobj, filename, max_bytes, options)
        submission = staged.sized(await copied(staged, fileobj))
        try:
            return await self._run(self._operations.submit(submission))
        except Exception as error:  # when it is cancelled now, it may have been queued
            await asyncio.to_thread(staged.remove_after, error)
            raise

    @shows_options
    async def submit_many(
        self, paths: Iterable[str | os.PathLike[str]], **options: Unpack[SubmitOptions]
    ) -> list[str]:
        """Queue many files in one message; return their tickets. See ``UploadQueue.submit_many``.

        Cancelled half-way, it may leave uploads that no message moves: the sweep submits them.
        """
        submissions = await asyncio.to_thread(arguments.many, paths, options)
        if not submissions:
            return []
        steps = self._operations.submit_many(submissions)
        return await self._run(steps, many=len(submissions) > _MANY)

    async def ask(
        self,
        prompt: str,
        paths: Iterable[str | os.PathLike[str]] = (),
        *,
        tickets: Sequence[str] = (),
        **options: Any,
    ) -> str:
        """Queue one question over files; return its ticket. See ``UploadQueue.ask``."""
        asked = await asyncio.to_thread(arguments.asked, prompt, paths, tickets, **options)
        many = len(asked.question.uploads) > _MANY
        return await self._run(self._operations.ask(*asked), many=many)

    # -- changing one's mind -------------------------------------------------------------------

    async def cancel(self, ticket: str) -> Stage:
        """Stop an upload and have its file deleted; see ``UploadQueue.cancel``."""
        return await self._run(self._operations.cancel(ticket))

    async def delete(self, ticket: str) -> Stage:
        """Have an ended upload's file deleted; see ``UploadQueue.delete``."""
        return await self._run(self._operations.delete(ticket))

    # -- sweeping ------------------------------------------------------------------------------

    async def sweep(
        self, *, dry_run: bool = True, unknown: bool = False, quiet_s: float = 20.0
    ) -> list[Finding]:
        """Find what nobody moves any more; see ``UploadQueue.sweep``. Runs in a thread."""

        def sweep() -> list[Finding]:
            with UploadQueue(self._url) as queue:
                return queue.sweep(dry_run=dry_run, unknown=unknown, quiet_s=quiet_s)

        return await asyncio.to_thread(sweep)

    # -- asking --------------------------------------------------------------------------------

    async def question(self, ticket: str) -> Question:
        """Return a question; see ``UploadQueue.question``."""
        return await self._run(self._operations.question(ticket))

    async def answer(self, ticket: str, *, timeout_s: float | None = None) -> Answer:
        """Wait for the answer to a question; see ``UploadQueue.answer``."""
        return await self._run(self._operations.answer(ticket, timeout_s))

    async def deliveries(self, ticket: str) -> list[Delivery]:
        """Return whom an upload or a question tells of its end, and how that fares."""
        return await self._run(self._operations.deliveries(ticket))

    async def status(self, ticket: str) -> UploadStatus:
        """Return what is known about an upload; raises UnknownTicketError."""
        return (await self.statuses([ticket]))[0]

    async def statuses(self, tickets: Sequence[str]) -> list[UploadStatus]:
        """Return the statuses of many uploads, in order."""
        return await self._run(self._operations.statuses(tickets), many=len(tickets) > _MANY)

    async def list(
        self,
        *,
        owner: str | None = None,
        stage: Stage | str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Return uploads of the last three days, the newest first; see ``UploadQueue.list``."""
        # What one stage leaves out is read too, so it may be many whatever the limit.
        steps = self._operations.page(owner, stage, limit, cursor)
        return await self._run(steps, many=stage is not None or limit > _MANY)

    async def result(self, ticket: str, *, timeout_s: float | None = None) -> UploadResult:
        """Wait until an upload has ended and return its result; see ``UploadQueue.result``."""
        return await self._run(self._operations.result(ticket, timeout_s))

    @overload
    def events(
        self,
        tickets: Sequence[str],
        *,
        timeout_s: float | None = None,
        heartbeat_s: None = None,
    ) -> AsyncEventStream[UploadStatus]: ...

    @overload
    def events(
        self, tickets: Sequence[str], *, timeout_s: float | None = None, heartbeat_s: float
    ) -> AsyncEventStream[UploadStatus | None]: ...

    def events(
        self,
        tickets: Sequence[str],
        *,
        timeout_s: float | None = None,
        heartbeat_s: float | None = None,
    ) -> AsyncEventStream[Any]:
        """Return what yields each upload's status now and with every change, in ``async for``.

        As ``UploadQueue.events``, but Redis is first asked when the first status is: that is where
        UnknownTicketError is raised. All readers of an event loop share one subscription, and none
        has a thread or a task of its own. ``close()`` ends the stream at once, an ``async with``
        block closes it.
        """
        return AsyncEventStream(
            tickets, self._all_statuses, lambda: self._of_loop().changes, timeout_s, heartbeat_s
        )

    async def _all_statuses(self, tickets: Sequence[str]) -> builtins.list[UploadStatus]:
        """Return the statuses of uploads and batches."""
        steps = batch_steps.statuses_of(tickets)
        return await self._run(steps, many=len(tickets) > _MANY)

    # -- Redis ---------------------------------------------------------------------------------

    def _of_loop(self) -> _OfLoop:
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            connection = AsyncConnection(self._url, timeout_s=settings().redis_timeout_s)
            found = self._loops[loop] = _OfLoop(connection, AsyncChangeFeed(connection))
        return found

    async def _run(self, steps: Steps[T], *, many: bool = False) -> T:
        return await self._of_loop().connection.run(steps, many=many)
