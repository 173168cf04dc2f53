"""A router that drops a connection without a word: those who listen on it notice all the same."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from provider_uploads import AsyncUploadQueue, Stage, UploadQueue
from provider_uploads.ledger.uploads import Ledger

pytestmark = pytest.mark.slow


class Router:
    """Passes bytes on to a server and back, until it forgets the connections there are."""

    def __init__(self, port: int) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._to = port
        self._forgotten = threading.Event()
        self._sockets: list[socket.socket] = [self._server]
        self.url = f"redis://127.0.0.1:{self._server.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        """Let what is connected now wait for ever; who connects again gets through."""
        self._forgotten.set()
        self._forgotten = threading.Event()

    def close(self) -> None:
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inside, _ = self._server.accept()
                outside = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [inside, outside]
                for pair in ((inside, outside), (outside, inside)):
                    arguments = (*pair, self._forgotten)
                    threading.Thread(target=self._pass, args=arguments, daemon=True).start()

    @staticmethod
    def _pass(read: socket.socket, write: socket.socket, forgotten: threading.Event) -> None:
        with suppress(OSError):
            while block := read.recv(65536):
                if not forgotten.is_set():
                    write.sendall(block)


@pytest.fixture
def router(redis_url: str) -> Iterator[Router]:
    made = Router(int(redis_url.rpartition(":")[2].partition("/")[0]))
    yield made
    made.close()


def test_threads(
    router: Router, ledger: Ledger, redis_url: str, make_file: Callable[..., Path]
) -> None:
    with UploadQueue(router.url) as queue:
        ticket = queue.submit(make_file())
        events = queue.events([ticket], timeout_s=60)
        assert next(events).stage is Stage.QUEUED
        assert ledger.note(ticket, "still heard")
        assert next(events).note == "still heard"
        router.forget()
        assert ledger.cancelled(ticket)
        assert next(events).stage is Stage.CANCELLED


def test_an_event_loop(
    router: Router, ledger: Ledger, redis_url: str, make_file: Callable[..., Path]
) -> None:
    async def follow() -> None:
        async with AsyncUploadQueue(router.url) as queue:
            ticket = await queue.submit(make_file())
            events = queue.events([ticket], timeout_s=60)
            assert (await anext(events)).stage is Stage.QUEUED
            assert ledger.note(ticket, "still heard")
            assert (await anext(events)).note == "still heard"
            router.forget()
            assert ledger.cancelled(ticket)
            assert (await anext(events)).stage is Stage.CANCELLED

    asyncio.run(follow())
