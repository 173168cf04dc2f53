"""Five hundred browsers at one process: one subscription, no threads, and nothing left behind."""

from __future__ import annotations

import resource
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import redis

from provider_uploads import UploadQueue
from provider_uploads.ledger.uploads import Ledger
from tests.nodes import Process, free_port, wait_until

pytestmark = pytest.mark.slow

BROWSERS = 500

SERVERS = {
    "asyncio": """
import contextlib, sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route
from provider_uploads import AsyncUploadQueue
from provider_uploads.web import SSE_HEADERS, sse

queue = AsyncUploadQueue()

async def events(request):
    found = queue.events([request.path_params["ticket"]], heartbeat_s=15)
    return StreamingResponse(sse(found), headers=SSE_HEADERS)

@contextlib.asynccontextmanager
async def lifespan(app):
    yield
    await queue.close()

app = Starlette(routes=[Route("/{ticket}", events)], lifespan=lifespan)
uvicorn.run(app, port=int(sys.argv[1]), log_level="info")
""",
    # A thread a browser is what WSGI costs; the subscription is shared all the same.
    "threads": """
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server
from provider_uploads import UploadQueue
from provider_uploads.web import SSE_HEADERS, sse

class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 500

queue = UploadQueue()

def app(environ, start_response):
    events = queue.events([environ["PATH_INFO"].strip("/")], heartbeat_s=0.3)
    start_response("200 OK", list(SSE_HEADERS.items()))
    return sse(events)

server = make_server("127.0.0.1", int(sys.argv[1]), app, server_class=Server)
print("startup complete", flush=True)
server.serve_forever()
""",
}


class Browser:
    """A connection that has asked for an event stream."""

    def __init__(self, port: int, ticket: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.sendall(f"GET /{ticket} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        self.read = b""

    def until(self, wanted: bytes) -> None:
        while wanted not in self.read:
            block = self.socket.recv(65536)
            assert block, self.read
            self.read += block


@pytest.fixture(autouse=True)
def enough_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("kind", SERVERS)
def test_five_hundred_browsers(
    kind: str, redis_url: str, tmp_path: Path, make_file: Callable[..., Path], ledger: Ledger
) -> None:
    port = free_port()
    env = {"PROVIDER_UPLOADS_REDIS_URL": redis_url}
    server = Process(
        [sys.executable, "-c", SERVERS[kind], str(port)], name=kind, folder=tmp_path, env=env
    )
    process = psutil.Process(server.process.pid)
    client = redis.Redis.from_url(redis_url)

    def subscriptions() -> int:
        """Those of the server; what other tests have left is not its concern."""
        mine = {one.laddr.port for one in process.net_connections()}
        found = cast(list[Any], client.client_list(_type="pubsub"))
        return sum(int(one["addr"].rpartition(":")[2]) in mine for one in found)

    browsers: list[Browser] = []
    try:
        wait_until(lambda: b"startup complete" in server.logs(), "the server")
        with UploadQueue(redis_url) as queue:
            ticket, other = queue.submit(make_file()), queue.submit(make_file())
        first = Browser(port, other)
        first.until(b'"stage": "QUEUED"')
        threads = process.num_threads()
        browsers += [Browser(port, ticket) for _ in range(BROWSERS)]
        for browser in browsers:
            browser.until(b'"stage": "QUEUED"')
        assert subscriptions() == 1
        if kind == "asyncio":
            assert process.num_threads() <= threads + 2  # the resolver's, not one each
        # A change reaches every one of them.
        assert ledger.note(ticket, "waits for a reason of its own")
        for browser in browsers:
            browser.until(b"a reason of its own")
        assert subscriptions() == 1
        for browser in browsers:
            browser.socket.close()
        # wsgiref notices when it writes to one that has left: with a heartbeat, or with a change.
        patience_s, held = 1.0 if kind == "asyncio" else 5.0, "the end of what they held"
        channel = f"provider_uploads:upload:{ticket}".encode()
        wait_until(lambda: channel not in client.pubsub_channels(), held, patience_s)
        wait_until(lambda: process.num_threads() <= threads + 2, held, patience_s)
        at_server = [one for one in process.net_connections() if one.laddr.port == port]
        assert len([one for one in at_server if one.status == "ESTABLISHED"]) == 1
        first.socket.close()
        wait_until(lambda: subscriptions() == 0, "the end of the subscription", 5)
    finally:
        for browser in browsers:
            browser.socket.close()
        client.close()
        server.kill()
