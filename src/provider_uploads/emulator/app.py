"""The ASGI application: which path leads where."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from provider_uploads.emulator.config import EmulatorConfig
from provider_uploads.emulator.control import control_routes
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import internal, not_found
from provider_uploads.emulator.file_calls import (
    delete_file,
    download_file,
    get_file,
    list_files,
    redirect_download,
    register_files,
)
from provider_uploads.emulator.gateway import PREFIX as GATEWAY_PREFIX
from provider_uploads.emulator.gateway import gateway_routes, unknown_path
from provider_uploads.emulator.generation import generate_content
from provider_uploads.emulator.replies import error_reply, json_reply
from provider_uploads.emulator.uploads import handle_upload

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
