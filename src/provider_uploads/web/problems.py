"""Errors as HTTP: a status, a sentence for the user, and when to try again.

A body is problem+json (RFC 9457). It says what the user can do about it; what only an operator can,
and where things are on the server, stays in the server's log: paths, addresses, settings.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import PureWindowsPath
from typing import Any, Final, NamedTuple

from provider_uploads import errors


class Problem(NamedTuple):
    """A response, in the order that Flask and Starlette take it: ``Response(*problem(error))``."""

    body: bytes
    status: int
    headers: dict[str, str]


class _Kind(NamedTuple):
    """What a class of errors says; ``{name}`` is the file's, without its folder."""

    status: int
    title: str
    detail: str
    #: Seconds after which it may work, where the error itself does not say.
    retry_s: float | None = None


_BUSY: Final = "The service cannot do this at the moment. Try again later."
_OURS: Final = (
    "The server cannot do this as it is set up. Its operator finds the reason in its log."
)

#: The nearest class above an error decides.
_KINDS: Final[dict[type[BaseException], _Kind]] = {
    errors.TransientError: _Kind(503, "Temporarily unavailable", _BUSY, 10),
    errors.ProviderUnavailableError: _Kind(503, "The provider is unavailable", _BUSY, 30),
    errors.RateLimitedError: _Kind(503, "Too many requests at the provider", _BUSY, 30),
    errors.ServiceDownError: _Kind(503, "The provider is down", _BUSY, 30),
    errors.StorageFullError: _Kind(503, "The provider's storage is full", _BUSY, 600),
    errors.QueueUnavailableError: _Kind(
        503, "The queue is unavailable", "The upload queue takes nothing now. Try again later.", 5
    ),
    errors.ResultTimeoutError: _Kind(
        504, "Not finished yet", "The {what} is not finished. It goes on: ask again later.", 2
    ),
    errors.SourceUnavailableError: _Kind(
        503, "The source is unavailable", "{name} cannot be reached now. Try again later.", 30
    ),
    errors.PermanentError: _Kind(500, "Internal error", _OURS),
    errors.UnknownProviderError: _Kind(501, "Unknown provider", "This provider is not known here."),
    errors.UnsupportedOperationError: _Kind(
        501, "Not supported", "The provider cannot do that with this file."
    ),
    errors.ProviderRefusedError: _Kind(
        502, "Refused by the provider", "The provider does not accept this request."
    ),
    errors.InvalidCredentialsError: _Kind(500, "Internal error", _OURS),
    errors.FileGoneError: _Kind(
        410, "The file is gone", "The provider does not have this file any more. Upload it again."
    ),
    errors.FileExpiredError: _Kind(
        410, "The file has expired", "The provider keeps a file for 48 hours. Upload it again."
    ),
    errors.FileNotActiveError: _Kind(
        409, "The file is not ready", "The file cannot be used: it did not become ACTIVE."
    ),
    errors.UnknownTicketError: _Kind(404, "Not found", "There is no such {what}."),
    errors.InvalidRequestError: _Kind(400, "Invalid request", "{field}: {problem}"),
    errors.SourceError: _Kind(422, "The file cannot be read", "{name} cannot be read."),
    errors.SourceNotFoundError: _Kind(404, "File not found", "{name}: there is no such file."),
    errors.SourceKindError: _Kind(422, "Not a file", "{name} is not a regular file."),
    errors.SourceNotAllowedError: _Kind(403, "Not allowed", "{name} may not be read."),
    errors.SourceSchemeError: _Kind(
        422, "Unknown kind of URL", "URLs of this kind are not read here."
    ),
    errors.SourceAddressError: _Kind(
        422, "Not a public address", "{name} is not on the public internet."
    ),
    errors.SourceTooLargeError: _Kind(
        413, "The file is too large", "{name} is larger than the {limit_bytes:,} bytes allowed."
    ),
    errors.SourceChangedError: _Kind(
        409, "The file changed", "{name} changed while it was sent. Upload it again."
    ),
    errors.UploadFailedError: _Kind(
        422, "The file cannot be processed", "The provider could not process the file: {said}."
    ),
    errors.UploadInactiveError: _Kind(
        504, "Processing took too long", "The file was not ready in time. Upload it again."
    ),
    errors.UploadCancelledError: _Kind(
        409, "Cancelled", "The upload was cancelled. Upload the file again if it is wanted."
    ),
}
_UNKNOWN: Final = _Kind(500, "Internal error", _OURS)


def problem(error: BaseException) -> Problem:
    """Return an error as a response; whatever is none of ours is a plain 500."""
    kind = _kind(error)
    headers = {"content-type": "application/problem+json"}
    if kind.retry_s is not None:
        wait_s = getattr(error, "retry_after_s", None)
        headers["retry-after"] = str(max(1, math.ceil(kind.retry_s if wait_s is None else wait_s)))
    return Problem(json.dumps(described(error)).encode(), kind.status, headers)


def described(error: BaseException) -> dict[str, Any]:
    """Return an error as the object of a problem+json body."""
    kind = _kind(error)
    known = type(error).__name__ if isinstance(error, errors.ProviderUploadsError) else "Error"
    return {
        "type": f"urn:provider-uploads:{known}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.detail.format(**_data(error)),
    }


def _kind(error: BaseException) -> _Kind:
    return next((_KINDS[cls] for cls in type(error).__mro__ if cls in _KINDS), _UNKNOWN)


def _data(error: BaseException) -> dict[str, Any]:
    details = getattr(error, "details", None) or {}
    return {
        "name": _name(str(getattr(error, "path", ""))) or "The file",
        "field": getattr(error, "field", ""),
        "what": getattr(error, "what", ""),
        "problem": getattr(error, "problem", ""),
        "limit_bytes": getattr(error, "limit_bytes", 0),
        "said": str(details.get("message") or "it gave no reason").rstrip("."),
    }


def _name(path: str) -> str:
    """Return the last part of a path or a URL."""
    return PureWindowsPath(re.split(r"[?#]", path)[0] if "://" in path else path).name
