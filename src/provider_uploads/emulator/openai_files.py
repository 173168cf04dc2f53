"""The OpenAI-compatible calls about files: the same files, in OpenAI's shape.

POST /v1beta/openai/files          Authorization: Bearer <the API key>
Content-Type: multipart/form-data; boundary=b

--b … name="purpose" … user_data --b … name="file"; filename="a.pdf" … <bytes> --b--

Google's documentation sends files by the File API; some clients send them here.
"""

from __future__ import annotations

import mimetypes
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from provider_uploads.emulator.calls import Call, Endpoint, Handler, answer, bearer_token
from provider_uploads.emulator.config import SECOND_NS, Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import (
    ApiError,
    bad_key,
    invalid_argument,
    json_reply,
    listed,
)
from provider_uploads.emulator.fault_kinds import Trait
from provider_uploads.emulator.files import Source, StoredFile
from provider_uploads.emulator.multipart import Part, Parts, boundary_of
from provider_uploads.emulator.sessions import FileMetadata
from provider_uploads.emulator.upload_bytes import take_bytes, with_faults

_MAX_FIELD_BYTES = 64 * 1024
_MAX_LIMIT = 10_000
_STATUS = {"PROCESSING": "uploaded", "ACTIVE": "processed", "FAILED": "error"}


def owner_of(call: Call) -> str:
    """The API key, which OpenAI's clients send as a bearer token; 400 if it is not known."""
    token = bearer_token(call.request)
    if token is None:
        return call.owner()
    accepted = call.engine.config.api_keys
    if accepted and token not in accepted:
        raise bad_key()
    call.project = token
    return token


async def answer_openai(
    engine: Engine, request: Request, operation: Operation, handler: Handler
) -> Response:
    """Answer one call; an error is a list of one, as the service has it under these paths."""

    async def in_a_list(call: Call) -> Response:
        try:
            return await handler(call)
        except ApiError as refused:
            await call.drain()
            return listed(refused)

    return await answer(engine, request, operation, in_a_list)


async def create_file(engine: Engine, request: Request) -> Response:
    """``POST /<version>/openai/files``."""

    async def handler(call: Call) -> Response:
        owner = owner_of(call)
        content_type = request.headers.get("content-type", "")
        parts = Parts(call.blocks(), boundary_of(content_type, "multipart/form-data"))
        purpose, file = "user_data", None
        while (part := await parts.next_or_none()) is not None:
            if part.name == "file":
                if file is not None:
                    raise invalid_argument("file: only one can be sent at a time.")
                file = await _take(call, owner, part, parts)
            else:
                value = await _field(parts)
                purpose = value if part.name == "purpose" else purpose
        if file is None:
            raise invalid_argument("file: is missing.")
        return json_reply(_resource(engine, file) | {"purpose": purpose})

    return await answer_openai(engine, request, Operation.UPLOAD, handler)


async def _field(parts: Parts) -> str:
    value = bytearray()
    async for block in parts.body():
        value += block
        if len(value) > _MAX_FIELD_BYTES:
            raise invalid_argument("A field of the form is too large.")
    return value.decode(errors="replace")


async def _take(call: Call, owner: str, part: Part, parts: Parts) -> StoredFile:
    filename = part.filename or "upload"
    named = part.content_type or "application/octet-stream"
    if named == "application/octet-stream":
        named = mimetypes.guess_type(filename)[0] or named
    metadata = FileMetadata(name=None, display_name=filename, mime_type=named, declared_bytes=None)
    await call.apply_faults(metadata.labels, Trait.FINISHES | Trait.BYTES)
    with call.engine.temporary_session(owner, metadata) as session:
        call.brings_bytes_for(session)
        async with session.turn(call.hang_up):
            blocks = with_faults(call, session, parts.body())
            await take_bytes(session, blocks, call.engine.config.max_file_bytes)
            return call.finish(session)


async def list_files(engine: Engine, request: Request) -> Response:
    """``GET /<version>/openai/files``: newest first, ``after`` and ``limit`` as OpenAI has them."""

    async def handler(call: Call) -> Response:
        owner = owner_of(call)
        await call.apply_faults()
        query = request.query_params
        limit = query.get("limit", str(_MAX_LIMIT))
        if not (limit.isascii() and limit.isdigit() and 0 < int(limit[:9]) <= _MAX_LIMIT):
            raise invalid_argument(f"limit: must be from 1 to {_MAX_LIMIT}.")
        files = [file for file in engine.files if file.owner == owner]
        if query.get("order") != "asc":
            files.reverse()
        names = [file.name for file in files]
        after = query.get("after")
        first = names.index(after) + 1 if after in names else 0
        page = files[first : first + int(limit)]
        data = [_resource(engine, file) for file in page]
        ends = {"first_id": page[0].name, "last_id": page[-1].name} if page else {}
        more = first + len(page) < len(files)
        return json_reply({"object": "list", "data": data, "has_more": more} | ends)

    return await answer_openai(engine, request, Operation.LIST, handler)


async def get_file(engine: Engine, request: Request) -> Response:
    """``GET /<version>/openai/files/{id}``."""

    async def handler(call: Call) -> Response:
        return json_reply(_resource(engine, await _file_of(call)))

    return await answer_openai(engine, request, Operation.GET, handler)


async def delete_file(engine: Engine, request: Request) -> Response:
    """``DELETE /<version>/openai/files/{id}``."""

    async def handler(call: Call) -> Response:
        file = await _file_of(call)
        engine.files.delete(file.file_id, file.owner)
        return json_reply({"id": file.name, "object": "file", "deleted": True})

    return await answer_openai(engine, request, Operation.DELETE, handler)


async def file_content(engine: Engine, request: Request) -> Response:
    """``GET /<version>/openai/files/{id}/content``: of generated files only."""

    async def handler(call: Call) -> Response:
        file = await _file_of(call)
        if file.source is not Source.GENERATED or file.path is None:
            raise invalid_argument(
                f"The file {file.name} is {file.source}: only generated files can be downloaded."
            )
        return FileResponse(file.path, media_type=file.mime_type)

    return await answer_openai(engine, request, Operation.DOWNLOAD, handler)


async def _file_of(call: Call) -> StoredFile:
    owner = owner_of(call)
    file_id: str = call.request.path_params["file_id"].removeprefix("files/")
    file = call.engine.files.peek(file_id)
    await call.apply_faults((f"files/{file_id}",) if file is None else file.labels)
    return call.engine.files.get(file_id, owner)


def _resource(engine: Engine, file: StoredFile) -> dict[str, Any]:
    resource: dict[str, Any] = {
        "id": file.name,
        "object": "file",
        "bytes": file.size_bytes or 0,
        "created_at": file.create_ns // SECOND_NS,
        "filename": file.display_name or file.file_id,
        "purpose": "user_data",
        "status": _STATUS[file.state(engine.clock())],
    }
    if file.expire_ns is not None:
        resource["expires_at"] = file.expire_ns // SECOND_NS
    return resource


def openai_file_endpoints(version_path: str) -> list[Endpoint]:
    """The paths of these calls."""
    files = f"{version_path}/openai/files"
    file = f"{files}/{{file_id:path}}"
    return [
        (files, "POST", create_file),
        (files, "GET", list_files),
        (f"{file}/content", "GET", file_content),
        (file, "GET", get_file),
        (file, "DELETE", delete_file),
    ]
