"""The HTTP server under the emulator: uvicorn, with connections that can be reset."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from provider_uploads.emulator.app import app_for
from provider_uploads.emulator.calls import CLOSED, HANG_UP
from provider_uploads.emulator.config import EmulatorConfig
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import PortInUseError, error_reply, invalid_argument

_BACKLOG = 2048
_SLOW_BUFFER_BYTES = 128 * 1024
# Longer than any client of ours is idle, so that it is the client who closes.
_KEEP_ALIVE_S = 75
_STOP_S = 0.5
# asyncio reads 256 KiB at a time. Blocks of 128 KiB and more come from mmap in glibc, and their
# page faults cost more than everything else together: 200 MiB/s with 256 KiB, 335 with this.
_READ_BYTES = 112 * 1024
# l_onoff, l_linger: close with a reset instead of an orderly end.
_LINGER_RESET = struct.pack("ii", 1, 0)


class _Connection(H11Protocol):
    """Lends its requests a way to hang up, and hangs up itself when the server stops."""

    closed: asyncio.Event

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
        # asyncio does this only for sockets that name their protocol, which ours do not; without
        # it every answer waits 40 ms for the client's delayed acknowledgement.
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.closed = asyncio.Event()
        self.app_state = {**self.app_state, HANG_UP: self.hang_up, CLOSED: self.closed}

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Say in the service's words that this is no HTTP, and hang up."""
        reply = error_reply(invalid_argument(f"Your client has issued a malformed request. {msg}"))
        headers = [*reply.raw_headers, (b"connection", b"close")]
        head = h11.Response(status_code=reply.status_code, headers=headers, reason=b"Bad Request")
        for event in (head, h11.Data(data=bytes(reply.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def hang_up(self) -> None:
        sock = self.transport.get_extra_info("socket")
        if not self.transport.is_closing() and sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self.transport.abort()

    def shutdown(self) -> None:
        # uvicorn's annotation denies it, but a connection without a request has no cycle yet.
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            super().shutdown()
        else:
            self.hang_up()


class Server(uvicorn.Server):
    """One engine on one listening socket; ``stop`` ends it at once, whoever is connected."""

    def __init__(self, engine: Engine, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app_for(engine),
                http=_Connection,
                loop="asyncio",
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        if engine.config.bandwidth_mib_s:
            # What the system buffers looks like progress to the sender; accepted sockets inherit.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER_BYTES)
        self.engine = engine
        self.loop: asyncio.AbstractEventLoop | None = None
        self.up = threading.Event()
        self._listener = listener
        self._stop = asyncio.Event()

    def run_until_stopped(self) -> None:
        """Serve in this thread; returns when ``stop`` was called."""
        try:
            asyncio.run(self.serve([self._listener]))
        finally:
            self._listener.close()
            self.up.set()  # also if it never came up: nobody shall wait for it

    def stop(self) -> None:
        """End serving; may be called from any thread and from a signal handler."""
        self.should_exit = True  # in case it has not come up yet
        if self.loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: stopped already
                self.loop.call_soon_threadsafe(self._stop.set)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever runs the server."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say when requests are accepted."""
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.up.set()

    async def main_loop(self) -> None:
        """Wait for ``stop`` itself, where uvicorn looks ten times a second."""
        await self.on_tick(0)
        await self._stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close idle connections, hang up on busy ones, where uvicorn waits for them."""
        for server in self.servers:
            server.close()
        self.engine.stopping.set()
        for connection in tuple(self.server_state.connections):
            connection.shutdown()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_STOP_S)
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # lets the loop close the sockets
        await self.lifespan.shutdown()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one; PortInUseError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(host, port) from error
        raise


def url_of(listener: socket.socket) -> str:
    """The base URL of what listens there."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    config: EmulatorConfig | None = None,
    host: str = "127.0.0.1",
    port: int = 8787,
    *,
    announce: Callable[[str], object] = print,
) -> None:
    """Run a local Gemini in the foreground until SIGINT or SIGTERM; from the main thread.

    ``announce`` is given one sentence with the URL as soon as requests are accepted. Returns
    when a signal came, after hanging up on whoever is still connected and removing the temporary
    folder. Raises PortInUseError.
    """
    with listen(host, port) as listener:
        _serve(Server(Engine(config or EmulatorConfig()), listener), url_of(listener), announce)


def _serve(server: Server, url: str, announce: Callable[[str], object]) -> None:
    def stop(signal_number: int, frame: Any) -> None:
        server.stop()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # The socket listens already: who connects now is served in a moment.
        announce(f"Local Gemini at {url}, control at {url}/_emulator/; stop with Ctrl-C.")
        server.run_until_stopped()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
