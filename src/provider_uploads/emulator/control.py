"""The control endpoints under ``/_emulator/``: order faults, see what really happened.

    POST /_emulator/faults  {"operation": "upload", "kind": "reset", "after_bytes": 1048576}
    GET  /_emulator/faults      DELETE /_emulator/faults
    GET  /_emulator/counters    DELETE /_emulator/counters
    GET  /_emulator/files       GET    /_emulator/sessions
    GET  /_emulator/health      POST   /_emulator/reset

They need no key, have no latency and are not counted.
"""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from provider_uploads.emulator.calls import error_reply, json_reply
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import InvalidFaultError, invalid_argument
from provider_uploads.emulator.faults import Fault


def control_routes(engine: Engine) -> list[Route]:
    """The routes, over one engine."""

    async def order_fault(request: Request) -> Response:
        try:
            fault = Fault.from_json(json.loads(await request.body()))
        except InvalidFaultError as refused:
            return error_reply(invalid_argument(str(refused)))
        except ValueError:
            return error_reply(invalid_argument("a fault is a JSON object"))
        return json_reply(engine.faults.order(fault))

    async def list_faults(request: Request) -> Response:
        return json_reply({"faults": engine.faults.json()})

    async def clear_faults(request: Request) -> Response:
        engine.faults.clear()
        return json_reply({})

    async def show_counters(request: Request) -> Response:
        return json_reply(engine.counters_json())

    async def clear_counters(request: Request) -> Response:
        engine.counters.clear()
        return json_reply({})

    async def list_files(request: Request) -> Response:
        return json_reply({"files": engine.files_json()})

    async def list_sessions(request: Request) -> Response:
        return json_reply({"sessions": engine.sessions_json()})

    async def health(request: Request) -> Response:
        return json_reply({"status": "ok"})

    async def reset(request: Request) -> Response:
        engine.reset()
        return json_reply({})

    return [
        Route("/_emulator/faults", order_fault, methods=["POST"]),
        Route("/_emulator/faults", list_faults, methods=["GET"]),
        Route("/_emulator/faults", clear_faults, methods=["DELETE"]),
        Route("/_emulator/counters", show_counters, methods=["GET"]),
        Route("/_emulator/counters", clear_counters, methods=["DELETE"]),
        Route("/_emulator/files", list_files, methods=["GET"]),
        Route("/_emulator/sessions", list_sessions, methods=["GET"]),
        Route("/_emulator/health", health, methods=["GET"]),
        Route("/_emulator/reset", reset, methods=["POST"]),
    ]
