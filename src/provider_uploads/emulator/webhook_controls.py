"""The control endpoints for webhooks, and the same for tests in Python.

GET  /_emulator/webhooks/deliveries   what was sent to whom, and how it was answered
POST /_emulator/webhooks/orders       an order, see webhook_orders.py
GET  /_emulator/webhooks/orders       DELETE /_emulator/webhooks/orders
POST /_emulator/webhooks/send         {"job": "batches/…", "type": "batch.succeeded",
                                       "forged": "secret"}
"""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from provider_uploads.emulator.batch_controls import Ask
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import (
    InvalidFaultError,
    error_reply,
    invalid_argument,
    json_reply,
)
from provider_uploads.emulator.faults import word
from provider_uploads.emulator.webhook_orders import Forgery


def send_event(engine: Engine, order: Any) -> None:
    """Send an event about a job, true or not; InvalidFaultError if there is no such job."""
    if not isinstance(order, dict) or not {"job", "type"} <= set(order) <= {
        "job",
        "type",
        "forged",
    }:
        raise InvalidFaultError('"job" and "type" are needed, and "forged" if it is')
    job = engine.batches.peek(str(order["job"]).rpartition("/")[2])
    if job is None:
        raise InvalidFaultError(f"there is no batch {order['job']}")
    given = order.get("forged")
    forged = None if given is None else word(Forgery, given, "forged")
    engine.webhook_sender.tell(job, str(order["type"]), forged)


def webhook_control_routes(engine: Engine) -> list[Route]:
    """The routes, over one engine."""

    async def list_deliveries(request: Request) -> Response:
        return json_reply({"deliveries": engine.webhook_sender.json()})

    async def order(request: Request) -> Response:
        try:
            wanted = json.loads(await request.body())
            return json_reply(engine.webhook_sender.orders.order(wanted))
        except ValueError as refused:
            return error_reply(invalid_argument(str(refused)))

    async def list_orders(request: Request) -> Response:
        return json_reply({"orders": engine.webhook_sender.orders.json()})

    async def clear_orders(request: Request) -> Response:
        engine.webhook_sender.orders.clear()
        return json_reply({})

    async def send(request: Request) -> Response:
        try:
            send_event(engine, json.loads(await request.body()))
        except ValueError as refused:
            return error_reply(invalid_argument(str(refused)))
        return json_reply({})

    return [
        Route("/_emulator/webhooks/deliveries", list_deliveries, methods=["GET"]),
        Route("/_emulator/webhooks/orders", order, methods=["POST"]),
        Route("/_emulator/webhooks/orders", list_orders, methods=["GET"]),
        Route("/_emulator/webhooks/orders", clear_orders, methods=["DELETE"]),
        Route("/_emulator/webhooks/send", send, methods=["POST"]),
    ]


class LocalWebhooks:
    """The webhooks of a ``LocalGemini``: what is sent, and what is to become of it."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def register(
        self, uri: str, *, key: str, events: tuple[str, ...] = ("batch.succeeded", "batch.failed")
    ) -> str:
        """Register a static webhook for a key's project; returned is its signing secret."""

        def create(engine: Engine) -> str:
            given = {"uri": uri, "subscribed_events": list(events)}
            return engine.webhooks.create(key, given).secrets[0].text

        return self._ask(create)

    def deliveries(self) -> list[dict[str, Any]]:
        """What was sent to whom and how it was answered, oldest first."""
        return self._ask(lambda engine: engine.webhook_sender.json())

    def order(self, **order: Any) -> dict[str, Any]:
        """Let something become of deliveries; see ``Order`` and ``DeliveryFate``."""
        return self._ask(lambda engine: engine.webhook_sender.orders.order(order))

    def orders(self) -> list[dict[str, Any]]:
        """The orders, with how many deliveries they have ``seen`` and were ``applied`` to."""
        return self._ask(lambda engine: engine.webhook_sender.orders.json())

    def clear_orders(self) -> None:
        """Everything goes as usual."""
        self._ask(lambda engine: engine.webhook_sender.orders.clear())

    def send(self, job: str, type: str = "batch.succeeded", *, forged: str | None = None) -> None:
        """Send an event about a job, true or not, to whom it would go."""
        order = {"job": job, "type": type, "forged": forged}
        self._ask(lambda engine: send_event(engine, order))
