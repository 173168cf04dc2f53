"""The client's way to the broker: a private Celery app and its own connections."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from celery import Celery
from celery.canvas import Signature
from celery.loaders.base import BaseLoader
from kombu.exceptions import LimitExceeded, OperationalError
from kombu.pools import ProducerPool
from redis.exceptions import RedisError

from provider_uploads import protocol
from provider_uploads.errors import QueueUnavailableError
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.settings import without_secrets


class Publisher:
    """Sends messages to one Redis; thread-safe, and safe after a fork.

    It keeps to itself: its app neither reads nor becomes the host application's Celery app.
    """

    def __init__(self, url: str, ledger: Ledger, *, timeout_s: float) -> None:
        """Publish to ``url``; uploads that cannot be sent are withdrawn from ``ledger``."""
        self.app = _private_app()
        self._url = url
        self._ledger = ledger
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._producers: ProducerPool | None = None
        self._pid = 0

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


class _NoConfiguration(BaseLoader):
    """A loader that reads nothing: neither a module nor ``CELERY_CONFIG_MODULE``."""

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> dict[str, Any]:
        return {}


class _PrivateApp(Celery):
    """An app without a result backend, whatever ``CELERY_RESULT_BACKEND`` says.

    A backend would subscribe to each result, and can hang a web thread for 19 s and more when
    Redis is down; our results are in the ledger.
    """

    backend_cls = "disabled"
    # Celery's own fixup for Django reads the configuration of whatever app there is, and a web
    # app that runs Django has one of its own.
    builtin_fixups: set[str] = set()  # noqa: RUF012 - as Celery declares it


def _private_app() -> Celery:
    app = _PrivateApp("provider_uploads.client", loader=_NoConfiguration, set_as_current=False)
    app.conf.update(task_serializer="json", accept_content=["json"], task_always_eager=False)
    return app
