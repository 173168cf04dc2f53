"""The control endpoints for batches, and the same for tests in Python.

GET  /_emulator/batches               all jobs of all keys, oldest first
POST /_emulator/batches/orders        an order, see batch_orders.py
GET  /_emulator/batches/orders        DELETE /_emulator/batches/orders
POST /_emulator/batches/<id>/change   {"running_s": 0}: what is not named stays as it was
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from provider_uploads.emulator.batch_orders import BatchFate
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import (
    InvalidFaultError,
    error_reply,
    invalid_argument,
    json_reply,
    not_found,
)

_Result = TypeVar("_Result")


def batches_json(engine: Engine) -> list[dict[str, Any]]:
    """All jobs of all keys, oldest first, without their keys."""
    return [job.json(engine.clock()) for job in engine.batches]


def change_batch(engine: Engine, name: str, fate: Any) -> dict[str, Any] | None:
    """Another fate for a job under way; None if there is none, ValueError if it cannot be."""
    engine.batches.settle()
    job = engine.batches.peek(name.rpartition("/")[2])
    if job is None:
        return None
    if not isinstance(fate, dict):
        raise InvalidFaultError("what becomes of a batch is a JSON object")
    engine.batches.change(job, BatchFate.from_json(fate, job.fate))
    return job.json(engine.clock())


def batch_control_routes(engine: Engine) -> list[Route]:
    """The routes, over one engine."""

    async def list_jobs(request: Request) -> Response:
        return json_reply({"batches": batches_json(engine)})

    async def order(request: Request) -> Response:
        try:
            return json_reply(engine.batches.orders.order(await _body(request)))
        except ValueError as refused:
            return error_reply(invalid_argument(str(refused)))

    async def list_orders(request: Request) -> Response:
        return json_reply({"orders": engine.batches.orders.json()})

    async def clear_orders(request: Request) -> Response:
        engine.batches.orders.clear()
        return json_reply({})

    async def change(request: Request) -> Response:
        try:
            job = change_batch(engine, request.path_params["batch_id"], await _body(request))
        except ValueError as refused:
            return error_reply(invalid_argument(str(refused)))
        return error_reply(not_found()) if job is None else json_reply(job)

    return [
        Route("/_emulator/batches", list_jobs, methods=["GET"]),
        Route("/_emulator/batches/orders", order, methods=["POST"]),
        Route("/_emulator/batches/orders", list_orders, methods=["GET"]),
        Route("/_emulator/batches/orders", clear_orders, methods=["DELETE"]),
        Route("/_emulator/batches/{batch_id}/change", change, methods=["POST"]),
    ]


async def _body(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError:
        raise InvalidFaultError("an order is a JSON object") from None


class Ask(Protocol):
    """Puts a question to the engine in the thread it belongs to."""

    def __call__(self, question: Callable[[Engine], _Result]) -> _Result:
        """The engine's answer."""


class LocalBatches:
    """The batches of a ``LocalGemini``: what they are, and what is to become of them."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs of all keys, oldest first."""
        return self._ask(batches_json)

    def order(self, **order: Any) -> dict[str, Any]:
        """Let something become of jobs that are created; see ``Order`` and ``BatchFate``."""
        return self._ask(lambda engine: engine.batches.orders.order(order))

    def orders(self) -> list[dict[str, Any]]:
        """The orders, with how many jobs they have ``seen`` and were ``applied`` to."""
        return self._ask(lambda engine: engine.batches.orders.json())

    def clear_orders(self) -> None:
        """Everything goes as usual."""
        self._ask(lambda engine: engine.batches.orders.clear())

    def change(self, name: str, **fate: Any) -> dict[str, Any]:
        """Let something else become of a job under way: ``change(name, running_s=0)`` ends it.

        What is not named stays as it was. LookupError without such a job, ValueError if it has
        ended.
        """
        job = self._ask(lambda engine: change_batch(engine, name, fate))
        if job is None:
            raise LookupError(f"there is no batch {name}")
        return job
