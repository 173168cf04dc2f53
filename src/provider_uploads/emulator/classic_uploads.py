"""The resumable protocol of Google's older clients: a Location, PUT with Content-Range, 308.

    POST /upload/v1beta/files?uploadType=resumable     PUT <Location>
    X-Upload-Content-Type: text/plain                  Content-Range: bytes 0-262143/300000
    X-Upload-Content-Length: 300000
                                                       <bytes>
    {"file": {"displayName": "greeting"}}
                                                       308 Resume Incomplete
    200 OK                                             Range: bytes=0-262143
    Location: <Location>

``Content-Range: bytes */300000`` without bytes asks where to go on; without the header a PUT
brings the whole file; DELETE gives the session up. It is what ``mediaUpload`` in the discovery
document describes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.calls import Call, Handler
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.errors import gone, invalid_argument, json_reply
from provider_uploads.emulator.resumable_uploads import (
    check_repeated,
    most_bytes_of,
    result_of,
    session_of,
    upload_traits,
)
from provider_uploads.emulator.sessions import SessionState, UploadSession
from provider_uploads.emulator.upload_bytes import (
    check_complete,
    ends_early,
    take_bytes,
    too_large,
    with_faults,
)
from provider_uploads.emulator.upload_targets import check_room, described, final_body, limit_of

_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(?:(\d{1,19})|\*)")


@dataclass(frozen=True)
class _Range:
    """What a request brings: bytes from ``start`` on, None for none, of ``total`` if it is known.

    ``length_bytes`` None is all there are.
    """

    start: int | None
    length_bytes: int | None
    total: int | None

    @classmethod
    def of(cls, request: Request) -> _Range:
        """Read Content-Range; 400 if it is none."""
        header = request.headers.get("content-range")
        if header is None:
            return cls(0, None, None)
        found = _RANGE.fullmatch(header.strip())
        if found is None:
            raise invalid_argument(
                f"Content-Range: must be bytes <from>-<to>/<all>, not {header!r}."
            )
        first, last, total = (None if group is None else int(group) for group in found.groups())
        if first is None or last is None:
            return cls(None, 0, total)
        if last < first or (total is not None and last >= total):
            raise invalid_argument(f"Content-Range: {header!r} makes no sense.")
        return cls(first, last - first + 1, total)

    @property
    def is_last(self) -> bool:
        """Whether nothing comes after it."""
        if self.start is None or self.length_bytes is None:
            return self.start is not None
        return self.total is not None and self.start + self.length_bytes == self.total


def classic_handler(request: Request) -> tuple[Operation, Handler] | None:
    """What a request of this protocol means; None if it is none of its requests."""
    if "upload_id" not in request.query_params:
        return (Operation.START, _start) if request.method == "POST" else None
    if request.method == "DELETE":
        return Operation.CANCEL, _cancel
    if request.headers.get("content-range", "").startswith("bytes */"):
        return Operation.QUERY, _query
    return Operation.UPLOAD, _upload


async def _start(call: Call) -> Response:
    owner = call.owner()
    own = {"x-upload-content-type": "type", "x-upload-content-length": "length"}
    headers = {
        f"x-goog-upload-header-content-{what}": call.request.headers[name]
        for name, what in own.items()
        if name in call.request.headers
    }
    metadata = described(call, await call.json(), headers)
    await call.apply_faults(metadata.labels)
    if (metadata.declared_bytes or 0) > limit_of(call, metadata):
        raise too_large(limit_of(call, metadata))
    check_room(call, owner, metadata, metadata.declared_bytes or 0)
    session = call.engine.start_session(owner, metadata)
    location = (
        f"{call.base_url}{call.request.url.path}?uploadType=resumable&upload_id={session.upload_id}"
    )
    headers_out = [
        (b"Location", location.encode()),
        (b"X-GUploader-UploadID", session.upload_id.encode()),
    ]
    return json_reply({}, headers=headers_out)


async def _upload(call: Call) -> Response:
    session = session_of(call)
    call.brings_bytes_for(session)
    brought = _Range.of(call.request)
    commands = frozenset({"upload", "finalize"} if brought.is_last else {"upload"})
    await call.apply_faults(session.metadata.labels, upload_traits(call, session, commands))
    async with session.turn(call.hang_up):
        if session.state is not SessionState.ACTIVE:
            await check_repeated(call, session, brought.start)
            return _final(call, session)
        _check(call, session, brought)
        await take_bytes(
            session, with_faults(call, session, call.blocks()), _most(call, session, brought)
        )
        if not ends_early(call):
            if not brought.is_last:
                return _incomplete(session)
            check_complete(session)
        call.finish(session)
        return _final(call, session)


async def _query(call: Call) -> Response:
    session = session_of(call)
    total = _Range.of(call.request).total
    await call.apply_faults(session.metadata.labels)
    async with session.turn(call.hang_up):
        if session.state is not SessionState.ACTIVE:
            return _final(call, session)
        if total is None or session.received_bytes != total:
            return _incomplete(session)
        check_complete(session)  # all are there, the last PUT did not know that it was the last
        call.finish(session)
        return _final(call, session)


async def _cancel(call: Call) -> Response:
    session = session_of(call)
    await call.apply_faults(session.metadata.labels)
    async with session.turn(call.hang_up, at_once=True):
        if session.state is not SessionState.ACTIVE:
            raise gone("The upload is over.")
        session.cancel()
        return Response(status_code=499)  # what the front end answers when an upload is given up


def _check(call: Call, session: UploadSession, brought: _Range) -> None:
    received_bytes = session.received_bytes
    if brought.start != received_bytes:
        raise invalid_argument(
            f"Content-Range: begins at {brought.start}, but {received_bytes} bytes have arrived."
        )
    length_bytes = call.content_length
    if None not in (length_bytes, brought.length_bytes) and length_bytes != brought.length_bytes:
        raise invalid_argument(
            f"Content-Range: names {brought.length_bytes} bytes, the request has {length_bytes}."
        )
    granularity_bytes = call.engine.config.chunk_granularity_bytes
    if not brought.is_last and (brought.length_bytes or 0) % granularity_bytes:
        raise invalid_argument(
            f"Every chunk but the last must be a multiple of {granularity_bytes} bytes, "
            f"this has {brought.length_bytes}."
        )
    declared_bytes = session.metadata.declared_bytes
    if None not in (brought.total, declared_bytes) and brought.total != declared_bytes:
        raise invalid_argument(
            f"Content-Range: names {brought.total} bytes in all, {declared_bytes} were declared."
        )


def _most(call: Call, session: UploadSession, brought: _Range) -> int:
    most_bytes = most_bytes_of(call, session)
    if brought.length_bytes is None:
        return most_bytes
    return min(most_bytes, session.received_bytes + brought.length_bytes)


def _incomplete(session: UploadSession) -> Response:
    headers = {"X-GUploader-UploadID": session.upload_id}
    if session.received_bytes:
        headers["Range"] = f"bytes=0-{session.received_bytes - 1}"
    return Response(status_code=308, headers=headers)


def _final(call: Call, session: UploadSession) -> Response:
    return json_reply(final_body(call, session, result_of(session)))
