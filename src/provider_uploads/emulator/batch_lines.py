"""The lines of a batch's input file, and the lines of its output.

    {"key": "r1", "request": {"contents": [{"parts": [{"text": "Hello"}]}]}}
    {"key": "r1", "response": {"candidates": […], …}}
    {"key": "r1", "error": {"code": 3, "message": "…"}}

The request is a GenerateContentRequest, its keys in camelCase or snake_case. What belongs into
``generationConfig`` may stand beside it, as the service was seen to allow for most of it; the
SDK's own ``config`` may not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provider_uploads.emulator.cached_contents import CachedContents
from provider_uploads.emulator.errors import ApiError
from provider_uploads.emulator.files import FileStore

_MAX_ERRORS = 10
_PROBE_BYTES = 1024


class BadInputError(ValueError):
    """An input file that cannot be read; the message names the lines."""


@dataclass(frozen=True)
class BatchLine:
    """One request of a batch; ``key`` is None where the client gave none."""

    number: int
    key: str | None
    request: dict[str, Any]
    metadata: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """What an order calls it: its key, that of its metadata, or its number."""
        key = (self.metadata or {}).get("key") if self.key is None else self.key
        return key if isinstance(key, str) else str(self.number)


ReadLine = Callable[[int, Any], BatchLine]
# "response" or "error", and what it is.
Outcome = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """Whom the lines of a job are for, and where what they name is found."""

    model: str
    owner: str
    files: FileStore
    caches: CachedContents
    now_ns: int


@dataclass(frozen=True)
class Dialect:
    """How one provider wants its lines, and how it writes its own."""

    read: ReadLine
    answer: Callable[[BatchLine, Asked], Outcome]
    write: Callable[[BatchLine, Outcome], dict[str, Any]]


def read_lines(path: Path | None, read: ReadLine) -> Iterator[BatchLine]:
    """The requests of an input file; BadInputError if one cannot be read, when all are."""
    errors: list[str] = []
    seen = 0
    if path is None:  # what does not begin like JSON was not even kept
        raise BadInputError("Error on line 1: invalid JSON, near column 1: expected an object")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            seen += 1
            try:
                line = read(number, json.loads(raw))
            except json.JSONDecodeError as error:
                errors.append(_at(number, error.colno, error.msg))
            except UnicodeDecodeError as error:
                errors.append(_at(number, error.start + 1, "not UTF-8"))
            except _BadFieldError as error:
                errors.append(_at(number, error.column_in(raw), str(error)))
            else:
                if not errors:
                    yield line
            if len(errors) == _MAX_ERRORS:
                break
    if errors:
        raise BadInputError("\n".join(errors))
    if not seen:
        raise BadInputError("The input file has no requests.")


def may_be_input(path: Path) -> bool:
    """Does a file begin as one does that a batch can be made from? Its bytes are worth keeping."""
    try:
        with path.open("rb") as file:
            begin = file.read(_PROBE_BYTES)
    except FileNotFoundError:  # nothing was ever written
        return False
    if begin.lstrip()[:1] != b"{":
        return False
    try:
        begin.decode()
    except UnicodeDecodeError as error:  # the end may be in the middle of a character
        return len(begin) == _PROBE_BYTES and error.start > _PROBE_BYTES - 4
    return True


def count_lines(path: Path | None) -> int:
    """How many lines of a file are not empty."""
    if path is None:
        return 0
    with path.open("rb") as file:
        return sum(1 for raw in file if raw.strip())


def gemini_line(number: int, value: Any) -> BatchLine:
    """A line as Gemini wants it."""
    if not isinstance(value, dict):
        raise _BadFieldError("expected an object")
    for name in value:
        if name not in ("key", "request", "metadata"):
            raise _BadFieldError(f"no such field: '{name}'", name)
    key, request = value.get("key"), value.get("request")
    if not (key is None or isinstance(key, str)):
        raise _BadFieldError("key must be a string", "key")
    if not isinstance(request, dict):
        raise _BadFieldError("request must be an object", "request")
    check_request(request)
    return BatchLine(number, key, _with_settings_in_place(request))


def gemini_output(line: BatchLine, outcome: Outcome) -> dict[str, Any]:
    """A line of the output as Gemini writes it."""
    kind, value = outcome
    written: dict[str, Any] = {} if line.key is None else {"key": line.key}
    written[kind] = value
    if line.metadata is not None:
        written["metadata"] = line.metadata
    return written


_RPC_CODES = {
    "CANCELLED": 1,
    "INVALID_ARGUMENT": 3,
    "NOT_FOUND": 5,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "UNAVAILABLE": 14,
}


def rpc_status(refused: ApiError) -> dict[str, Any]:
    """A refusal as a google.rpc.Status: its codes are not those of HTTP."""
    error = refused.error or {}
    return {
        "code": _RPC_CODES.get(error.get("status", ""), 13),
        "message": error.get("message", ""),
    }


class _BadFieldError(ValueError):
    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name

    def column_in(self, raw: bytes) -> int:
        """Where the field stands, from 1; the service says so too."""
        found = -1 if self.name is None else raw.find(json.dumps(self.name).encode())
        return max(found, 0) + 1


def bad_field(message: str, name: str | None = None) -> ValueError:
    """A line that is JSON but not what it should be."""
    return _BadFieldError(message, name)


def _at(number: int, column: int, message: str) -> str:
    return f"Error on line {number}: invalid JSON, near column {column}: {message}"


# GenerateContentRequest, and of GenerationConfig what is let pass beside it.
_REQUEST_FIELDS = frozenset(
    {"model", "contents", "systemInstruction", "tools", "toolConfig", "safetySettings"}
    | {"generationConfig", "cachedContent", "labels", "serviceTier", "store"}
)
_LENIENT_FIELDS = frozenset(
    {"temperature", "topP", "topK", "candidateCount", "maxOutputTokens", "stopSequences", "seed"}
    | {"responseMimeType", "responseSchema", "responseJsonSchema", "responseModalities"}
    | {"presencePenalty", "frequencyPenalty", "responseLogprobs", "logprobs", "mediaResolution"}
)


def check_request(request: dict[str, Any]) -> None:
    """ValueError for a field no GenerateContentRequest has."""
    for name in request:
        camel = _camel(name)
        if camel not in _REQUEST_FIELDS and camel not in _LENIENT_FIELDS:
            raise _BadFieldError(f"no such field: '{name}'", name)


def _with_settings_in_place(request: dict[str, Any]) -> dict[str, Any]:
    """The request, with what was let pass beside ``generationConfig`` where it belongs."""
    flat = {name: value for name, value in request.items() if _camel(name) in _LENIENT_FIELDS}
    if not flat:
        return request
    rest = {name: value for name, value in request.items() if name not in flat}
    config = rest.pop("generation_config", rest.pop("generationConfig", {}))
    return rest | {"generationConfig": flat | config if isinstance(config, dict) else config}


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)
