"""The ways to upload: resumable in several requests, raw and multipart in one."""

from __future__ import annotations

import contextlib

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.calls import Call, Handler, answer
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import ClientGoneError, invalid_argument
from provider_uploads.emulator.operations import Operation
from provider_uploads.emulator.replies import error_reply
from provider_uploads.emulator.resumable import resumable_handler
from provider_uploads.emulator.whole_files import take_multipart, take_raw

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
