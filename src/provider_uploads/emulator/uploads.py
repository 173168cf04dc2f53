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
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from enum import Enum, auto
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.calls import Call, Handler, answer
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import (
    ApiError,
    ClientGoneError,
    error_reply,
    invalid_argument,
)
from provider_uploads.emulator.fault_kinds import Trait
from provider_uploads.emulator.resumable_uploads import (
    check_complete,
    ends_early,
    final_reply,
    resumable_handler,
    take_bytes,
    too_large,
    with_faults,
)
from provider_uploads.emulator.sessions import FileMetadata

_MAX_PREAMBLE_BYTES = 64 * 1024
_MAX_HEADER_BYTES = 16 * 1024
_MAX_BOUNDARY_CHARS = 70
_MAX_PADDING_BYTES = 16
_PADDING = rb"[ \t]{0,16}"


@dataclass(frozen=True)
class Part:
    """A part begins; its bytes follow."""

    content_type: str | None


def boundary_of(content_type: str) -> bytes:
    """The boundary that a request's Content-Type names; 400 if it is not multipart/related."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    if (
        message.get_content_type() != "multipart/related"
        or not boundary
        or not boundary.isascii()
        or len(boundary) > _MAX_BOUNDARY_CHARS
    ):
        raise _malformed("its Content-Type must be multipart/related with a boundary")
    return boundary.encode()


class _State(Enum):
    PREAMBLE = auto()
    HEADERS = auto()
    BODY = auto()
    EPILOGUE = auto()


class MultipartParser:
    """Blocks in, parts and their bytes out; holds back no more than a boundary is long.

    Lines end as the first boundary's does: with CRLF as they should, or with LF as Python's own
    email package, and with it Google's older client, writes them.
    """

    def __init__(self, boundary: bytes) -> None:
        self._boundary = re.escape(b"--" + boundary)
        self._first = re.compile(rb"(?:\A|\n)" + self._boundary + _PADDING + rb"(\r?\n)")
        self._next = self._first
        self._newline = b""
        self._hold_bytes = len(boundary) + _MAX_PADDING_BYTES + 6
        self._buffer = bytearray()
        self._state = _State.PREAMBLE

    def feed(self, block: bytes) -> Iterator[Part | bytes]:
        """What is complete with this block."""
        self._buffer += block
        while True:
            before = self._state
            match before:
                case _State.PREAMBLE:
                    self._preamble()
                case _State.HEADERS:
                    yield from self._headers()
                case _State.BODY:
                    yield from self._body()
                case _State.EPILOGUE:
                    self._buffer.clear()
            if self._state is before:
                return

    def end(self) -> None:
        """400 unless the closing boundary was there."""
        if self._state is not _State.EPILOGUE:
            raise _malformed("it ends before its closing boundary")

    def _preamble(self) -> None:
        found = self._first.search(self._buffer)
        if found is not None:
            self._newline = found[1]
            end = re.escape(self._newline)
            self._next = re.compile(end + self._boundary + rb"(?:(--)|" + _PADDING + end + rb")")
            self._begin_headers(found.end())
        elif len(self._buffer) > _MAX_PREAMBLE_BYTES:
            raise _malformed("its boundary is nowhere to be found")

    def _begin_headers(self, end: int) -> None:
        # The end of the boundary's line stays: without any header, it begins the empty line.
        del self._buffer[: end - len(self._newline)]
        self._state = _State.HEADERS

    def _headers(self) -> Iterator[Part]:
        end = self._buffer.find(self._newline * 2)
        if end > _MAX_HEADER_BYTES or (end < 0 and len(self._buffer) > _MAX_HEADER_BYTES):
            raise _malformed("the headers of a part are too long")
        if end >= 0:
            text = bytes(self._buffer[len(self._newline) : end + 2 * len(self._newline)])
            del self._buffer[: end + 2 * len(self._newline)]
            self._state = _State.BODY
            yield _part(text)

    def _body(self) -> Iterator[bytes]:
        found = self._next.search(self._buffer)
        size = len(self._buffer) - self._hold_bytes if found is None else found.start()
        if size > 0:
            yield bytes(self._buffer[:size])
        if found is None:
            del self._buffer[: max(0, size)]
        elif found[1]:
            self._state = _State.EPILOGUE
        else:
            self._begin_headers(found.end())


class Parts:
    """The parts of a body, one after the other."""

    def __init__(self, blocks: AsyncIterator[bytes], boundary: bytes) -> None:
        self._events = _events(blocks, MultipartParser(boundary))
        self._begun: Part | None = None

    async def next_part(self) -> Part:
        """The part that comes now; 400 if there is none."""
        if self._begun is None:
            event = await anext(self._events, None)
            if not isinstance(event, Part):
                raise _malformed("it has a JSON part and a media part")
            return event
        part, self._begun = self._begun, None
        return part

    async def body(self) -> AsyncIterator[bytes]:
        """The bytes of the part that has begun."""
        async for event in self._events:
            if isinstance(event, Part):
                self._begun = event
                return
            yield event

    async def last_body(self) -> AsyncIterator[bytes]:
        """The bytes of the part that has begun; 400 if another one follows."""
        async for block in self.body():
            yield block
        if self._begun is not None:
            raise _malformed("it has a JSON part and a media part, and no other")


async def _events(
    blocks: AsyncIterator[bytes], parser: MultipartParser
) -> AsyncIterator[Part | bytes]:
    async for block in blocks:
        for event in parser.feed(block):
            yield event
    parser.end()


def _part(text: bytes) -> Part:
    headers = BytesHeaderParser().parsebytes(text)
    if headers.defects:
        raise _malformed("a part has a header that is none")
    if str(headers.get("Content-Transfer-Encoding", "binary")).lower() not in (
        "binary",
        "8bit",
        "7bit",
    ):
        raise _malformed("its parts must be binary")
    content_type = headers.get("Content-Type")
    return Part(None if content_type is None else str(content_type).strip())


def _malformed(complaint: str) -> ApiError:
    return invalid_argument(f"The multipart upload is malformed: {complaint}.").final()


_MAX_METADATA_BYTES = 1024 * 1024


async def take_raw(call: Call) -> Response:
    """Make a file of the body; all that is known of it is its type."""
    owner = call.owner()
    metadata = FileMetadata.from_raw(call.request.headers)
    await _apply_faults(call, metadata)
    length_bytes = call.content_length or 0
    if length_bytes > call.engine.config.max_file_bytes:
        raise too_large(call.engine.config.max_file_bytes).final()
    call.engine.check_storage(owner, length_bytes)
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
    await _apply_faults(call, metadata)
    return await _take(call, owner, metadata, parts.last_body())


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
            blocks = with_faults(call, session, blocks)
            await take_bytes(session, blocks, call.engine.config.max_file_bytes)
            if not ends_early(call):
                check_complete(session)
            return final_reply(call, call.finish(session))


# X-Goog-Upload-Protocol; uploadType in the query is how Google's older clients say it.
_WHOLE_FILES: dict[str, Handler] = {
    "": take_raw,
    "raw": take_raw,
    "media": take_raw,
    "multipart": take_multipart,
}


async def handle_upload(engine: Engine, request: Request) -> Response:
    """Every request to ``/upload/<version>/files``."""
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
    if "x-goog-upload-command" in request.headers or "upload_id" in request.query_params:
        return resumable_handler(request)
    by_query = request.query_params.get("uploadType", "")
    protocol = request.headers.get("x-goog-upload-protocol", by_query)
    handler = _WHOLE_FILES.get(protocol.lower())
    return None if handler is None else (Operation.UPLOAD, handler)
