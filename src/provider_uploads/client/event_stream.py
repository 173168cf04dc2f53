"""Changes of uploads for threads: one subscription a process, however many readers there are."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, Generic, Self, TypeVar, cast

from redis.client import PubSub
from redis.exceptions import RedisError

from provider_uploads.client.readers import Pulse, Readers
from provider_uploads.client.watch import Watch
from provider_uploads.errors import ProviderUploadsError
from provider_uploads.ledger import batch_steps
from provider_uploads.ledger.connection import Connection, outage
from provider_uploads.ledger.upload_steps import row_key
from provider_uploads.schemas import UploadStatus

T_co = TypeVar("T_co", covariant=True)

#: How long a read of the subscription may take before the thread looks whether it is needed.
_LISTEN_S: Final = 0.5
_RECONNECT_S: Final = 0.5


class _Reader:
    """A watch that the feed's thread fills and a reader's thread empties."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.changed = threading.Condition()
        self.closed = False


class EventStream(Iterator[T_co], Generic[T_co]):
    """Statuses as they change; see ``UploadQueue.events``."""

    def __init__(
        self,
        feed: ChangeFeed,
        first: Sequence[UploadStatus],
        timeout_s: float | None,
        heartbeat_s: float | None,
    ) -> None:
        self._feed = feed
        watch = Watch((status.ticket for status in first), timeout_s, heartbeat_s)
        for status in first:
            watch.offer(status)
        self._reader = _Reader(watch)
        feed.join(self._reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter may be ending
            self.close()

    def close(self) -> None:
        """End the stream, also while another thread waits in it; a second time is harmless."""
        reader = self._reader
        with reader.changed:
            if reader.closed:
                return
            reader.closed = True
            reader.changed.notify_all()
        self._feed.leave(reader)

    def __next__(self) -> T_co:
        reader, watch = self._reader, self._reader.watch
        try:
            with reader.changed:
                while not reader.closed:
                    status = watch.take()
                    if status is not None:
                        return cast(T_co, status)
                    if watch.finished:
                        break
                    if watch.beats():
                        return cast(T_co, None)
                    reader.changed.wait(watch.wait_s())
        except ProviderUploadsError:
            self.close()
            raise
        self.close()
        raise StopIteration


class ChangeFeed:
    """The one subscription of a process; its thread lives while there are readers.

    A channel is subscribed for each reader, also when it is already: Redis confirms each time, and
    with the confirmation the row is read, so that nothing is missed in between.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._readers: Readers[_Reader] = Readers()
        self._pulse = Pulse()
        self._pubsub: PubSub | None = None

    def join(self, reader: _Reader) -> None:
        """Let a reader know of changes."""
        if self._pid != os.getpid():  # neither threads nor sockets survive a fork
            self._begin()
        tickets = [*reader.watch.open]
        if not tickets:
            return
        with self._lock:
            self._readers.add(reader, tickets)
            if self._pubsub is None:
                self._pubsub = self._connection.redis.pubsub()  # type: ignore[no-untyped-call]
                threading.Thread(
                    target=self._listen,
                    args=(self._pubsub,),
                    name="provider-uploads-changes",
                    daemon=True,
                ).start()
            # One that fails is made up for by the thread, which connects again.
            with suppress(RedisError):
                self._pubsub.subscribe(*map(row_key, tickets))

    def leave(self, reader: _Reader) -> None:
        """Forget a reader, and the channels that nobody needs any more."""
        with self._lock:
            if self._pid != os.getpid():
                return
            gone = [row_key(ticket) for ticket in self._readers.remove(reader)]
            if gone and self._pubsub is not None:
                with suppress(RedisError):
                    self._pubsub.unsubscribe(*gone)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """End all streams."""
        with self._lock:
            readers = self._readers.clear()
        for reader in readers:
            with reader.changed:
                reader.closed = True
                reader.changed.notify_all()

    def _listen(self, pubsub: PubSub) -> None:
        try:
            while self._needed(pubsub):
                try:
                    self._pass_on(self._changed(pubsub))
                # redis-py raises AttributeError too, when ``close`` takes a connection away while
                # it is read.
                except Exception as error:  # whatever it is: readers wait for this thread
                    self._failed(error)
                    threading.Event().wait(_RECONNECT_S)
                    self._subscribe_again(pubsub)
        finally:
            with suppress(RedisError, OSError):
                pubsub.close()

    def _needed(self, pubsub: PubSub) -> bool:
        with self._lock:
            if self._readers:
                return True
            if self._pubsub is pubsub:
                self._pubsub = None
            return False

    def _changed(self, pubsub: PubSub) -> set[str]:
        """Wait for a change; return the tickets of all that have arrived by then."""
        found = set()
        message = pubsub.get_message(timeout=_LISTEN_S)
        if message is None and self._pulse.asks():
            with self._lock:
                pubsub.ping()
        while message:
            self._pulse.heard()
            if message["type"] in {"message", "subscribe"}:
                found.add(str(message["channel"]).rpartition(":")[2])
            message = pubsub.get_message(timeout=0)
        return found

    def _pass_on(self, tickets: set[str]) -> None:
        with self._lock:
            wanted = self._readers.following(tickets)
        if not wanted:
            return
        found = self._connection.run(batch_steps.all_statuses([*wanted]))
        for ticket, status in found.items():
            for reader in wanted[ticket]:
                with reader.changed:
                    reader.watch.outage = None
                    if reader.watch.offer(status):
                        reader.changed.notify_all()

    def _failed(self, error: Exception) -> None:
        away = outage(self._connection.server, error)
        with self._lock:
            readers = self._readers.all()
        for reader in readers:
            reader.watch.outage = away

    def _subscribe_again(self, pubsub: PubSub) -> None:
        with self._lock, suppress(RedisError, OSError):
            pubsub.reset()
            self._pulse.heard()
            if self._readers:
                pubsub.subscribe(*map(row_key, self._readers.tickets))
