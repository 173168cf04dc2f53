"""The ASGI application: the routes, and the control endpoints under ``/_emulator/``.

    POST /_emulator/faults  {"operation": "upload", "kind": "reset", "after_bytes": 1048576}
    POST /_emulator/faults/mix  {"share": 0.2, "seed": 7}
    POST /_emulator/faults/mix  {"share": 1, "kinds": ["internal"], "operations": ["get", "list"],
                                 "for_s": 300}
    GET  /_emulator/faults      DELETE /_emulator/faults    DELETE /_emulator/faults/<id>
    GET  /_emulator/counters    DELETE /_emulator/counters
    GET  /_emulator/files       GET    /_emulator/sessions
    GET  /_emulator/clock       POST   /_emulator/clock   {"advance_s": 3600}
    GET  /_emulator/batches     and more in batch_controls.py and webhook_controls.py
    GET  /_emulator/health      POST   /_emulator/reset     GET    /_emulator/
    POST /_emulator/generated?display_name=out&mime_type=application/json&name=files/batch-1
         x-goog-api-key: the owner's key                  the body is the file

``clock`` only goes forward, and ``reset`` leaves it where it is. ``generated`` makes a file that
can be downloaded, and answers its File resource. Only that needs a key, because a key is whose
file it is; beyond that they need no key, have no latency and are not counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from provider_uploads.emulator.batch_controls import batch_control_routes
from provider_uploads.emulator.batches import batch_routes
from provider_uploads.emulator.cache_calls import cache_endpoints
from provider_uploads.emulator.calls import Endpoint, base_url_of, project_key_of
from provider_uploads.emulator.config import EmulatorConfig
from provider_uploads.emulator.embeddings import embedding_endpoints
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
from provider_uploads.emulator.gateway_batches import gateway_batch_routes
from provider_uploads.emulator.generation import count_tokens, generate_content
from provider_uploads.emulator.json_text import parse_json
from provider_uploads.emulator.methods import discovery_route, leftover_routes
from provider_uploads.emulator.models import get_model, list_models
from provider_uploads.emulator.openai_chat import openai_chat_endpoints
from provider_uploads.emulator.openai_files import openai_file_endpoints
from provider_uploads.emulator.search_calls import search_endpoints
from provider_uploads.emulator.sessions import FileMetadata
from provider_uploads.emulator.streams import stream_generate_content
from provider_uploads.emulator.upload_bytes import take_bytes
from provider_uploads.emulator.uploads import upload_endpoints
from provider_uploads.emulator.webhook_calls import jwks_route, webhook_routes
from provider_uploads.emulator.webhook_controls import webhook_control_routes


def control_routes(engine: Engine) -> list[Route]:
    """The routes, over one engine."""

    async def order(kind: type[Fault] | type[FaultMix], request: Request) -> Response:
        try:
            ordered = kind.from_json(parse_json(await request.body()))
        except ApiError as refused:
            return error_reply(refused)
        except InvalidFaultError as refused:
            return error_reply(invalid_argument(str(refused)))
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
            order = parse_json(await request.body())
            if not isinstance(order, dict) or set(order) != {"advance_s"}:
                raise ValueError('a JSON object with "advance_s" and nothing else is needed')
            engine.clock.advance(order["advance_s"])
        except ApiError as refused:
            return error_reply(refused)
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
        return json_reply(engine.resource(file, base_url_of(request)))

    async def index(request: Request) -> Response:
        return json_reply(
            {
                "about": "What this local Gemini is told to do, and what it has seen.",
                "endpoints": [f"{verb} {route.path}" for route in routes for verb in verbs(route)],
            }
        )

    def verbs(route: Route) -> list[str]:
        return sorted((route.methods or set()) - {"HEAD"})

    async def health(request: Request) -> Response:
        return json_reply({"status": "ok"})

    async def reset(request: Request) -> Response:
        engine.reset()
        return json_reply({})

    routes = [
        Route("/_emulator/", index, methods=["GET"]),
        Route("/_emulator", index, methods=["GET"]),
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
    return routes


# The SDK's 3.x series asks for v1, older ones and curl for v1beta; with an empty version, for none.
VERSION_PATHS = ("/v1", "/v1beta", "/v1alpha", "")

# A page of any origin may call and read everything, as at the service.
_FOR_BROWSERS = Middleware(
    CORSMiddleware,
    allow_origins=["*"],
    allow_methods=["*"],
    allow_headers=["*"],
    expose_headers=[
        "Location",
        "Range",
        "X-Goog-Upload-Chunk-Granularity",
        "X-Goog-Upload-Control-URL",
        "X-Goog-Upload-Size-Received",
        "X-Goog-Upload-Status",
        "X-Goog-Upload-URL",
        "X-GUploader-UploadID",
    ],
    max_age=3600,
)


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
            async with engine.batches.ticking(), engine.webhook_sender.ticking():
                yield
        finally:
            engine.close()

    routes: list[BaseRoute] = [
        Route("/", _about),
        *control_routes(engine),
        *batch_control_routes(engine),
        *webhook_control_routes(engine),
        jwks_route(engine),
        *gateway_routes(engine),
        *gateway_batch_routes(engine),
    ]
    for version_path in VERSION_PATHS:
        endpoints: list[Endpoint] = [
            *upload_endpoints(version_path),
            *search_endpoints(version_path),
            (f"{version_path}/files", "GET", list_files),
            (f"{version_path}/files:register", "POST", register_files),
            (f"{version_path}/files/{{file_id}}:download", "GET", redirect_download),
            (f"/download{version_path}/files/{{file_id}}:download", "GET", download_file),
            (f"{version_path}/files/{{file_id}}", "GET", get_file),
            (f"{version_path}/files/{{file_id}}", "DELETE", delete_file),
            *cache_endpoints(version_path),
            *embedding_endpoints(version_path),
            *openai_chat_endpoints(version_path),
            *openai_file_endpoints(version_path),
            (f"{version_path}/models", "GET", list_models),
            (f"{version_path}/models/{{model}}", "GET", get_model),
            (f"{version_path}/models/{{model}}:generateContent", "POST", generate_content),
            (f"{version_path}/models/{{model}}:countTokens", "POST", count_tokens),
            (
                f"{version_path}/models/{{model}}:streamGenerateContent",
                "POST",
                stream_generate_content,
            ),
        ]
        routes += [
            Route(path, partial(endpoint, engine), methods=[method])
            for path, method, endpoint in endpoints
        ]
        routes += batch_routes(engine, version_path)
        routes += webhook_routes(engine, version_path)
    routes += [discovery_route(routes), *leftover_routes(routes, VERSION_PATHS)]
    app = Starlette(
        routes=routes,
        middleware=[_FOR_BROWSERS],
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
            "model and says so. Its methods are at /$discovery/rest, a gateway is under /genai, "
            "control it under /_emulator/.",
        }
    )


async def _unknown_path(request: Request, exc: Exception) -> Response:
    if request.url.path.startswith(f"{GATEWAY_PREFIX}/"):
        return unknown_path(request.url.path)
    return error_reply(not_found())


async def _broken(request: Request, exc: Exception) -> Response:
    return error_reply(internal())
