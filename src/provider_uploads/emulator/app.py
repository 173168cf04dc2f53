"""The ASGI application: the routes, and the control endpoints under ``/_emulator/``.

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
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from provider_uploads.emulator.calls import base_url_of, project_key_of
from provider_uploads.emulator.config import EmulatorConfig
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import (
    ApiError,
    InvalidFaultError,
    error_reply,
    internal,
    invalid_argument,
    json_reply,
    not_found,
)
from provider_uploads.emulator.faults import Fault, FaultMix
from provider_uploads.emulator.file_calls import (
    delete_file,
    download_file,
    get_file,
    list_files,
    redirect_download,
    register_files,
)
from provider_uploads.emulator.files import Source
from provider_uploads.emulator.gateway import PREFIX as GATEWAY_PREFIX
from provider_uploads.emulator.gateway import gateway_routes, unknown_path
from provider_uploads.emulator.generation import generate_content
from provider_uploads.emulator.resumable_uploads import take_bytes
from provider_uploads.emulator.sessions import FileMetadata
from provider_uploads.emulator.uploads import handle_upload


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
            with engine.temporary_session(project_key_of(engine, request), metadata) as session:
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


# The SDK's 3.x series asks for v1, older ones and curl for v1beta; with an empty version, for none.
VERSION_PATHS = ("/v1", "/v1beta", "/v1alpha", "")

_Endpoint = Callable[[Engine, Request], Awaitable[Response]]


def create_app(config: EmulatorConfig | None = None) -> Starlette:
    """A local Gemini as an ASGI application, for any server.

    Only under ``serve`` and ``LocalGemini`` can connections be reset: other servers do not lend
    theirs, an ordered reset is answered with 500 there.
    """
    return app_for(Engine(config or EmulatorConfig()))


def app_for(engine: Engine) -> Starlette:
    """The application over an engine that is there already."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            engine.close()

    routes: list[BaseRoute] = [
        Route("/", _about),
        *control_routes(engine),
        *gateway_routes(engine),
    ]
    for version_path in VERSION_PATHS:
        endpoints: list[tuple[str, str, _Endpoint]] = [
            (f"/upload{version_path}/files", "POST", handle_upload),
            (f"{version_path}/files", "GET", list_files),
            (f"{version_path}/files:register", "POST", register_files),
            (f"{version_path}/files/{{file_id}}:download", "GET", redirect_download),
            (f"/download{version_path}/files/{{file_id}}:download", "GET", download_file),
            (f"{version_path}/files/{{file_id}}", "GET", get_file),
            (f"{version_path}/files/{{file_id}}", "DELETE", delete_file),
            (f"{version_path}/models/{{model:path}}:generateContent", "POST", generate_content),
        ]
        routes += [
            Route(path, partial(endpoint, engine), methods=[method])
            for path, method, endpoint in endpoints
        ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={404: _unknown_path, 405: _unknown_path, Exception: _broken},
    )
    app.router.redirect_slashes = False
    app.state.engine = engine
    return app


async def _about(request: Request) -> Response:
    return json_reply(
        {
            "service": "local Gemini",
            "about": "A stand-in for the Gemini File API. It stores files for a while, has no "
            "model and says so. A gateway is under /genai. Control it under /_emulator/.",
        }
    )


async def _unknown_path(request: Request, exc: Exception) -> Response:
    if request.url.path.startswith(f"{GATEWAY_PREFIX}/"):
        return unknown_path()
    return error_reply(not_found())


async def _broken(request: Request, exc: Exception) -> Response:
    return error_reply(internal())
