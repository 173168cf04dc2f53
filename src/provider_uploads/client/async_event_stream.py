"""Changes of uploads for event loops: one subscription a loop, however many readers there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, Self, TypeVar, cast

from redis.exceptions import RedisError

from provider_uploads.client.readers import Pulse, Readers
from provider_uploads.client.watch import Watch
from provider_uploads.errors import ProviderUploadsError
from provider_uploads.ledger import batch_steps
from provider_uploads.ledger.connection import AsyncConnection, closed, outage
from provider_uploads.ledger.upload_steps import row_key
from provider_uploads.schemas import UploadStatus

T_co = TypeVar("T_co", covariant=True)

#: How long a read of the subscription may take before it is asked whether it is still there.
_LISTEN_S: Final = 1.0
_RECONNECT_S: Final = 0.5
#: Messages after which their rows are read, though more have arrived.
_MOST_AT_ONCE: Final = 200


class _Reader:
    """A watch that the feed fills and a reader's task empties."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.closed = False
        self._waiting: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let whoever waits look again."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self, seconds: float | None) -> None:
        """Wait to be woken, for so long at most."""
        # One future and one timer: `wait_for` makes a task each time, and there may be thousands.
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, self.wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()


class AsyncEventStream(AsyncIterator[T_co], Generic[T_co]):
    """Statuses as they change; see ``AsyncUploadQueue.events``."""

    _feed: AsyncChangeFeed | None = None

    def __init__(
        self,
        tickets: Sequence[str],
        read: Callable[[Sequence[str]], Awaitable[list[UploadStatus]]],
        feed: Callable[[], AsyncChangeFeed],
        timeout_s: float | None,
        heartbeat_s: float | None,
    ) -> None:
        self._tickets = tickets
        self._read = read
        self._feed_of_loop = feed
        self._reader = _Reader(Watch(tickets, timeout_s, heartbeat_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __del__(self) -> None:
        if self._feed is not None and not self._reader.closed:
            with suppress(RuntimeError):  # the loop may have ended
                self._feed.loop.call_soon_threadsafe(self._feed.leave, self._reader)

    async def close(self) -> None:
        """End the stream, also while another task waits in it; a second time is harmless."""
        self._close()

    aclose = close  # for contextlib.aclosing

    def _close(self) -> None:
        self._reader.closed = True
        self._reader.wake()
        if self._feed is not None:
            self._feed.leave(self._reader)

    async def __anext__(self) -> T_co:
        reader, watch = self._reader, self._reader.watch
        try:
            if self._feed is None and not reader.closed:
                await self._begin()
            while not reader.closed:
                status = watch.take()
                if status is not None:
                    return cast(T_co, status)
                if watch.finished:
                    break
                if watch.beats():
                    return cast(T_co, None)
                await reader.wait(watch.wait_s())
        except ProviderUploadsError:
            self._close()
            raise
        self._close()
        raise StopAsyncIteration

    async def _begin(self) -> None:
        """Read how all are; what changes after that is heard of."""
        for status in await self._read(self._tickets):
            self._reader.watch.offer(status)
        if not self._reader.closed:
            self._feed = self._feed_of_loop()
            self._feed.join(self._reader)


class AsyncChangeFeed:
    """The one subscription of an event loop; it is there while there are readers."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.loop = asyncio.get_running_loop()
        self._connection = connection
        self._readers: Readers[_Reader] = Readers()
        self._subscription: _Subscription | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def join(self, reader: _Reader) -> None:
        """Let a reader know of changes."""
        tickets = [*reader.watch.open]
        if not tickets:
            return
        self._readers.add(reader, tickets)
        if self._subscription is None:
            self._subscription = _Subscription(self._connection, self._readers)
        self._subscription.change(wanted=tickets)

    def leave(self, reader: _Reader) -> None:
        """Forget a reader, and the channels that nobody needs any more."""
        gone = self._readers.remove(reader)
        if self._subscription is None:
            return
        if self._readers:
            self._subscription.change(gone=gone)
            return
        ending = self.loop.create_task(self._subscription.end())
        self._subscription = None
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End all streams."""
        for reader in self._readers.all():
            reader.closed = True
            reader.wake()
            self.leave(reader)
        await asyncio.gather(*self._ending)


class _Subscription:
    """A connection that listens, and the two tasks that read it and write to it.

    A channel is subscribed for each reader, also when it is already: Redis confirms each time, and
    with the confirmation the row is read, so that nothing is missed in between.
    """

    def __init__(self, connection: AsyncConnection, readers: Readers[_Reader]) -> None:
        self._connection = connection
        self._readers = readers
        self._pubsub = connection.redis.pubsub()
        self._pulse = Pulse()
        self._wanted: set[str] = set()
        self._gone: set[str] = set()
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._begun = asyncio.Event()
        self._ended = False
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._write())]

    def change(self, *, wanted: Iterable[str] = (), gone: Iterable[str] = ()) -> None:
        """Have channels subscribed, or given up."""
        for ticket in wanted:
            self._wanted.add(ticket)
            self._gone.discard(ticket)
        for ticket in gone:
            self._gone.add(ticket)
            self._wanted.discard(ticket)
        self._changed.set()

    async def end(self) -> None:
        """Stop listening and close the connection."""
        # redis-py takes some cancellations for a failure to connect.
        self._ended = True
        self._changed.set()
        self._begun.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(RedisError, OSError):
            await closed(self._pubsub)

    async def _write(self) -> None:
        """Subscribe for all who have come, in one command, and the same for those who have left."""
        while not self._ended:
            await self._changed.wait()
            self._changed.clear()
            async with self._writing:
                wanted, self._wanted = self._wanted, set()
                gone, self._gone = self._gone, set()
                # What fails is made up for by the task that listens, which connects again.
                with suppress(RedisError, OSError):
                    if gone:
                        await self._pubsub.unsubscribe(*map(row_key, gone))
                    if wanted:
                        await self._pubsub.subscribe(*map(row_key, wanted))
            self._begun.set()

    async def _listen(self) -> None:
        await self._begun.wait()
        while not self._ended:
            try:
                await self._pass_on(await self._changes())
            except Exception as error:  # whatever it is: readers must not wait for ever
                away = outage(self._connection.server, error)
                for reader in self._readers.all():
                    reader.watch.outage = away
                await asyncio.sleep(_RECONNECT_S)
                await self._subscribe_again()

    async def _changes(self) -> set[str]:
        """Wait for a change; return the tickets of those that have arrived by then."""
        found: set[str] = set()
        message = await self._pubsub.get_message(timeout=_LISTEN_S)
        if message is None and self._pulse.asks():
            async with self._writing:
                await self._pubsub.ping()
        for _ in range(_MOST_AT_ONCE):
            if message is None:
                break
            self._pulse.heard()
            if message["type"] in {"message", "subscribe"}:
                found.add(str(message["channel"]).rpartition(":")[2])
            message = await self._pubsub.get_message(timeout=0)
        return found

    async def _pass_on(self, tickets: set[str]) -> None:
        wanted = [*self._readers.following(tickets)]
        if not wanted:
            return
        steps = batch_steps.all_statuses(wanted)
        found = await self._connection.run(steps, many=len(wanted) > _MOST_AT_ONCE // 2)
        following: Any = self._readers.following(found)
        for ticket, readers in following.items():
            for reader in readers:
                reader.watch.outage = None
                if reader.watch.offer(found[ticket]):
                    reader.wake()

    async def _subscribe_again(self) -> None:
        async with self._writing:
            with suppress(RedisError, OSError):
                await closed(self._pubsub)
            self._pulse.heard()
            with suppress(RedisError, OSError):
                await self._pubsub.subscribe(*map(row_key, self._readers.tickets))
