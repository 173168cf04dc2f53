"""Uploads through the gateway: a session of one minute, and then all bytes at once."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from starlette.responses import Response

from provider_uploads.emulator.calls import Call
from provider_uploads.emulator.gateway_files import (
    MIME_TYPE,
    GatewayRefusalError,
    check_upstream,
    client_of,
    files_at,
    provider_of,
    uploaded,
)
from provider_uploads.emulator.gateway_store import GatewaySession, Provider
from provider_uploads.emulator.intake import disturbed, ends_early, take_bytes
from provider_uploads.emulator.metadata import FileMetadata
from provider_uploads.emulator.occasions import Trait
from provider_uploads.emulator.replies import json_reply
from provider_uploads.emulator.resumable import upload_commands
from provider_uploads.emulator.sessions import SessionState, UploadSession
from provider_uploads.emulator.stored_file import Fate, StoredFile

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
    await call.meet_faults(metadata.labels)
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
            await take_bytes(upload, disturbed(call, upload, call.blocks()), most_bytes)
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
        blocks = disturbed(call, upload, _skip(call.blocks(), known_bytes))
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
        await call.meet_faults()
        raise _session_not_found(upload_id)
    call.project = session.upload.owner
    call.brings_bytes_for(session.upload)
    if call.content_length == 0:
        traits &= ~Trait.BYTES
    await call.meet_faults(session.upload.metadata.labels, traits)
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
    fault = call.meet_file_fault(upload.metadata.labels, named=False)
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
        path=upload.path if engine.config.keep_bytes else None,
    )
    upload.finish(file)
    store.add(file)
    engine.counters.files_made += 1
    return file
