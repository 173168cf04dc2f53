"""The ASGI application: which path leads where."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from provider_uploads.emulator.calls import Call, answer, error_reply, json_reply
from provider_uploads.emulator.config import EmulatorConfig
from provider_uploads.emulator.control import control_routes
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import internal, invalid_argument, not_found
from provider_uploads.emulator.operations import Operation
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

    routes: list[BaseRoute] = [Route("/", _about), *control_routes(engine)]
    for version_path in VERSION_PATHS:
        endpoints: list[tuple[str, str, _Endpoint]] = [
            (f"/upload{version_path}/files", "POST", handle_upload),
            (f"{version_path}/files", "GET", _list),
            (f"{version_path}/files/{{file_id}}", "GET", _get),
            (f"{version_path}/files/{{file_id}}", "DELETE", _delete),
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


async def _get(engine: Engine, request: Request) -> Response:
    async def handler(call: Call) -> Response:
        owner, file_id = call.owner(), _file_id(call)
        return json_reply(call.resource(engine.files.get(file_id, owner)))

    return await answer(engine, request, Operation.GET, handler)


async def _delete(engine: Engine, request: Request) -> Response:
    async def handler(call: Call) -> Response:
        owner, file_id = call.owner(), _file_id(call)
        engine.files.delete(file_id, owner)
        return json_reply({})

    return await answer(engine, request, Operation.DELETE, handler)


async def _list(engine: Engine, request: Request) -> Response:
    async def handler(call: Call) -> Response:
        owner = call.owner()
        call.meet_faults()
        query = call.request.query_params
        page_size = query.get("pageSize", query.get("page_size", "0"))
        if not (page_size.isascii() and page_size.isdigit()):
            raise invalid_argument("ListFilesRequest.page_size: must be a number.")
        page_token = query.get("pageToken", query.get("page_token"))
        files, next_page_token = engine.files.page(owner, int(page_size), page_token)
        # An empty list is an empty object, as always in JSON made from protobuf.
        page: dict[str, object] = {"files": [call.resource(f) for f in files]} if files else {}
        if next_page_token is not None:
            page["nextPageToken"] = next_page_token
        return json_reply(page)

    return await answer(engine, request, Operation.LIST, handler)


def _file_id(call: Call) -> str:
    """The id in the path, once the faults aimed at that file had their chance."""
    file_id: str = call.request.path_params["file_id"]
    if ":" in file_id:  # a custom method such as files/x:download
        raise not_found()
    file = call.engine.files.peek(file_id)
    call.meet_faults((f"files/{file_id}",) if file is None else file.labels)
    return file_id


async def _about(request: Request) -> Response:
    return json_reply(
        {
            "service": "local Gemini",
            "about": "A stand-in for the Gemini File API. It stores files for a while and has no "
            "model. Control it under /_emulator/.",
        }
    )


async def _unknown_path(request: Request, exc: Exception) -> Response:
    return error_reply(not_found())


async def _broken(request: Request, exc: Exception) -> Response:
    return error_reply(internal())
