"""A batch's input from its first line to its last: read once, checked, and written for a provider.

with KeyIndex() as keys:
    for request in checked(entries(stream, source), source, keys):
        …
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from provider_uploads.batches.index import KeyIndex
from provider_uploads.batches.lines import Entry
from provider_uploads.batches.shapes import Request, Shape, request_in
from provider_uploads.errors import BatchInputError
from provider_uploads.protocol import MAX_BATCH_FILE_BYTES


def checked(
    given: Iterable[Entry],
    source: str,
    keys: KeyIndex,
    *,
    check_fields: bool = True,
    limit_bytes: int = MAX_BATCH_FILE_BYTES,
) -> Iterator[Request]:
    """Yield the requests of an input; their keys are then in ``keys``.

    Raises BatchInputError for a request that cannot be sent, a key that comes twice, two formats
    in one input, more than ``limit_bytes``, and an input without any.
    """
    shape: Shape | None = None
    size_bytes = 0
    entry = None
    for number, entry in enumerate(given, 1):
        request = request_in(entry, number, source, check_fields=check_fields)
        if shape not in (None, request.shape):
            problem = f"is in {request.shape}'s format, the lines before are in {shape}'s"
            raise BatchInputError(source, entry.line, entry.column, problem)
        if not keys.add(request.key):
            column = max(entry.text.find(json.dumps(request.key, ensure_ascii=False)), 0)
            problem = f"the key {request.key!r} has been used before"
            raise BatchInputError(source, entry.line, entry.column + column, problem)
        shape = request.shape
        size_bytes += len(entry.text.encode()) + 1
        if size_bytes > limit_bytes:
            problem = f"with this request the input has more than {limit_bytes:,} bytes"
            raise BatchInputError(source, entry.line, entry.column, problem)
        yield request
    if entry is None:
        raise BatchInputError(source, 1, 1, "holds no request")


def line_for(request: Request, body: dict[str, Any]) -> bytes:
    """Return a request with this body as a line of a provider's input file."""
    if request.line and body is request.body:
        return request.line.encode() + b"\n"
    if request.shape is Shape.OPENAI:
        wanted: dict[str, Any] = {**body, "custom_id": request.key}
    else:
        wanted = {"key": request.key, "request": body}
    return json.dumps(wanted, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def inlined(key: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return a request as it stands within a create call."""
    return {"request": body, "metadata": {"key": key}}
