"""The File API's requests and answers, without I/O."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx2

from provider_uploads.errors import ProviderUnavailableError
from provider_uploads.schemas import ProviderFile


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request: what to POST where."""

    url: str
    headers: dict[str, str]
    json: dict[str, Any] | None = None


def upload_url(base_url: str, api_version: str) -> str:
    """Return where uploads begin."""
    return "/".join(filter(None, [base_url.rstrip("/"), "upload", api_version, "files"]))


def read_file(operation: str, file: Any) -> ProviderFile:
    """Return a File resource (camelCase JSON) as a record."""
    if not isinstance(file, dict) or not file.get("name"):
        raise ProviderUnavailableError(operation, "the answer holds no file", 200)
    try:
        created, expires = file.get("createTime"), file.get("expirationTime")
        sha256 = file.get("sha256Hash")
        if not isinstance(sha256, str | None):
            raise TypeError(sha256)
        return ProviderFile(
            name=file["name"],
            uri=file.get("uri") or "",
            state=file.get("state") or "STATE_UNSPECIFIED",
            mime_type=file.get("mimeType") or "",
            size_bytes=int(file.get("sizeBytes") or 0),
            display_name=file.get("displayName"),
            sha256=read_sha256(sha256),
            created_at=datetime.fromisoformat(created) if created else None,
            expires_at=datetime.fromisoformat(expires) if expires else None,
            source=file.get("source"),
            video=file.get("videoMetadata"),
            error=file.get("error"),
        )
    except (TypeError, ValueError, ArithmeticError):
        raise ProviderUnavailableError(operation, "the answer's file is malformed", 200) from None


def read_sha256(encoded: str | None) -> str | None:
    """Return ``sha256Hash`` as lowercase hex.

    The service sends base64 of the 64 hex characters; its documentation reads as base64 of the
    32 raw bytes. Both are understood; anything else counts as not given.
    """
    if not encoded:
        return None
    standard = encoded.replace("-", "+").replace("_", "/")
    try:
        raw = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
        digest = raw if len(raw) == 32 else bytes.fromhex(raw.decode("ascii"))
    except (binascii.Error, ValueError):
        return None
    return digest.hex() if len(digest) == 32 else None


def answer_json(operation: str, response: httpx2.Response) -> dict[str, Any]:
    """Return an answer's JSON object; raises ProviderUnavailableError where there is none."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ProviderUnavailableError(operation, "the answer is not a JSON object", 200)
    return body
