"""Multipart bodies, read as they arrive: parts, and their bytes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from enum import Enum, auto

from provider_uploads.emulator.errors import ApiError, invalid_argument

_MAX_PREAMBLE_BYTES = 64 * 1024
_MAX_HEADER_BYTES = 16 * 1024
_MAX_BOUNDARY_CHARS = 70
_MAX_PADDING_BYTES = 16
_PADDING = rb"[ \t]{0,16}"


@dataclass(frozen=True)
class Part:
    """A part begins; its bytes follow."""

    content_type: str | None
    name: str | None = None
    filename: str | None = None


def boundary_of(content_type: str, wanted: str = "multipart/related") -> bytes:
    """The boundary that a request's Content-Type names; 400 if it is not of the wanted type."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    if (
        message.get_content_type() != wanted
        or not boundary
        or not boundary.isascii()
        or len(boundary) > _MAX_BOUNDARY_CHARS
    ):
        raise _malformed(f"its Content-Type must be {wanted} with a boundary")
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
        part = await self.next_or_none()
        if part is None:
            raise _malformed("it has a JSON part and a media part")
        return part

    async def next_or_none(self) -> Part | None:
        """The part that comes now, once the body of the one before has been read."""
        if self._begun is None:
            event = await anext(self._events, None)
            return event if isinstance(event, Part) else None
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
    headers = HeaderParser().parsestr(text.decode(errors="replace"))
    if headers.defects:
        raise _malformed("a part has a header that is none")
    if str(headers.get("Content-Transfer-Encoding", "binary")).lower() not in (
        "binary",
        "8bit",
        "7bit",
    ):
        raise _malformed("its parts must be binary")
    content_type = headers.get("Content-Type")
    name = headers.get_param("name", header="Content-Disposition")
    return Part(
        None if content_type is None else str(content_type).strip(),
        name if isinstance(name, str) else None,
        headers.get_filename(),
    )


def _malformed(complaint: str) -> ApiError:
    return invalid_argument(f"The multipart upload is malformed: {complaint}.").final()
