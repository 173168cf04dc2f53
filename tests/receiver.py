"""A web application that is told of ends: it checks each signature and keeps what it was told."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from standardwebhooks import Webhook

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()


class Told(NamedTuple):
    """One attempt that arrived."""

    webhook_id: str
    body: dict[str, Any]


class Receiver:
    """Answers 204, or what was ordered for the next attempts: a status, or "hang"."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.orders: list[int | str | tuple[int, dict[str, str]]] = []
        self.go_on = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                body = Webhook(SECRET).verify(raw, dict(self.headers))
                outer.told.append(Told(self.headers["webhook-id"], body))
                order = outer.orders.pop(0) if outer.orders else 204
                if order == "hang":
                    outer.go_on.wait(30)
                    return
                status, headers = order if isinstance(order, tuple) else (order, {})
                self.send_response(int(status))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hooks?key=1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def bodies(self) -> list[dict[str, Any]]:
        """Return what was told, without the attempts' times."""
        return [json.loads(json.dumps(told.body)) for told in self.told]

    def stop(self) -> None:
        """End it."""
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
