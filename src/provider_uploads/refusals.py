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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2
from google.genai import errors as genai_errors

from provider_uploads.errors import (
    FileGoneError,
    InvalidCredentialsError,
    NameTakenError,
    ProviderRefusedError,
    ProviderUnavailableError,
    ProviderUploadsError,
    RateLimitedError,
)

#: A proxy's page may quote the URL it was asked for, and an upload URL is a credential.
_URL = re.compile(r"\S*(://|upload_id=)[^\s<>\"']*")

#: Answers worth another try, besides every 5xx.
_TRANSIENT = frozenset({408, 425})


def refusal(
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
    if http_status == 429:
        return RateLimitedError(operation, _quotas(error) or message or status, 429, wait_s)
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
#: The SDK reads an answer of another shape with these; only where no code of ours runs inside.
_MISREAD = (AttributeError, TypeError, IndexError)


@contextmanager
def provider_call(operation: str, name: str = "", *, by_sdk: bool = False) -> Iterator[None]:
    """Turn what google-genai, httpx2 and the socket raise into this library's errors.

    Their texts may hold URLs, so only the class is named. ``by_sdk`` says that nothing but the
    SDK runs in the block.
    """
    try:
        yield
    except ProviderUploadsError:
        raise  # some of ours are OSErrors too
    except genai_errors.APIError as error:
        headers = getattr(error.response, "headers", None)
        raise refusal(operation, error.code, error.details, headers, name=name) from None
    except _TROUBLE as error:
        raise ProviderUnavailableError(operation, type(error).__name__) from None
    except _NONSENSE + _MISREAD as error:
        if isinstance(error, _MISREAD) and not by_sdk:
            raise
        raise ProviderUnavailableError(operation, f"bad answer: {type(error).__name__}") from None


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


def _quotas(error: dict[str, Any]) -> str:
    return ", ".join(
        str(violation.get("quotaId") or violation.get("quotaMetric"))
        for detail in _details(error)
        for violation in detail.get("violations") or []
        if isinstance(violation, dict)
    )


def _retry_after_s(error: dict[str, Any], headers: Mapping[str, str]) -> float | None:
    """RetryInfo first, then the Retry-After header (seconds; its date form is not used here)."""
    said = next((str(d["retryDelay"]) for d in _details(error) if "retryDelay" in d), None)
    said = said.removesuffix("s") if said else headers.get("retry-after")
    try:
        wait_s = float(said) if said else math.nan
    except ValueError:
        return None
    return max(wait_s, 0.0) if math.isfinite(wait_s) else None
