"""The resumable upload protocol, as the service speaks it.

    POST /upload/v1beta/files                        POST <session URL>
    X-Goog-Upload-Protocol: resumable                X-Goog-Upload-Command: upload, finalize
    X-Goog-Upload-Command: start                     X-Goog-Upload-Offset: 0
    X-Goog-Upload-Header-Content-Length: 11
    X-Goog-Upload-Header-Content-Type: text/plain    hello world
    {"file": {"display_name": "greeting"}}

    200 OK                                           200 OK
    X-Goog-Upload-Status: active                     X-Goog-Upload-Status: final
    X-Goog-Upload-URL: <session URL>                 {"file": {"name": "files/…", …}}
    X-Goog-Upload-Chunk-Granularity: 262144

Further commands to the session URL: ``upload`` (more will follow), ``finalize`` (no bytes),
``query`` (X-Goog-Upload-Size-Received says where to go on) and ``cancel``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.calls import Call, Handler
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.errors import (
    ApiError,
    HangUpError,
    RawHeaders,
    gone,
    invalid_argument,
    json_reply,
)
from provider_uploads.emulator.fault_kinds import AtBytes, Trait
from provider_uploads.emulator.faults import Fault
from provider_uploads.emulator.files import StoredFile
from provider_uploads.emulator.sessions import FileMetadata, SessionState, UploadSession


async def take_bytes(session: UploadSession, blocks: AsyncIterator[bytes], most_bytes: int) -> None:
    """Append what arrives; 400 if the file gets larger than ``most_bytes``."""
    with session.writer() as writer:
        async for block in blocks:
            if session.state is not SessionState.ACTIVE:
                raise gone("The upload was cancelled.")
            room_bytes = most_bytes - session.received_bytes
            writer.write(block[:room_bytes])
            if len(block) > room_bytes:
                raise too_large(most_bytes).final(session.received_bytes)


async def with_faults(
    call: Call, session: UploadSession, blocks: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """The blocks, until and unless a fault strikes among them."""
    fault = call.fault
    if fault is None or fault.rule.at_bytes is None:
        async for block in blocks:
            yield block
        return
    if fault.rule.at_bytes is AtBytes.DROP:
        lost_bytes = 0
        async for block in blocks:
            lost_bytes += len(block)
        session.lost_until = max(session.lost_until, session.received_bytes + lost_bytes)
        raise fault.dropped
    left_bytes = fault.place_bytes(call.content_length)
    struck = not left_bytes and fault.rule.at_bytes is AtBytes.STALL
    if struck:  # reading does not even begin
        await _strike(call, fault)
    async for block in blocks:
        if struck or left_bytes > len(block):
            left_bytes -= len(block)
            yield block
            continue
        yield block[:left_bytes]
        await _strike(call, fault)
        struck = True
        if not ends_early(call):
            yield block[left_bytes:]
            continue
        async for _ in blocks:  # a client that still sends would not read the answer
            pass
    if not struck:  # fewer bytes than that: it strikes where they end
        await _strike(call, fault)


async def _strike(call: Call, fault: Fault) -> None:
    if fault.rule.at_bytes is AtBytes.HANG_UP:
        raise HangUpError
    if fault.rule.at_bytes is AtBytes.STALL:
        await call.stall(fault.pause_s)


def ends_early(call: Call) -> bool:
    """Shall the upload be called complete, whatever is missing?"""
    return call.fault is not None and call.fault.rule.at_bytes is AtBytes.END


def check_complete(session: UploadSession) -> None:
    """400 if other than the declared number of bytes has arrived; the session lives on."""
    declared_bytes = session.metadata.declared_bytes
    if declared_bytes is not None and session.received_bytes != declared_bytes:
        raise invalid_argument(
            f"The upload was to have {declared_bytes} bytes, {session.received_bytes} have arrived."
        ).final(session.received_bytes)


def too_large(most_bytes: int) -> ApiError:
    """400: more bytes than a file may have, or than were declared."""
    return invalid_argument(f"The file is larger than the {most_bytes} bytes it may have.")


def final_reply(call: Call, file: StoredFile) -> Response:
    """The answer to an upload that has become a file."""
    return json_reply(
        {"file": call.resource(file)},
        headers=[
            (b"X-Goog-Upload-Status", b"final"),
            (b"X-Goog-Upload-Size-Received", str(file.size_bytes).encode()),
        ],
    )


# Rounds of asyncio's loop from a connection in the backlog to its request's first step, and some.
_ROUNDS_TO_ACCEPT = 10


def upload_commands(request: Request) -> frozenset[str]:
    """What a request is to do: ``upload, finalize`` is both at once."""
    header = request.headers.get("x-goog-upload-command", "")
    return frozenset(re.findall(r"[^,\s]+", header.lower()))


def resumable_handler(request: Request) -> tuple[Operation, Handler] | None:
    """What a request means follows from its commands and from whether it names a session."""
    return _HANDLERS.get((upload_commands(request), "upload_id" in request.query_params))


async def _start(call: Call) -> Response:
    owner = call.owner()
    metadata = FileMetadata.from_start(await call.json(), call.request.headers)
    await call.apply_faults(metadata.labels)
    max_file_bytes = call.engine.config.max_file_bytes
    if metadata.declared_bytes is not None and metadata.declared_bytes > max_file_bytes:
        raise too_large(max_file_bytes)
    call.engine.check_storage(owner, metadata.declared_bytes or 0)
    session = call.engine.start_session(owner, metadata)
    url = (
        f"{call.base_url}{call.request.url.path}"
        f"?upload_id={session.upload_id}&upload_protocol=resumable"
    ).encode()
    # The spelling of URL matters: aiohttp's users look for exactly this one or all lower case.
    headers = [
        (b"X-Goog-Upload-Status", b"active"),
        (b"X-Goog-Upload-URL", url),
        (b"X-Goog-Upload-Control-URL", url),
        _granularity(call),
        (b"X-GUploader-UploadID", session.upload_id.encode()),
    ]
    return json_reply({}, headers=headers)


async def _upload(call: Call) -> Response:
    session = _session(call)
    call.brings_bytes_for(session)
    commands = upload_commands(call.request)
    await call.apply_faults(session.metadata.labels, _traits(call, session, commands))
    async with session.turn(call.hang_up):
        if session.state is not SessionState.ACTIVE:
            return await _finished(call, session)
        session.leave_hole(_check_chunk(call, session, commands))
        blocks = with_faults(call, session, call.blocks())
        await take_bytes(session, blocks, _most_bytes(call, session))
        if not ends_early(call):
            if "finalize" not in commands:
                return json_reply({}, headers=_active(call, session))
            check_complete(session)  # if not, the client may query and send what is missing
        return final_reply(call, call.finish(session))


def _traits(call: Call, session: UploadSession, commands: frozenset[str]) -> Trait:
    if session.state is not SessionState.ACTIVE:
        return Trait.NONE
    traits = Trait.SESSION
    if "upload" in commands and call.content_length != 0:
        traits |= Trait.BYTES
    if "finalize" in commands:
        traits |= Trait.FINISHES
    if session.metadata.named:
        traits |= Trait.NAMED
    return traits


async def _finished(call: Call, session: UploadSession) -> Response:
    """Answer an upload request to a session that is over.

    The answer to the first finalize may have been lost: the same request again gets it again.
    """
    file = _result(session)
    offset = _offset_header(call)
    length_bytes = 0
    async for block in with_faults(call, session, call.blocks()):
        length_bytes += len(block)
    repeated = offset is None or offset + length_bytes == file.size_bytes
    if "finalize" in upload_commands(call.request) and repeated:
        return final_reply(call, file)
    raise invalid_argument("The upload has already been finalized.").final(file.size_bytes)


async def _query(call: Call) -> Response:
    session = _session(call)
    await call.apply_faults(session.metadata.labels)
    # A request sent before this one may still wait unread on a new connection: let it have its
    # turn first, or the offset named here would be outdated at once.
    for _ in range(_ROUNDS_TO_ACCEPT):
        await asyncio.sleep(0)
    async with session.turn(call.hang_up):
        if session.state is SessionState.ACTIVE:
            return json_reply({}, headers=_active(call, session))
        return final_reply(call, _result(session))


async def _cancel(call: Call) -> Response:
    session = _session(call)
    await call.apply_faults(session.metadata.labels)
    async with session.turn(call.hang_up, at_once=True):
        if session.state is SessionState.FINAL:
            raise invalid_argument("The upload has already been finalized.").final()
        if session.state is SessionState.CANCELLED:
            raise gone("The upload was cancelled.")
        session.cancel()
        return json_reply({}, headers=[(b"X-Goog-Upload-Status", b"cancelled")])


def _check_chunk(call: Call, session: UploadSession, commands: frozenset[str]) -> int:
    """Refuse what can be refused before any byte is taken; returned is where to go on.

    That is where the session stands, or further on where bytes were lost as ordered.
    The refusals say ``final`` though the session lives on: google-genai takes an error with
    ``active`` for success and would run on, leaving a hole.
    """
    received_bytes = session.received_bytes
    offset = _offset_header(call)
    if offset is None and "upload" in commands:
        raise invalid_argument("X-Goog-Upload-Offset: is missing.").final(received_bytes)
    goes_on_at = received_bytes
    if offset is not None and received_bytes < offset <= session.lost_until:
        goes_on_at = offset
    if offset is not None and offset != goes_on_at:
        raise invalid_argument(
            f"X-Goog-Upload-Offset: is {offset}, but {received_bytes} bytes have arrived."
        ).final(received_bytes)
    length_bytes = call.content_length
    if length_bytes is None:
        return goes_on_at
    if length_bytes and "upload" not in commands:
        raise invalid_argument("finalize without upload has no body.").final(received_bytes)
    granularity_bytes = call.engine.config.chunk_granularity_bytes
    if "finalize" not in commands and length_bytes % granularity_bytes:
        raise invalid_argument(
            f"Every chunk but the last must be a multiple of {granularity_bytes} bytes, "
            f"this has {length_bytes}."
        ).final(received_bytes)
    most_bytes = _most_bytes(call, session)
    if goes_on_at + length_bytes > most_bytes:
        raise too_large(most_bytes).final(received_bytes)
    return goes_on_at


def _session(call: Call) -> UploadSession:
    session = call.engine.sessions.get(call.request.query_params["upload_id"])
    call.project = session.owner
    return session


def _result(session: UploadSession) -> StoredFile:
    """The file a session ended with; what it ended with instead is raised."""
    if isinstance(session.outcome, ApiError):
        raise session.outcome
    if session.outcome is None:
        raise gone("The upload was cancelled.")
    return session.outcome


def _most_bytes(call: Call, session: UploadSession) -> int:
    declared_bytes = session.metadata.declared_bytes
    return call.engine.config.max_file_bytes if declared_bytes is None else declared_bytes


def _offset_header(call: Call) -> int | None:
    value = call.request.headers.get("x-goog-upload-offset")
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,19}", value):
        raise invalid_argument("X-Goog-Upload-Offset: must be a number of bytes.").final()
    return int(value)


def _granularity(call: Call) -> tuple[bytes, bytes]:
    granularity_bytes = call.engine.config.chunk_granularity_bytes
    return (b"X-Goog-Upload-Chunk-Granularity", str(granularity_bytes).encode())


def _active(call: Call, session: UploadSession) -> RawHeaders:
    return [
        (b"X-Goog-Upload-Status", b"active"),
        (b"X-Goog-Upload-Size-Received", str(session.received_bytes).encode()),
        _granularity(call),
    ]


_UPLOADS: tuple[frozenset[str], ...] = (
    frozenset({"upload"}),
    frozenset({"upload", "finalize"}),
    frozenset({"finalize"}),
)

_HANDLERS: dict[tuple[frozenset[str], bool], tuple[Operation, Handler]] = {
    (frozenset({"start"}), False): (Operation.START, _start),
    (frozenset({"query"}), True): (Operation.QUERY, _query),
    (frozenset({"cancel"}), True): (Operation.CANCEL, _cancel),
    **{(commands, True): (Operation.UPLOAD, _upload) for commands in _UPLOADS},
}
