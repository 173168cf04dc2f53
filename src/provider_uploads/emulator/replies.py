"""Answers as they go on the wire."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from provider_uploads.emulator.errors import ApiError

RawHeaders = Sequence[tuple[bytes, bytes]]


def json_reply(content: Any, http_status: int = 200, headers: RawHeaders = ()) -> Response:
    """A JSON answer; ``headers`` go on the wire as they are spelled."""
    reply = Response(
        json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(),
        http_status,
        media_type="application/json; charset=UTF-8",
    )
    reply.raw_headers.extend(headers)
    return reply


def error_reply(error: ApiError) -> Response:
    """The answer for a refusal."""
    if error.error is None:
        reply = Response(b"", error.http_status)
    else:
        reply = json_reply({"error": error.error}, error.http_status)
    if error.upload_status is not None:
        reply.raw_headers.append((b"X-Goog-Upload-Status", error.upload_status.encode()))
    if error.received_bytes is not None:
        reply.raw_headers.append(
            (b"X-Goog-Upload-Size-Received", str(error.received_bytes).encode())
        )
    return reply
