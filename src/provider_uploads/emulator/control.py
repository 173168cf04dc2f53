"""The control endpoints under ``/_emulator/``: order faults, see what really happened.

    POST /_emulator/faults  {"operation": "upload", "kind": "reset", "after_bytes": 1048576}
    POST /_emulator/faults/mix  {"share": 0.2, "seed": 7}
    POST /_emulator/faults/mix  {"share": 1, "kinds": ["internal"], "operations": ["get", "list"],
                                 "for_s": 300}
    GET  /_emulator/faults      DELETE /_emulator/faults    DELETE /_emulator/faults/<id>
    GET  /_emulator/counters    DELETE /_emulator/counters
    GET  /_emulator/files       GET    /_emulator/sessions
    GET  /_emulator/clock       POST   /_emulator/clock   {"advance_s": 3600}
    GET  /_emulator/health      POST   /_emulator/reset
    POST /_emulator/generated?display_name=out&mime_type=application/json&name=files/batch-1
         x-goog-api-key: the owner's key                  the body is the file

``clock`` only goes forward, and ``reset`` leaves it where it is. ``generated`` makes a file that
can be downloaded, and answers its File resource. Only that needs a key, because a key is whose
file it is; beyond that they need no key, have no latency and are not counted.
"""

from __future__ import annotations

import json
from functools import partial

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from provider_uploads.emulator.calls import base_url_of
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import (
    ApiError,
    InvalidFaultError,
    invalid_argument,
    not_found,
)
from provider_uploads.emulator.fault_mix import FaultMix
from provider_uploads.emulator.faults import Fault
from provider_uploads.emulator.intake import take_bytes
from provider_uploads.emulator.metadata import FileMetadata
from provider_uploads.emulator.owners import owner_of
from provider_uploads.emulator.replies import error_reply, json_reply
from provider_uploads.emulator.stored_file import Source


def control_routes(engine: Engine) -> list[Route]:
    """The routes, over one engine."""

    async def order(kind: type[Fault] | type[FaultMix], request: Request) -> Response:
        try:
            ordered = kind.from_json(json.loads(await request.body()))
        except InvalidFaultError as refused:
            return error_reply(invalid_argument(str(refused)))
        except ValueError:
            return error_reply(invalid_argument("a fault is a JSON object"))
        return json_reply(engine.faults.order(ordered))

    async def list_faults(request: Request) -> Response:
        return json_reply({"faults": engine.faults.json()})

    async def clear_faults(request: Request) -> Response:
        engine.faults.clear()
        return json_reply({})

    async def end_fault(request: Request) -> Response:
        entry = engine.faults.end(request.path_params["order_id"])
        return error_reply(not_found()) if entry is None else json_reply(entry)

    async def show_counters(request: Request) -> Response:
        return json_reply(engine.counters_json())

    async def clear_counters(request: Request) -> Response:
        engine.counters.clear()
        return json_reply({})

    async def list_files(request: Request) -> Response:
        return json_reply({"files": engine.files_json()})

    async def list_sessions(request: Request) -> Response:
        return json_reply({"sessions": engine.sessions_json()})

    async def show_clock(request: Request) -> Response:
        return json_reply(engine.clock_json())

    async def advance_clock(request: Request) -> Response:
        try:
            order = json.loads(await request.body())
            if not isinstance(order, dict) or set(order) != {"advance_s"}:
                raise ValueError('a JSON object with "advance_s" and nothing else is needed')
            engine.clock.advance(order["advance_s"])
        except ValueError as refused:
            return error_reply(invalid_argument(str(refused)))
        return json_reply(engine.clock_json())

    async def make_generated(request: Request) -> Response:
        query = request.query_params
        metadata = FileMetadata(
            name=query.get("name"),
            display_name=query.get("display_name"),
            mime_type=query.get("mime_type", "application/octet-stream"),
            declared_bytes=None,
        )
        try:
            with engine.temporary_session(owner_of(engine, request), metadata) as session:
                await take_bytes(session, request.stream(), engine.config.max_file_bytes)
                file = engine.finish_session(session, Source.GENERATED)
        except ApiError as refused:
            return error_reply(refused)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        encoding = engine.config.sha256_encoding
        return json_reply(file.resource(engine.clock(), base_url_of(request), encoding))

    async def health(request: Request) -> Response:
        return json_reply({"status": "ok"})

    async def reset(request: Request) -> Response:
        engine.reset()
        return json_reply({})

    return [
        Route("/_emulator/faults", partial(order, Fault), methods=["POST"]),
        Route("/_emulator/faults/mix", partial(order, FaultMix), methods=["POST"]),
        Route("/_emulator/faults/{order_id:int}", end_fault, methods=["DELETE"]),
        Route("/_emulator/faults", list_faults, methods=["GET"]),
        Route("/_emulator/faults", clear_faults, methods=["DELETE"]),
        Route("/_emulator/counters", show_counters, methods=["GET"]),
        Route("/_emulator/counters", clear_counters, methods=["DELETE"]),
        Route("/_emulator/files", list_files, methods=["GET"]),
        Route("/_emulator/sessions", list_sessions, methods=["GET"]),
        Route("/_emulator/clock", show_clock, methods=["GET"]),
        Route("/_emulator/clock", advance_clock, methods=["POST"]),
        Route("/_emulator/generated", make_generated, methods=["POST"]),
        Route("/_emulator/health", health, methods=["GET"]),
        Route("/_emulator/reset", reset, methods=["POST"]),
    ]
