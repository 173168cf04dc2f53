"""Where remote sources come from in tests: a local HTTPS server, and an S3 server as a process."""

from __future__ import annotations

import ssl
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx2
import trustme

from tests.nodes import Process, free_port, wait_until

Answer = Callable[[BaseHTTPRequestHandler], None]


def whole(content: bytes, **headers: str) -> Answer:
    """Answer 200 with all of it."""

    def answer(to: BaseHTTPRequestHandler) -> None:
        to.send_response(200)
        to.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            to.send_header(name.replace("_", "-"), value)
        to.end_headers()
        to.wfile.write(content)

    return answer


def plain(code: int, **headers: str) -> Answer:
    """Answer with a code and no body."""

    def answer(to: BaseHTTPRequestHandler) -> None:
        to.send_response(code)
        for name, value in headers.items():
            to.send_header(name.replace("_", "-"), value)
        to.send_header("Content-Length", "0")
        to.end_headers()

    return answer


def truncated(content: bytes, after_bytes: int) -> Answer:
    """Announce all of it and hang up halfway."""

    def answer(to: BaseHTTPRequestHandler) -> None:
        to.send_response(200)
        to.send_header("Content-Length", str(len(content)))
        to.end_headers()
        to.wfile.write(content[:after_bytes])
        to.close_connection = True

    return answer


class Origin:
    """An HTTP server on 127.0.0.1 whose answers a test says, by path; anything else is a 404."""

    def __init__(self, folder: Path, *, tls: bool = True) -> None:
        self.answers: dict[str, Answer] = {}
        self.always: Answer | None = None
        #: Path with query, and headers, of each request.
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.ended = threading.Event()
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                origin.requests.append((self.path, dict(self.headers)))
                path = self.path.partition("?")[0]
                (origin.always or origin.answers.get(path, plain(404)))(self)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # a client that hung up

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self.ca_file = folder / "ca.pem"
        if tls:
            authority = trustme.CA()
            authority.cert_pem.write_to_path(str(self.ca_file))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class S3:
    """moto's server: the S3 protocol over HTTP, in memory."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        argv = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1"]
        self._process = Process([*argv, "-p", str(port)], name="s3", folder=folder)

    @property
    def env(self) -> dict[str, str]:
        """What a process needs to read from it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "AKIAONLYTESTSKNOWIT0",
            "AWS_SECRET_ACCESS_KEY": "a-secret-only-tests-know",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def __enter__(self) -> Self:
        wait_until(lambda: b"Running on" in self._process.logs(), "an S3 server")
        self.put("bucket")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    def put(self, path: str, content: bytes = b"") -> str:
        """Store an object, or make a bucket; return its URL."""
        key = self.env["AWS_ACCESS_KEY_ID"]  # moto asks whose it is, not for the signature
        owner = f"AWS4-HMAC-SHA256 Credential={key}/20260101/us-east-1/s3/aws4_request, "
        httpx2.put(
            f"{self.url}/{quote(path)}",
            content=content,
            headers={"Authorization": f"{owner}SignedHeaders=host, Signature=0"},
        ).raise_for_status()
        return f"s3://{path}"

    def has(self, path: str) -> bool:
        return httpx2.head(f"{self.url}/{path}").status_code == 200
