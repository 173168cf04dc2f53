"""A gateway in front of several providers, as Bifrost is one: the routes under ``/genai``.

    POST /genai/upload/v1beta/files               POST <session URL>
    x-model-provider: openai                      <all bytes>
    {"file": {"display_name": "in.jsonl"}}

    200 OK                                        200 OK
    X-Goog-Upload-Status: active                  X-Goog-Upload-Status: final
    X-Goog-Upload-URL: <session URL>              {"file": {"name": "file-…", "uri": "", …}}
    {}

Only ``v1beta`` is there, and neither ``:download`` nor ``files:register``. A session lives for a
minute and is gone with the first complete request that uses it, whose body is taken for the whole
file: of what google-genai sends in several chunks only the first is kept, and a request that is
sent again gets 500. Only the HTTP status of an error can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from provider_uploads.emulator.calls import Call, Handler, answer
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import ApiError
from provider_uploads.emulator.file_calls import page_of
from provider_uploads.emulator.files import FileStore
from provider_uploads.emulator.gateway_files import (
    GatewayRefusalError,
    check_upstream,
    client_of,
    files_at,
    listed,
    provider_of,
)
from provider_uploads.emulator.gateway_store import Provider
from provider_uploads.emulator.gateway_uploads import (
    UPLOAD_PATH,
    start_upload,
    upload_at_once,
    upload_in_chunks,
)
from provider_uploads.emulator.generation import generate
from provider_uploads.emulator.operations import Operation
from provider_uploads.emulator.replies import json_reply
from provider_uploads.emulator.stored_file import StoredFile

PREFIX = "/genai"

_Choice = tuple[Operation, Handler]


def gateway_routes(engine: Engine) -> list[Route]:
    """The routes, over the engine of the service behind the gateway."""
    upload = upload_at_once if engine.config.gateway_finalizes_first else upload_in_chunks

    def upload_step(request: Request) -> _Choice:
        # Whether there is a session tells a start from an upload, not the commands.
        if "upload_id" in request.query_params:
            return Operation.UPLOAD, upload
        return Operation.START, start_upload

    def always(operation: Operation, handler: Handler) -> Callable[[Request], _Choice]:
        return lambda request: (operation, handler)

    def route(path: str, method: str, choose: Callable[[Request], _Choice]) -> Route:
        async def endpoint(request: Request) -> Response:
            operation, handler = choose(request)
            return await answer(engine, request, operation, partial(_in_its_words, handler))

        return Route(path, endpoint, methods=[method])

    file_path = f"{PREFIX}/v1beta/files/{{file_id}}"
    model_path = f"{PREFIX}/v1beta/models/{{model:path}}:generateContent"
    return [
        route(UPLOAD_PATH, "POST", upload_step),
        route(f"{PREFIX}/v1beta/files", "GET", always(Operation.LIST, _list)),
        route(file_path, "GET", always(Operation.GET, _get)),
        route(file_path, "DELETE", always(Operation.DELETE, _delete)),
        route(model_path, "POST", always(Operation.GENERATE, _generate)),
    ]


def unknown_path() -> Response:
    """What the gateway's router says of a path it has no route for."""
    return PlainTextResponse("Not Found", 404)


async def _in_its_words(handler: Handler, call: Call) -> Response:
    """Answer what a provider refused as the gateway puts it."""
    try:
        return await handler(call)
    except GatewayRefusalError:
        raise
    except ApiError as refused:
        message = (refused.error or {}).get("message", "")
        raise GatewayRefusalError(refused.http_status, message, refused.http_status) from None


async def _get(call: Call) -> Response:
    _, file = await _addressed(call, "file_retrieve")
    return json_reply(listed(call, provider_of(call), file))


async def _delete(call: Call) -> Response:
    store, file = await _addressed(call, "file_delete")
    store.delete(file.file_id, file.owner)
    return json_reply({})


async def _addressed(call: Call, request_type: str) -> tuple[FileStore, StoredFile]:
    """The file of the path and where it is; faults aimed at it had their chance."""
    file_id: str = call.request.path_params["file_id"]
    if ":" in file_id:  # a custom method: the gateway has none for files
        raise GatewayRefusalError(404, "route not found", 404)
    at_gemini = provider_of(call) == Provider.GEMINI
    file = (call.engine.files if at_gemini else call.engine.gateway.openai_files).peek(file_id)
    await call.meet_faults((file_id,) if file is None else (file_id, *file.labels))
    store = files_at(call, provider_of(call), request_type)
    owner = check_upstream(call, client_of(call))
    try:
        return store, store.get(file_id, owner)
    except ApiError:
        if at_gemini:
            raise
        raise GatewayRefusalError(404, f"No such File object: {file_id}", 404) from None


async def _list(call: Call) -> Response:
    await call.meet_faults()
    provider = provider_of(call)
    store = files_at(call, provider, "file_list")
    files, next_page_token = page_of(call, store, check_upstream(call, client_of(call)))
    page: dict[str, Any] = {"files": [listed(call, provider, file) for file in files]}
    if next_page_token is not None:
        page["nextPageToken"] = next_page_token
    return json_reply(page)


async def _generate(call: Call) -> Response:
    """The provider stands before the model's name here; the header is not looked at."""
    provider, slash, model = call.request.path_params["model"].partition("/")
    if not slash:
        provider, model = Provider.GEMINI.value, provider
    if provider != Provider.GEMINI:
        raise GatewayRefusalError(400, f"there are no models of the provider {provider} here")
    return await generate(call, check_upstream(call, client_of(call)), model)
