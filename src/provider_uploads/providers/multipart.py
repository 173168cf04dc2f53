"""A small file in one request: what it is and its bytes, as multipart/related.

    POST /upload/v1beta/files
    X-Goog-Upload-Protocol: multipart
    Content-Type: multipart/related; boundary=…
    x-goog-api-key: …

    --…
    Content-Type: application/json

    {"file": {"name": "files/pu-…", …}}
    --…
    Content-Type: text/plain

    <bytes>
    --…--

    200, {"file": {"name": …, "state": …, …}}

No session: an answer that is lost is found under the file's name. The functions do no I/O.
"""

from __future__ import annotations

import json
import uuid

from provider_uploads.providers.wire import WireRequest, upload_url


def multipart_request(
    base_url: str,
    api_version: str,
    api_key: str,
    *,
    name: str,
    display_name: str,
    mime_type: str,
    content: bytes,
) -> tuple[WireRequest, bytes]:
    """Return the request that makes a file of ``content``, and its body."""
    file = {"name": name, "displayName": display_name, "mimeType": mime_type}
    boundary = uuid.uuid4().hex  # of 122 random bits: no content has it
    head = (
        f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{json.dumps({'file': file})}\r\n"
        f"--{boundary}\r\nContent-Type: {mime_type}\r\n\r\n"
    )
    body = b"".join([head.encode(), content, f"\r\n--{boundary}--\r\n".encode()])
    headers = {
        "x-goog-api-key": api_key,
        "X-Goog-Upload-Protocol": "multipart",
        "Content-Type": f"multipart/related; boundary={boundary}",
    }
    return WireRequest(upload_url(base_url, api_version), headers), body
