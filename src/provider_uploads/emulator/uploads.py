"""Uploads: which protocol a request speaks, and those that are one request.

POST /upload/v1beta/files           POST /upload/v1beta/files
Content-Type: text/plain            X-Goog-Upload-Protocol: multipart
                                    Content-Type: multipart/related; boundary=b

hello world                         --b
                                    Content-Type: application/json

                                    {"file": {"display_name": "greeting"}}
                                    --b
                                    Content-Type: text/plain

                                    hello world
                                    --b--
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.calls import Call, Endpoint, Handler, answer
from provider_uploads.emulator.classic_uploads import classic_handler
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import (
    ApiError,
    ClientGoneError,
    error_reply,
    invalid_argument,
)
from provider_uploads.emulator.fault_kinds import Trait
from provider_uploads.emulator.json_text import parse_json
from provider_uploads.emulator.multipart import Parts, boundary_of
from provider_uploads.emulator.resumable_uploads import final_reply, resumable_handler
from provider_uploads.emulator.sessions import FileMetadata
from provider_uploads.emulator.upload_bytes import (
    check_complete,
    ends_early,
    take_bytes,
    too_large,
    with_faults,
)
from provider_uploads.emulator.upload_targets import check_room, described, limit_of, undescribed

_MAX_METADATA_BYTES = 1024 * 1024


async def take_raw(call: Call) -> Response:
    """Make a file of the body; all that is known of it is its type."""
    owner = call.owner()
    metadata = undescribed(call)
    await _apply_faults(call, metadata)
    length_bytes = call.content_length or 0
    if length_bytes > limit_of(call, metadata):
        raise too_large(limit_of(call, metadata)).final()
    check_room(call, owner, metadata, length_bytes)
    return await _take(call, owner, metadata, call.blocks())


async def take_multipart(call: Call) -> Response:
    """Make a file of the second part, described by the first."""
    owner = call.owner()
    if not call.engine.config.takes_multipart:
        raise invalid_argument("Multipart uploads are not supported.").final()
    boundary = boundary_of(call.request.headers.get("content-type", ""))
    parts = Parts(call.blocks(), boundary)
    description = await _json_part(parts)
    content_type = (await parts.next_part()).content_type
    typed = {"x-goog-upload-header-content-type": content_type} if content_type else {}
    metadata = described(call, description, typed)
    await _apply_faults(call, metadata)
    return await _take(call, owner, metadata, parts.last_body())


async def take_metadata(call: Call) -> Response:
    """Make an empty file: all there is of it is its description."""
    owner = call.owner()
    metadata = described(call, await call.json(), call.request.headers)
    await _apply_faults(call, metadata)
    return await _take(call, owner, replace(metadata, declared_bytes=None), call.blocks())


async def create_metadata_only(engine: Engine, request: Request) -> Response:
    """``POST /<version>/files``, and a store's ``:uploadToFileSearchStore`` without /upload."""
    return await answer(engine, request, Operation.UPLOAD, take_metadata)


async def _apply_faults(call: Call, metadata: FileMetadata) -> None:
    traits = Trait.FINISHES
    if call.content_length != 0:
        traits |= Trait.BYTES
    if metadata.named:
        traits |= Trait.NAMED
    await call.apply_faults(metadata.labels, traits)


async def _json_part(parts: Parts) -> Any:
    part = await parts.next_part()
    if part.content_type and part.content_type.partition(";")[0].strip() != "application/json":
        raise invalid_argument("The first part of a multipart upload must be application/json.")
    body = bytearray()
    async for block in parts.body():
        body += block
        if len(body) > _MAX_METADATA_BYTES:
            raise invalid_argument("The JSON part of the multipart upload is too large.")
    return parse_json(body)


async def _take(
    call: Call, owner: str, metadata: FileMetadata, blocks: AsyncIterator[bytes]
) -> Response:
    with call.engine.temporary_session(owner, metadata) as session:
        call.brings_bytes_for(session)
        async with session.turn(call.hang_up):
            blocks = with_faults(call, session, blocks)
            try:
                await take_bytes(session, blocks, limit_of(call, metadata))
                if not ends_early(call):
                    check_complete(session)
            except ApiError as refused:
                raise refused if refused.upload_status is not None else refused.final() from None
            call.finish(session)
            return final_reply(call, session)


# X-Goog-Upload-Protocol; uploadType in the query is how Google's older clients say it.
_WHOLE_FILES: dict[str, Handler] = {
    "": take_raw,
    "raw": take_raw,
    "media": take_raw,
    "multipart": take_multipart,
}


async def handle_upload(engine: Engine, request: Request) -> Response:
    """Every request to ``/upload/<version>/files``, and to the same path of a store."""
    known = _handler(request)
    if known is None:
        with contextlib.suppress(ClientGoneError):
            await Call(engine, request, Operation.START).drain()
        return error_reply(
            invalid_argument(
                "X-Goog-Upload-Command: this server knows start at the upload path, and upload, "
                "finalize, query and cancel at the URL that start has answered; without a "
                "command, X-Goog-Upload-Protocol may be raw or multipart."
            )
        )
    operation, handler = known
    return await answer(engine, request, operation, handler)


def _handler(request: Request) -> tuple[Operation, Handler] | None:
    if request.method != "POST":
        return classic_handler(request)
    if "x-goog-upload-command" in request.headers or "upload_id" in request.query_params:
        return resumable_handler(request)
    by_query = request.query_params.get("uploadType", "")
    protocol = request.headers.get("x-goog-upload-protocol", by_query)
    if "x-goog-upload-protocol" not in request.headers and (
        by_query == "resumable" or (not by_query and request.url.path.startswith("/resumable/"))
    ):
        return classic_handler(request)
    handler = _WHOLE_FILES.get(protocol.lower())
    return None if handler is None else (Operation.UPLOAD, handler)


def upload_endpoints(version_path: str) -> list[Endpoint]:
    """Where bytes are taken: for files, and for the documents of a store."""
    store = f"{version_path}/fileSearchStores/{{store}}:uploadToFileSearchStore"
    media = [
        (f"{front}{path}", method, handle_upload)
        for front in ("/upload", "/resumable/upload")
        for path in (f"{version_path}/files", store)
        for method in ("POST", "PUT", "DELETE")
    ]
    return [
        *media,
        (f"{version_path}/files", "POST", create_metadata_only),
        (store, "POST", create_metadata_only),
    ]
