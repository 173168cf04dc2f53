"""Webhooks of the service: verified whoever sent them; they wake a batch, and are never needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from provider_uploads import UploadQueue, errors
from provider_uploads.emulator import EmulatorConfig, LocalGemini
from provider_uploads.web import BatchWebhooks
from tests.batching import MODEL, QUICK, WAIT_S, asked, counted, local_gemini
from tests.conftest import KEY
from tests.nodes import wait_until


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return local_gemini(running_s=1.0)


class App:
    """A web application of the host's: it answers 204, 401 or 503."""

    def __init__(self) -> None:
        self.webhooks: BatchWebhooks | None = None
        self.queue: UploadQueue | None = None
        self.answers: list[int] = []
        self.woken: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = outer.receive(dict(self.headers), body)
                outer.answers.append(status)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hooks"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def receive(self, headers: dict[str, str], body: bytes) -> int:
        assert self.webhooks
        assert self.queue
        try:
            self.woken.append(self.webhooks.receive(self.queue, headers, body))
        except errors.WebhookRefusedError:
            return 401
        except errors.QueueUnavailableError:
            return 503
        return 204

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def app() -> Iterator[App]:
    made = App()
    yield made
    made.stop()


class TestWaking:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {**QUICK, "PROVIDER_UPLOADS_BATCH_POLL_FIRST_S": "50"}

    def test_a_static_webhook(self, queue: UploadQueue, gemini: LocalGemini, app: App) -> None:
        secret = gemini.webhooks.register(app.url, key=KEY, events=("batch.succeeded",))
        app.webhooks, app.queue = BatchWebhooks(secrets=[secret]), queue
        begun = time.monotonic()
        ticket = queue.batch(asked(1), model=MODEL)
        queue.batch_result(ticket, timeout_s=WAIT_S)
        assert time.monotonic() - begun < 30  # the first poll would have come after 40 s at least
        assert app.woken == [ticket]
        assert next(queue.batch_answers(ticket)).response

    def test_doubled_forged_and_early_ones_do_no_harm(
        self, queue: UploadQueue, gemini: LocalGemini, app: App
    ) -> None:
        secret = gemini.webhooks.register(app.url, key=KEY, events=("batch.succeeded",))
        app.webhooks, app.queue = BatchWebhooks(secrets=["whsec_b2xk", secret]), queue
        gemini.webhooks.order(copies=3)
        gemini.batches.order(running_s=3600)
        ticket = queue.batch(asked(1), model=MODEL)
        wait_until(lambda: queue.batch_status(ticket).jobs, "created")
        (name,) = queue.batch_status(ticket).jobs
        gemini.webhooks.send(name, "batch.succeeded", forged="secret")
        gemini.webhooks.send(name, "batch.succeeded", forged="body")
        gemini.webhooks.send(name, "batch.succeeded")  # signed, and not true
        wait_until(lambda: 204 in app.answers and app.answers.count(401) >= 2, "received")
        assert queue.batch_status(ticket).stage == "RUNNING"
        gemini.batches.change(name, running_s=0)
        queue.batch_result(ticket, timeout_s=WAIT_S)
        wait_until(lambda: app.woken.count(ticket) >= 3, "all copies")
        assert counted(gemini, "create_batch") == 1


class TestNamedWithTheJob:
    @pytest.fixture
    def policy(self, app: App) -> dict[str, str]:
        return {
            **QUICK,
            "PROVIDER_UPLOADS_BATCH_POLL_FIRST_S": "50",
            "PROVIDER_UPLOADS_BATCH_WEBHOOKS": f'["{app.url}"]',
        }

    def test_a_dynamic_webhook(self, queue: UploadQueue, gemini: LocalGemini, app: App) -> None:
        keys = f"{gemini.url}/.well-known/jwks.json"
        app.webhooks, app.queue = BatchWebhooks(audience=app.url, jwks_url=keys), queue
        ticket = queue.batch(asked(1), model=MODEL)
        queue.batch_result(ticket, timeout_s=60)
        assert app.woken == [ticket]


class TestNeverComing:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return QUICK

    def test_polls_remain(self, queue: UploadQueue, gemini: LocalGemini, app: App) -> None:
        gemini.webhooks.register(app.url, key=KEY, events=("batch.succeeded",))
        gemini.webhooks.order(absent=True)
        ticket = queue.batch(asked(1), model=MODEL)
        queue.batch_result(ticket, timeout_s=WAIT_S)
        assert app.woken == []


class TestVerifying:
    def test_another_audience_and_no_signature(self, gemini: LocalGemini, app: App) -> None:
        webhooks = BatchWebhooks(
            secrets=["whsec_b2xk"],
            audience="https://elsewhere.example",
            jwks_url=f"{gemini.url}/.well-known/jwks.json",
        )
        for headers in (
            {},
            {"webhook-signature": "v1,AAAA", "webhook-id": "x", "webhook-timestamp": "1"},
            {"webhook-signature": "a.b.c"},
            {"webhook-signature": "eyJhbGciOiJub25lIn0.eyJkYXRhIjp7ImlkIjoieCJ9fQ."},
        ):
            with pytest.raises(errors.WebhookRefusedError):
                webhooks.verify(headers, b"{}")

    def test_nothing_set_accepts_nothing(self) -> None:
        with pytest.raises(errors.WebhookRefusedError, match="no secret"):
            BatchWebhooks().verify({"webhook-signature": "v1,x"}, b"{}")
