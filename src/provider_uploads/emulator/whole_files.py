"""Uploads that are one request: the bytes alone, or after a JSON part.

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

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response

from provider_uploads.emulator.calls import Call
from provider_uploads.emulator.errors import invalid_argument
from provider_uploads.emulator.intake import (
    check_complete,
    disturbed,
    ends_early,
    final_reply,
    take_bytes,
    too_large,
)
from provider_uploads.emulator.metadata import FileMetadata
from provider_uploads.emulator.multipart import Parts, boundary_of
from provider_uploads.emulator.occasions import Trait

_MAX_METADATA_BYTES = 1024 * 1024


async def take_raw(call: Call) -> Response:
    """Make a file of the body; all that is known of it is its type."""
    owner = call.owner()
    metadata = FileMetadata.from_raw(call.request.headers)
    await _meet_faults(call, metadata)
    length_bytes = call.content_length or 0
    if length_bytes > call.engine.config.max_file_bytes:
        raise too_large(call.engine.config.max_file_bytes).final()
    call.engine.check_room(owner, length_bytes)
    return await _take(call, owner, metadata, call.blocks())


async def take_multipart(call: Call) -> Response:
    """Make a file of the second part, described by the first."""
    owner = call.owner()
    boundary = boundary_of(call.request.headers.get("content-type", ""))
    parts = Parts(call.blocks(), boundary)
    description = await _json_part(parts)
    content_type = (await parts.next_part()).content_type
    typed = {"x-goog-upload-header-content-type": content_type} if content_type else {}
    metadata = FileMetadata.from_start(description, typed)
    await _meet_faults(call, metadata)
    return await _take(call, owner, metadata, parts.last_body())


async def _meet_faults(call: Call, metadata: FileMetadata) -> None:
    traits = Trait.FINISHES
    if call.content_length != 0:
        traits |= Trait.BYTES
    if metadata.named:
        traits |= Trait.NAMED
    await call.meet_faults(metadata.labels, traits)


async def _json_part(parts: Parts) -> Any:
    part = await parts.next_part()
    if part.content_type and part.content_type.partition(";")[0].strip() != "application/json":
        raise invalid_argument("The first part of a multipart upload must be application/json.")
    body = bytearray()
    async for block in parts.body():
        body += block
        if len(body) > _MAX_METADATA_BYTES:
            raise invalid_argument("The JSON part of the multipart upload is too large.")
    try:
        return json.loads(body) if body.strip() else {}
    except ValueError:
        raise invalid_argument("The first part of a multipart upload must be JSON.") from None


async def _take(
    call: Call, owner: str, metadata: FileMetadata, blocks: AsyncIterator[bytes]
) -> Response:
    with call.engine.temporary_session(owner, metadata) as session:
        call.brings_bytes_for(session)
        async with session.turn(call.hang_up):
            blocks = disturbed(call, session, blocks)
            await take_bytes(session, blocks, call.engine.config.max_file_bytes)
            if not ends_early(call):
                check_complete(session)
            return final_reply(call, call.finish(session))
