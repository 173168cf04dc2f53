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

import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from provider_uploads.emulator.calls import Call, Handler, answer
from provider_uploads.emulator.config import Operation, rfc3339
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import ApiError, bad_key, error_reply, json_reply
from provider_uploads.emulator.fault_kinds import Trait
from provider_uploads.emulator.file_calls import page_of
from provider_uploads.emulator.files import Fate, FileStore, StoredFile
from provider_uploads.emulator.gateway_store import GatewaySession, Provider
from provider_uploads.emulator.generation import generate
from provider_uploads.emulator.resumable_uploads import upload_commands
from provider_uploads.emulator.sessions import FileMetadata, SessionState, UploadSession
from provider_uploads.emulator.upload_bytes import ends_early, take_bytes, with_faults

# The type a client names is lost on the way to the provider, and this is said instead.
MIME_TYPE = "application/octet-stream"

# Whose files they are when a client names no key: the gateway has its own.
_NO_KEY = "gateway"


class GatewayRefusalError(ApiError):
    """A refusal in the gateway's words; the code is often 500 whatever the HTTP status is."""

    def __init__(self, http_status: int, message: str, code: int = 500) -> None:
        error = {"code": code, "message": message, "status": "", "details": None}
        super().__init__(http_status, error)


def provider_of(call: Call) -> str:
    """Whom a request about files is for; nobody checks here whether there is such a provider."""
    return call.request.headers.get("x-model-provider") or Provider.GEMINI.value


def files_at(call: Call, provider: str, request_type: str) -> FileStore:
    """The provider's files; 400 if it has none, or none this client can reach."""
    if provider == Provider.GEMINI:
        return call.engine.files
    if provider == Provider.OPENAI:
        return call.engine.gateway.openai_files
    raise GatewayRefusalError(400, f"{request_type} is not supported by {provider} provider")


def client_of(call: Call) -> str:
    """Who asks; the gateway itself does not care."""
    request = call.request
    return request.headers.get("x-goog-api-key") or request.query_params.get("key") or _NO_KEY


def check_upstream(call: Call, owner: str) -> str:
    """The owner as the provider sees it; 400 if it does not know that key."""
    accepted = call.engine.config.api_keys
    if accepted and owner not in accepted:
        raise bad_key()
    return owner


def uploaded(call: Call, provider: str, file: StoredFile) -> dict[str, Any]:
    """A file in the answer to its upload; only a Gemini's uri leads anywhere."""
    public_uri = call.engine.config.public_uri or call.base_url
    uri = f"{public_uri}/v1beta/{file.name}" if provider == Provider.GEMINI else ""
    return _common(call, provider, file) | {"mimeType": MIME_TYPE, "uri": uri}


def listed(call: Call, provider: str, file: StoredFile) -> dict[str, Any]:
    """A file in get and list: without a uri it cannot be part of a prompt."""
    common = _common(call, provider, file)
    empty = {"mimeType": "", "sha256Hash": "", "uri": ""}
    return common | {"updateTime": common["createTime"]} | empty


def _common(call: Call, provider: str, file: StoredFile) -> dict[str, Any]:
    # Never source, the digest, or the error of a file that failed.
    common: dict[str, Any] = {
        "name": file.name if provider == Provider.GEMINI else file.file_id,
        "displayName": file.display_name or "",
        "sizeBytes": str(file.size_bytes or 0),
        "createTime": rfc3339(file.create_ns, fraction_digits=0),
        "state": file.state(call.engine.clock()),
    }
    if file.expire_ns is not None:
        common["expirationTime"] = rfc3339(file.expire_ns, fraction_digits=0)
    return common


UPLOAD_PATH = "/genai/upload/v1beta/files"

_ACTIVE = (b"X-Goog-Upload-Status", b"active")
_FINAL = (b"X-Goog-Upload-Status", b"final")


async def start_upload(call: Call) -> Response:
    """Open a session; no provider hears of it, so none can object."""
    named = FileMetadata.from_start(await call.json(), {})
    metadata = FileMetadata(
        name=None,
        display_name=named.display_name or "upload",
        mime_type=MIME_TYPE,
        declared_bytes=None,
    )
    await call.apply_faults(metadata.labels)
    engine = call.engine
    upload = engine.gateway.start(provider_of(call), client_of(call), metadata, engine.folder)
    url = f"{call.base_url}{UPLOAD_PATH}?upload_id={upload.upload_id}"
    return json_reply({}, headers=[(b"X-Goog-Upload-URL", url.encode()), _ACTIVE])


async def upload_at_once(call: Call) -> Response:
    """Take one complete body for the whole file, whatever its commands and its offset say.

    The session is gone with it: what is sent again is refused. A request that breaks off leaves
    the session as it was.
    """
    session = await _session(call, Trait.BYTES | Trait.FINISHES)
    engine, opened = call.engine, session.upload
    with engine.temporary_session(opened.owner, opened.metadata) as upload:
        async with upload.turn(call.hang_up):
            most_bytes = engine.config.max_file_bytes
            await take_bytes(upload, with_faults(call, upload, call.blocks()), most_bytes)
            if engine.gateway.take(opened.upload_id) is None:
                raise _session_not_found(opened.upload_id)
            file = _send_on(call, session.provider, upload)
            opened.finish(file)
    return json_reply({"file": uploaded(call, session.provider, file)}, headers=[_FINAL])


async def upload_in_chunks(call: Call) -> Response:
    """Let chunks add up until one says ``finalize``; what is sent again is skipped."""
    finishes = "finalize" in upload_commands(call.request)
    session = await _session(call, Trait.BYTES | Trait.FINISHES if finishes else Trait.BYTES)
    upload, gateway = session.upload, call.engine.gateway
    async with upload.turn(call.hang_up):
        known_bytes = upload.received_bytes - _offset(call, upload.received_bytes)
        if known_bytes < 0:
            raise GatewayRefusalError(400, f"expected offset {upload.received_bytes}")
        most_bytes = call.engine.config.max_file_bytes
        blocks = with_faults(call, upload, _skip(call.blocks(), known_bytes))
        await take_bytes(upload, blocks, most_bytes)
        if not (finishes or ends_early(call)):
            return json_reply({}, headers=[_ACTIVE])
        if gateway.take(upload.upload_id) is None:
            raise _session_not_found(upload.upload_id)
        try:
            file = _send_on(call, session.provider, upload)
        finally:
            if upload.state is SessionState.ACTIVE:
                upload.cancel()
    return json_reply({"file": uploaded(call, session.provider, file)}, headers=[_FINAL])


async def _session(call: Call, traits: Trait) -> GatewaySession:
    """The session a request names; faults aimed at it had their chance."""
    upload_id = call.request.query_params["upload_id"]
    session = call.engine.gateway.get(upload_id)
    if session is None:
        await call.apply_faults()
        raise _session_not_found(upload_id)
    call.project = session.upload.owner
    call.brings_bytes_for(session.upload)
    if call.content_length == 0:
        traits &= ~Trait.BYTES
    await call.apply_faults(session.upload.metadata.labels, traits)
    return session


def _session_not_found(upload_id: str) -> GatewayRefusalError:
    return GatewayRefusalError(500, f'upload session not found for id "{upload_id}"')


def _offset(call: Call, default: int) -> int:
    value = call.request.headers.get("x-goog-upload-offset")
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{1,19}", value):
        raise GatewayRefusalError(400, "the upload offset must be a number of bytes")
    return int(value)


async def _skip(blocks: AsyncIterator[bytes], skip_bytes: int) -> AsyncIterator[bytes]:
    async for block in blocks:
        if skip_bytes < len(block):
            yield block[skip_bytes:]
        skip_bytes = max(0, skip_bytes - len(block))


def _send_on(call: Call, provider: str, upload: UploadSession) -> StoredFile:
    """Give the bytes to the provider: only now is it known whether it takes files at all."""
    engine = call.engine
    store = files_at(call, provider, "file_upload")
    if not upload.received_bytes:
        raise GatewayRefusalError(500, "file content is required")
    check_upstream(call, upload.owner)
    if provider == Provider.GEMINI:
        return call.finish(upload)
    fault = call.apply_file_fault(upload.metadata.labels, named=False)
    file = StoredFile(
        file_id=store.name_for(None),
        owner=upload.owner,
        display_name=upload.metadata.display_name,
        mime_type=MIME_TYPE,
        size_bytes=upload.received_bytes,
        sha256_hex=upload.sha256_hex,
        create_ns=engine.clock(),
        fate=Fate.ACTIVE if fault is None else fault.rule.fate,
        sequence=store.next_sequence(),
        lifetime_ns=None,
        path=upload.path if engine.keeps(upload.path) else None,
    )
    upload.finish(file)
    store.add(file)
    engine.counters.files_made += 1
    return file


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
            return await answer(engine, request, operation, partial(in_its_words, handler))

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


def unknown_path(path: str) -> Response:
    """What the gateway's router says of a path it has no route for."""
    return error_reply(GatewayRefusalError(404, f"Route not found: {path}", 404))


async def in_its_words(handler: Handler, call: Call) -> Response:
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
    await call.apply_faults((file_id,) if file is None else (file_id, *file.labels))
    store = files_at(call, provider_of(call), request_type)
    owner = check_upstream(call, client_of(call))
    try:
        return store, store.get(file_id, owner)
    except ApiError:
        if at_gemini:
            raise
        raise GatewayRefusalError(404, f"No such File object: {file_id}", 404) from None


async def _list(call: Call) -> Response:
    await call.apply_faults()
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
