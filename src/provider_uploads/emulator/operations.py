"""The calls that are counted and that faults can be ordered for."""

from __future__ import annotations

from enum import StrEnum


class Operation(StrEnum):
    """One kind of call, at the service itself or through the gateway.

    ``upload`` is every request with file bytes (raw, multipart, a chunk) and a bare ``finalize``;
    ``download`` is both the redirect and the request for the bytes that follows it.
    """

    START = "start"
    UPLOAD = "upload"
    QUERY = "query"
    CANCEL = "cancel"
    GET = "get"
    LIST = "list"
    DELETE = "delete"
    REGISTER = "register"
    DOWNLOAD = "download"
    GENERATE = "generate"
