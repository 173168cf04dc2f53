"""What the service's refusals mean: the one place where foreign errors become ours.

    HTTP/1.1 429 Too Many Requests
    {"error": {"code": 429, "message": "…", "status": "RESOURCE_EXHAUSTED", "details": [
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "27s"}]}}

The class follows from the HTTP status and the structured details; texts are only quoted.
"""

from __future__ import annotations

import json
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
    message = str(error.get("message") or "")[:500]
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


@contextmanager
def provider_call(operation: str, name: str = "") -> Iterator[None]:
    """Turn what google-genai, httpx2 and the socket raise into this library's errors."""
    try:
        yield
    except ProviderUploadsError:
        raise  # some of ours are OSErrors too
    except genai_errors.APIError as error:
        headers = getattr(error.response, "headers", None)
        raise refusal(operation, error.code, error.details, headers, name=name) from None
    except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
        # Their texts may hold URLs, and an upload URL is a credential: name the class only.
        raise ProviderUnavailableError(operation, type(error).__name__) from None
    except (httpx2.InvalidURL, json.JSONDecodeError, KeyError) as error:
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
        for violation in detail.get("violations", [])
        if isinstance(violation, dict)
    )


def _retry_after_s(error: dict[str, Any], headers: Mapping[str, str]) -> float | None:
    """RetryInfo first, then the Retry-After header (seconds; its date form is not used here)."""
    said = next((str(d["retryDelay"]) for d in _details(error) if "retryDelay" in d), None)
    said = said.removesuffix("s") if said else headers.get("retry-after")
    try:
        return max(float(said), 0.0) if said else None
    except ValueError:
        return None
