"""The client's way to the broker: a private Celery app and its own connections."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from provider_uploads import protocol
from provider_uploads.errors import QueueUnavailableError
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.settings import without_secrets

if TYPE_CHECKING:
    from celery import Celery
    from celery.canvas import Signature
    from kombu.pools import ProducerPool


class Publisher:
    """Sends messages to one Redis; thread-safe, and safe after a fork.

    It keeps to itself: its app neither reads nor becomes the host application's Celery app.
    """

    def __init__(self, url: str, ledger: Ledger, *, timeout_s: float) -> None:
        """Publish to ``url``; uploads that cannot be sent are withdrawn from ``ledger``."""
        self._url = url
        self._ledger = ledger
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._producers: ProducerPool | None = None
        self._pid = 0

    @cached_property
    def app(self) -> Celery:
        """The private app; Celery is imported when it is first needed: that takes a while."""
        from provider_uploads.client.celery_app import private_app

        return private_app()

    def close(self) -> None:
        """Close the connections."""
        if self._producers is not None and self._pid == os.getpid():
            self._producers.connections.force_close_all()
            self._producers = None

    def publish(self, message: Signature[Any], *tickets: str) -> None:
        """Send a message; when that fails, withdraw the uploads with these tickets.

        Raises QueueUnavailableError.
        """
        with self.publishing(tickets) as options:
            message.apply_async(**options)

    @contextmanager
    def publishing(self, tickets: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
        """Yield the options of a send; on failure withdraw the uploads, if Redis still answers."""
        from kombu.exceptions import LimitExceeded, OperationalError

        try:
            with self._pool().acquire(block=True, timeout=self._timeout_s) as producer:
                yield {
                    "producer": producer,
                    # A connection that Redis closed is replaced before it is used; beyond that,
                    # trying again is the caller's decision, who has a web request to answer.
                    "retry": False,
                    "add_to_parent": False,
                }
        except (OperationalError, LimitExceeded, RedisError, OSError) as error:
            # A send that timed out may have arrived all the same: a worker ignores a withdrawn row.
            with suppress(QueueUnavailableError):
                self._ledger.withdrawn(tickets)
            raise QueueUnavailableError(without_secrets(self._url), type(error).__name__) from error

    def _pool(self) -> ProducerPool:
        from kombu.pools import ProducerPool

        with self._lock:
            if self._producers is None or self._pid != os.getpid():  # sockets do not survive a fork
                connection = self.app.connection_for_write(
                    self._url,
                    connect_timeout=self._timeout_s,
                    transport_options={
                        "global_keyprefix": protocol.KEY_PREFIX,
                        "socket_timeout": self._timeout_s,
                        "socket_connect_timeout": self._timeout_s,
                        "max_retries": 1,
                        "interval_start": 0,
                        "interval_max": 0,
                    },
                )
                self._producers = ProducerPool(connections=connection.Pool(limit=16), limit=16)
                self._pid = os.getpid()
            return self._producers
