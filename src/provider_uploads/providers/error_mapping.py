"""What the service's refusals mean: the one place where foreign errors become ours.

    HTTP/1.1 429 Too Many Requests
    {"error": {"code": 429, "message": "…", "status": "RESOURCE_EXHAUSTED", "details": [
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "27s"}]}}

The class follows from the HTTP status and the structured details; texts are only quoted.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone, tzinfo
from email.utils import parsedate_to_datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import httpx2
from google.auth import exceptions as auth_errors
from google.genai import errors as genai_errors

from provider_uploads.errors import (
    FileGoneError,
    InvalidCredentialsError,
    InvalidRequestError,
    MissingCredentialsError,
    NameTakenError,
    ProviderRefusedError,
    ProviderUnavailableError,
    ProviderUploadsError,
    RateLimitedError,
    StorageFullError,
)

#: A proxy's page may quote the URL it was asked for, and an upload URL is a credential.
_URL = re.compile(r"\S*(://|upload_id=)[^\s<>\"']*")

#: A quota of the day begins anew within a day; whoever asks for more has made a mistake, and a
#: countdown of years would be an upload that never ends.
_LONGEST_WAIT_S = 24 * 3600.0

#: Answers worth another try, besides every 5xx.
_TRANSIENT = frozenset({408, 425})


def error_for(
    operation: str,
    http_status: int,
    body: Any,
    headers: Mapping[str, str] | None = None,
    *,
    name: str = "",
) -> ProviderUploadsError:
    """Return the error for an answer that is not 200.

    ``body`` is the decoded JSON, or text, or bytes; ``name`` is the file's, when there is one.
    """
    error = _error_object(body)
    status = str(error.get("status") or "")
    message = _URL.sub("<URL>", str(error.get("message") or "")[:1000])[:500]
    wait_s = _retry_after_s(error, headers or {})
    if http_status == 429 and any("storage" in quota.lower() for quota in _quota_ids(error)):
        return StorageFullError("", 0, 0)
    if http_status == 429:
        return RateLimitedError(
            operation, ", ".join(_quota_ids(error)) or message or status, 429, wait_s
        )
    if http_status >= 500 or http_status in _TRANSIENT:
        return ProviderUnavailableError(operation, message or status, http_status, wait_s)
    if http_status == 409:
        return NameTakenError(name)
    if http_status == 401 or "API_KEY_INVALID" in _reasons(error):
        return InvalidCredentialsError(operation, http_status, status, message)
    if http_status == 403 and name:
        # The service answers 403, never 404, for a file that is missing, expired or not ours.
        return FileGoneError(operation, http_status, status, message)
    return ProviderRefusedError(operation, http_status, status, message)


#: What google-genai, httpx2 and the socket raise when the other side, or the way to it, is at
#: fault. The SDK's errors besides APIError have no common base but Exception.
_TROUBLE: tuple[type[Exception], ...] = (httpx2.HTTPError, httpx2.StreamError, OSError)
_NONSENSE: tuple[type[Exception], ...] = (
    httpx2.InvalidURL,
    ValueError,  # JSON, Unicode, IDNA, pydantic
    KeyError,
    *(
        error
        for error in vars(genai_errors).values()
        if isinstance(error, type)
        and issubclass(error, Exception)
        and error.__module__ == genai_errors.__name__
        and not issubclass(error, genai_errors.APIError)
    ),
)
#: Clients that google-genai uses when it is told to, or when they are there (httpx, aiohttp), and
#: what those and google-auth stand on. They are told by where their errors come from, because an
#: error of a library that is not installed cannot be named, and none needs to be imported for it.
_HTTP_STACK = frozenset(
    {"aiohttp", "anyio", "h11", "h2", "http", "httpcore", "httpcore2", "httpx", "httpx2"}
    | {"requests", "urllib3"}
)
#: The SDK reads an answer of another shape with these; only where no code of ours runs inside.
_MISREAD = (AttributeError, TypeError, IndexError)


@contextmanager
def mapped_errors(operation: str, name: str = "", *, by_sdk: bool = False) -> Iterator[None]:
    """Turn what google-genai and all below it raise into this library's errors.

    Below it are httpx2, httpx or aiohttp, google-auth with requests, and the socket. Their texts
    may hold URLs, so only the class is named. What breaks a connection counts as passing, also a
    certificate that is refused: the tries are bounded, and a name or a certificate is often
    mended within them. Works around an ``await`` too. ``by_sdk`` says that nothing but the
    SDK runs in the block.
    """
    try:
        yield
    except ProviderUploadsError:
        raise  # some of ours are OSErrors too
    except genai_errors.APIError as error:
        headers = getattr(error.response, "headers", None)
        raise error_for(operation, error.code, error.details, headers, name=name) from None
    except auth_errors.GoogleAuthError as error:  # before the call, at Google's token server
        if isinstance(error, auth_errors.TransportError) or error.retryable:
            raise ProviderUnavailableError(operation, type(error).__name__) from None
        raise MissingCredentialsError("Google Cloud") from None
    except _TROUBLE as error:
        raise ProviderUnavailableError(operation, type(error).__name__) from None
    except _NONSENSE + _MISREAD as error:
        if isinstance(error, _MISREAD) and not by_sdk and not _of_the_http_stack(error):
            raise
        raise ProviderUnavailableError(operation, f"bad answer: {type(error).__name__}") from None
    except Exception as error:
        if not _of_the_http_stack(error):
            raise  # a fault of ours
        raise ProviderUnavailableError(operation, type(error).__name__) from None


#: Whether the request of this thread or task has left the SDK.
_sent: ContextVar[bool] = ContextVar("_sent", default=False)


def mark_sent(request: object) -> None:
    """Take note that a request goes out: a hook of the HTTP client."""
    _sent.set(True)


@contextmanager
def refused_unsent(field: str) -> Iterator[None]:
    """Turn what the SDK raises before it sends anything into the caller's InvalidRequestError."""
    _sent.set(False)
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if _sent.get() or isinstance(error, ProviderUploadsError):
            raise
        said = _URL.sub("<URL>", str(error))[:200]
        raise InvalidRequestError(
            field, "(not shown)", f"google-genai refuses it: {type(error).__name__}: {said}"
        ) from None


def _of_the_http_stack(error: Exception) -> bool:
    return any(base.__module__.partition(".")[0] in _HTTP_STACK for base in type(error).__mro__)


def _error_object(body: Any) -> dict[str, Any]:
    """Find the error in a JSON body, a one-element list of it, or plain text."""
    if isinstance(body, bytes):
        body = body.decode("utf-8", "replace")
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            return {"message": body.strip()}
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return {}
    inner = body.get("error", body)
    return inner if isinstance(inner, dict) else {"message": str(inner)}


def _details(error: dict[str, Any]) -> list[dict[str, Any]]:
    details = error.get("details")
    return [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []


def _reasons(error: dict[str, Any]) -> set[str]:
    return {str(detail.get("reason")) for detail in _details(error)}


def _quota_ids(error: dict[str, Any]) -> list[str]:
    return [
        str(violation.get("quotaId") or violation.get("quotaMetric"))
        for detail in _details(error)
        for violation in detail.get("violations") or []
        if isinstance(violation, dict)
    ]


def _retry_after_s(error: dict[str, Any], headers: Mapping[str, str]) -> float | None:
    """RetryInfo first, then the Retry-After header: seconds, or the date until when.

    A quota of the day is full again at midnight in California, whatever delay is named.
    """
    if any("PerDay" in quota for quota in _quota_ids(error)):
        return _until_midnight_pacific_s()
    said = next((str(d["retryDelay"]) for d in _details(error) if "retryDelay" in d), None)
    said = said.removesuffix("s") if said else headers.get("retry-after")
    try:
        wait_s = float(said) if said else math.nan
    except ValueError:
        wait_s = _seconds_until(said or "")
    return min(max(wait_s, 0.0), _LONGEST_WAIT_S) if math.isfinite(wait_s) else None


def _until_midnight_pacific_s() -> float:
    now = datetime.now(_pacific())
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return max(midnight.timestamp() - now.timestamp(), 0.0)


def _pacific() -> tzinfo:
    try:
        return ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:  # a system without a time zone database: winter all year
        return timezone(timedelta(hours=-8))


def _seconds_until(date: str) -> float:
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, OverflowError):
        return math.nan
