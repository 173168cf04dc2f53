"""File bytes on their way from a request into a session, and the answer when all are there."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.responses import Response

from provider_uploads.emulator.calls import Call, json_reply
from provider_uploads.emulator.errors import ApiError, HangUpError, gone, invalid_argument
from provider_uploads.emulator.sessions import SessionState, UploadSession
from provider_uploads.emulator.stored_file import StoredFile


async def take_bytes(
    session: UploadSession,
    blocks: AsyncIterator[bytes],
    most_bytes: int,
    stop_after_bytes: int | None = None,
) -> None:
    """Append what arrives; 400 if the file gets larger than ``most_bytes``.

    ``stop_after_bytes`` is an ordered fault: hang up when so many of these have been taken, or
    when they end.
    """
    offset = session.received_bytes
    with session.writer() as writer:
        async for block in blocks:
            if session.state is not SessionState.ACTIVE:
                raise gone("The upload was cancelled.")
            if stop_after_bytes is not None:
                block = block[: offset + stop_after_bytes - session.received_bytes]
            room_bytes = most_bytes - session.received_bytes
            writer.write(block[:room_bytes])
            if len(block) > room_bytes:
                raise too_large(most_bytes).final(session.received_bytes)
            if stop_after_bytes == session.received_bytes - offset:
                raise HangUpError
    if stop_after_bytes is not None:
        raise HangUpError


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
