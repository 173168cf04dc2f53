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
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.calls import Call, Handler
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.errors import (
    ApiError,
    RawHeaders,
    gone,
    invalid_argument,
    json_reply,
)
from provider_uploads.emulator.fault_kinds import Trait
from provider_uploads.emulator.files import StoredFile
from provider_uploads.emulator.sessions import SessionState, UploadSession
from provider_uploads.emulator.upload_bytes import (
    check_complete,
    ends_early,
    take_bytes,
    too_large,
    with_faults,
)
from provider_uploads.emulator.upload_targets import check_room, described, final_body, limit_of


def final_reply(call: Call, session: UploadSession) -> Response:
    """The answer to an upload that has become a file; if it was refused, that again."""
    file = result_of(session)
    return json_reply(
        final_body(call, session, file),
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
    metadata = described(call, await call.json(), call.request.headers)
    await call.apply_faults(metadata.labels)
    max_bytes = limit_of(call, metadata)
    if metadata.declared_bytes is not None and metadata.declared_bytes > max_bytes:
        raise too_large(max_bytes)
    check_room(call, owner, metadata, metadata.declared_bytes or 0)
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
    session = session_of(call)
    call.brings_bytes_for(session)
    commands = upload_commands(call.request)
    await call.apply_faults(session.metadata.labels, upload_traits(call, session, commands))
    async with session.turn(call.hang_up), refusals_with_status(session):
        if session.state is not SessionState.ACTIVE:
            return await _finished(call, session)
        session.leave_hole(_check_chunk(call, session, commands))
        blocks = with_faults(call, session, call.blocks())
        await take_bytes(session, blocks, most_bytes_of(call, session))
        if not ends_early(call):
            if "finalize" not in commands:
                return json_reply({}, headers=_active(call, session))
            check_complete(session)  # if not, the client may query and send what is missing
        call.finish(session)
        return final_reply(call, session)


@asynccontextmanager
async def refusals_with_status(session: UploadSession) -> AsyncIterator[None]:
    """Let a refusal say where the session stands after it: it may go on, or be over.

    google-genai takes an error with ``active`` for success and goes on; it then fails at its last
    chunk, which is refused too. A refusal that has a status already keeps it.
    """
    try:
        yield
    except ApiError as refused:
        raise refused if refused.upload_status is not None else refused.at(session) from None


def upload_traits(call: Call, session: UploadSession, commands: frozenset[str]) -> Trait:
    """What there is about a request with bytes for a session."""
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

    The answer to the first finalize may have been lost: who finalizes again gets it again.
    """
    result_of(session)
    if "finalize" not in upload_commands(call.request):
        raise invalid_argument("The upload has already been finalized.")
    await check_repeated(call, session, _offset_header(call))
    return final_reply(call, session)


async def check_repeated(call: Call, session: UploadSession, offset: int | None) -> None:
    """400 unless a request to a session that is over brings the bytes it brought before."""
    file = result_of(session)
    content_hash = session.hash_at(file.size_bytes or 0 if offset is None else offset)
    length_bytes = 0
    async for block in with_faults(call, session, call.blocks()):
        length_bytes += len(block)
        if content_hash is not None:
            content_hash.update(block)
    bare = offset is None and not length_bytes
    same = content_hash is not None and content_hash.hexdigest() == file.sha256_hex
    if not (bare or same):
        raise invalid_argument(
            "The upload has already been finalized; the bytes of this request were not stored."
        )


async def _query(call: Call) -> Response:
    session = session_of(call)
    await call.apply_faults(session.metadata.labels)
    # A request sent before this one may still wait unread on a new connection: let it have its
    # turn first, or the offset named here would be outdated at once.
    for _ in range(_ROUNDS_TO_ACCEPT):
        await asyncio.sleep(0)
    async with session.turn(call.hang_up):
        if session.state is SessionState.ACTIVE:
            return json_reply({}, headers=_active(call, session))
        return final_reply(call, session)


async def _cancel(call: Call) -> Response:
    session = session_of(call)
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
    """
    received_bytes = session.received_bytes
    offset = _offset_header(call)
    if offset is None and "upload" in commands:
        raise invalid_argument("X-Goog-Upload-Offset: is missing.")
    goes_on_at = received_bytes
    if offset is not None and received_bytes < offset <= session.lost_until:
        goes_on_at = offset
    if offset is not None and offset != goes_on_at:
        raise invalid_argument(
            f"X-Goog-Upload-Offset: is {offset}, but {received_bytes} bytes have arrived."
        )
    length_bytes = call.content_length
    if length_bytes is None:
        return goes_on_at
    if length_bytes and "upload" not in commands:
        raise invalid_argument("finalize without upload has no body.")
    granularity_bytes = call.engine.config.chunk_granularity_bytes
    if "finalize" not in commands and length_bytes % granularity_bytes:
        raise invalid_argument(
            f"Every chunk but the last must be a multiple of {granularity_bytes} bytes, "
            f"this has {length_bytes}."
        )
    most_bytes = most_bytes_of(call, session)
    if goes_on_at + length_bytes > most_bytes:
        raise too_large(most_bytes)
    return goes_on_at


def session_of(call: Call) -> UploadSession:
    """The session a request names; 404 if nobody knows it."""
    session = call.engine.sessions.get(call.request.query_params["upload_id"])
    call.project = session.owner
    return session


def result_of(session: UploadSession) -> StoredFile:
    """The file a session ended with; what it ended with instead is raised."""
    if isinstance(session.outcome, ApiError):
        raise session.outcome
    if session.outcome is None:
        raise gone("The upload was cancelled.")
    return session.outcome


def most_bytes_of(call: Call, session: UploadSession) -> int:
    """How large the file may get: what was declared, else the limit."""
    declared_bytes = session.metadata.declared_bytes
    return limit_of(call, session.metadata) if declared_bytes is None else declared_bytes


def _offset_header(call: Call) -> int | None:
    value = call.request.headers.get("x-goog-upload-offset")
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,19}", value):
        raise invalid_argument("X-Goog-Upload-Offset: must be a number of bytes.")
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
