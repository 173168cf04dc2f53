"""The calls that are counted and that faults can be ordered for."""

from __future__ import annotations

from enum import StrEnum


class Operation(StrEnum):
    """One kind of call; ``upload`` is every request with file bytes, a bare ``finalize`` too."""

    START = "start"
    UPLOAD = "upload"
    QUERY = "query"
    CANCEL = "cancel"
    GET = "get"
    LIST = "list"
    DELETE = "delete"
