"""What the service answers when it refuses, and how a request ends without an answer.

EmulatorError
├── ApiError            an answer with an error body
├── HangUpError         no answer: the server closes the connection
├── ClientGoneError     no answer: the client closed the connection
├── PortInUseError      the emulator could not start: someone else listens there
└── InvalidFaultError   a fault was ordered that makes no sense
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Protocol

from starlette.responses import Response

JsonObject = dict[str, Any]

_TYPE: Final = "type.googleapis.com/google.rpc."
_SERVICE: Final = "generativelanguage.googleapis.com"


class EmulatorError(Exception):
    """Base of everything the emulator raises on purpose."""


class ApiError(EmulatorError):
    """An error answer of the service.

    ``upload_status`` becomes ``X-Goog-Upload-Status``. It steers google-genai: an error with
    ``active`` is taken for success, one without a status is sent again up to three times, one
    with ``final`` is raised at once. So what is permanent says ``final``, and what may pass
    says nothing. ``error=None`` is an answer with an empty body.
    """

    def __init__(
        self,
        http_status: int,
        error: JsonObject | None,
        upload_status: str | None = None,
        received_bytes: int | None = None,
    ) -> None:
        super().__init__(http_status, error, upload_status, received_bytes)
        self.http_status = http_status
        self.error = error
        self.upload_status = upload_status
        self.received_bytes = received_bytes

    def final(self, received_bytes: int | None = None) -> ApiError:
        """The same answer, marked as the end of an upload request."""
        return ApiError(self.http_status, self.error, "final", received_bytes)

    def at(self, session: UploadState) -> ApiError:
        """The same answer, with where the upload session stands."""
        status = str(session.state)
        return ApiError(self.http_status, self.error, status, session.received_bytes)


class UploadState(Protocol):
    """What an answer tells of an upload session."""

    received_bytes: int

    @property
    def state(self) -> object:
        """``active``, ``final`` or ``cancelled``."""


class HangUpError(EmulatorError):
    """The connection is to be closed without an answer."""


class ClientGoneError(EmulatorError):
    """The client closed the connection before its request was complete."""


class PortInUseError(EmulatorError):
    """Another program listens on the address the emulator was given."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.host = host
        self.port = port

    def __str__(self) -> str:
        return (
            f"port {self.port} on {self.host} is taken: choose another one, or 0 for any free port"
        )


class InvalidFaultError(EmulatorError, ValueError):
    """A fault that cannot be ordered; the message says what is wrong with it."""


def _error(
    http_status: int, status: str, message: str, details: Sequence[JsonObject] = ()
) -> ApiError:
    error: JsonObject = {"code": http_status, "message": message, "status": status}
    if details:
        error["details"] = list(details)
    return ApiError(http_status, error)


def invalid_argument(message: str) -> ApiError:
    """400: the request itself is wrong."""
    return _error(400, "INVALID_ARGUMENT", message)


def invalid_fields(violations: Sequence[tuple[str, str]]) -> ApiError:
    """400: fields that do not exist or cannot hold what they were given, as (where, what)."""
    described = [
        {"field": where, "description": what} if where else {"description": what}
        for where, what in violations
    ]
    return _error(
        400,
        "INVALID_ARGUMENT",
        "\n".join(what for _, what in violations),
        [{"@type": _TYPE + "BadRequest", "fieldViolations": described}],
    )


def no_key() -> ApiError:
    """403: a call without an API key."""
    return _error(
        403,
        "PERMISSION_DENIED",
        "Method doesn't allow unregistered callers (callers without established identity). "
        "Please use API Key or other form of API consumer identity to call this API.",
    )


def bad_key() -> ApiError:
    """400: a key the service does not know."""
    message = "API key not valid. Please pass a valid API key."
    return _error(
        400,
        "INVALID_ARGUMENT",
        message,
        [
            {
                "@type": _TYPE + "ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": {"service": _SERVICE},
            },
            {"@type": _TYPE + "LocalizedMessage", "locale": "en-US", "message": message},
        ],
    )


def unauthenticated() -> ApiError:
    """401: a call that needs somebody's credentials, without them."""
    return _error(
        401,
        "UNAUTHENTICATED",
        "Request is missing required authentication credential. Expected OAuth 2 access token, "
        "login cookie or other valid authentication credential.",
    )


def forbidden(message: str) -> ApiError:
    """403: somebody else's, or nobody's."""
    return _error(403, "PERMISSION_DENIED", message)


def no_such_file(file_id: str) -> ApiError:
    """403 for a file that is missing, gone, or another project's: the service never says 404."""
    return forbidden(
        f"You do not have permission to access the File {file_id} or it may not exist."
    )


def not_active(name: str) -> ApiError:
    """400: a file that is to be read but is still processed, or could not be."""
    return failed_precondition(
        f"The File {name} is not in an ACTIVE state and usage is not allowed."
    )


def failed_precondition(message: str) -> ApiError:
    """400: not in the state it is in."""
    return _error(400, "FAILED_PRECONDITION", message)


def resource_exhausted(message: str) -> ApiError:
    """429: more than a project may have."""
    return _error(429, "RESOURCE_EXHAUSTED", message)


def storage_full(max_project_bytes: int) -> ApiError:
    """429: the project's files would be more than it may store."""
    return _error(
        429,
        "RESOURCE_EXHAUSTED",
        f"The project's files may have {max_project_bytes} bytes together; delete some first.",
    )


def name_taken(file_id: str) -> ApiError:
    """409 as the upload front end words it: no status, and the message before the code."""
    return ApiError(409, {"message": f"{file_id} already exists.", "code": 409})


def not_found(message: str = "Requested entity was not found.") -> ApiError:
    """404: an unknown path, or an upload session nobody knows."""
    return _error(404, "NOT_FOUND", message)


def no_such_cache() -> ApiError:
    """403 for cached content that is missing, expired, or another project's."""
    return forbidden("CachedContent not found (or permission denied)")


def unimplemented(method: str) -> ApiError:
    """501: a method of the service that this server does not have."""
    return _error(
        501,
        "UNIMPLEMENTED",
        f"{method} is a method of the Gemini API that this local server does not implement.",
    )


def gone(message: str) -> ApiError:
    """410: an upload session that was cancelled."""
    return ApiError(410, {"message": message, "code": 410}, "cancelled")


def internal() -> ApiError:
    """500: the service failed."""
    return _error(500, "INTERNAL", "An internal error has occurred. Please retry.")


def unavailable() -> ApiError:
    """503 with nothing in it, as in an outage of the File API."""
    return ApiError(503, None)


def rate_limited(
    retry_delay_s: float,
    quota_id: str = "FileRequestsPerMinutePerProject",
    quota_value: int = 60,
) -> ApiError:
    """429 with the details the service sends: links, the quota hit, and when to come back."""
    delay = f"{retry_delay_s:.3f}".rstrip("0").rstrip(".") + "s"
    return _error(
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details. "
        f"Please retry in {delay}.",
        [
            {
                "@type": _TYPE + "Help",
                "links": [
                    {
                        "description": "Learn more about Gemini API quotas",
                        "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
                    }
                ],
            },
            {
                "@type": _TYPE + "QuotaFailure",
                "violations": [
                    {
                        "quotaMetric": f"{_SERVICE}/file_requests",
                        "quotaId": quota_id,
                        "quotaDimensions": {"location": "global"},
                        "quotaValue": str(quota_value),
                    }
                ],
            },
            {"@type": _TYPE + "RetryInfo", "retryDelay": delay},
        ],
    )


def rate_limited_for_the_day(retry_delay_s: float) -> ApiError:
    """429 for a quota of the day: the delay it names is too short, it is whole at midnight."""
    return rate_limited(retry_delay_s, "FileRequestsPerDayPerProject", 1000)


def rate_limited_bare() -> ApiError:
    """429 without details, so without a hint when to come back."""
    return _error(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota).")


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


def listed(error: ApiError) -> Response:
    """The answer for a refusal as a list of one: some of the service's paths have it so."""
    reply = error_reply(error)
    if error.error is not None:
        reply.body = b"[" + bytes(reply.body) + b"]"
        reply.headers["content-length"] = str(len(reply.body))
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
