"""The requests in a file, one after another, each with where it stands.

    {"key": "request_1", "request": {...}}      JSONL: one object a line, and empty ones
    [{"key": …}, {"key": …}]                    a JSON array, over as many lines as it likes

What a file holds is told by its first character, not by its name. No more than one request is held
at a time.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple

from provider_uploads.errors import BatchInputError

#: A single request that is longer is no request: the service takes 20 MB within a call, and what is
#: larger goes into a file of its own.
MAX_LINE_BYTES: Final = 20_000_000
_BLOCK_BYTES: Final = 256 * 1024
_WHITE: Final = " \t\r\n"


class Entry(NamedTuple):
    """One request as the input has it; ``text`` begins at ``line`` and ``column``, from 1."""

    line: int
    column: int
    text: str
    value: dict[str, Any]


def entries(stream: BinaryIO, source: str) -> Iterator[Entry]:
    """Yield the requests in a stream; ``source`` is what an error calls it.

    Raises BatchInputError for what is no JSON object, naming the line and the column.
    """
    first = stream.readline(MAX_LINE_BYTES + 1)
    number = 1
    while first and not first.strip().removeprefix(codecs.BOM_UTF8):
        first = stream.readline(MAX_LINE_BYTES + 1)
        number += 1
    first = first.removeprefix(codecs.BOM_UTF8)
    if first.lstrip().startswith(b"["):
        yield from _array(_Text(stream, source, first, number))
        return
    while first:
        if first.strip():
            yield _one(first, source, number)
        first = stream.readline(MAX_LINE_BYTES + 1)
        number += 1


def _one(line: bytes, source: str, number: int) -> Entry:
    if len(line) > MAX_LINE_BYTES:
        raise BatchInputError(source, number, 1, f"is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        text = line.decode().rstrip("\r\n")
        value = json.loads(text)
    except UnicodeDecodeError as error:
        raise BatchInputError(source, number, error.start + 1, "is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise BatchInputError(source, number, error.colno, f"is no JSON: {error.msg}") from None
    except RecursionError:
        raise BatchInputError(source, number, 1, "is nested too deeply") from None
    return Entry(number, 1, text, _object(value, source, number, 1))


def _object(value: object, source: str, line: int, column: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = "an array" if isinstance(value, list) else "a text, a number, true, false or null"
        raise BatchInputError(source, line, column, f"is {kind}, not an object")
    return value


class _Text:
    """A stream as text, with a window on what comes next."""

    def __init__(self, stream: BinaryIO, source: str, first: bytes, line: int) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.source = source
        self.line = line
        self.column = 1
        self.ended = False
        self.window = ""
        self._more(first)

    def read(self) -> None:
        """Widen the window by a block, by more where it is wide already."""
        self._more(self._stream.read(max(_BLOCK_BYTES, len(self.window))))

    def _more(self, block: bytes) -> None:
        try:
            self.window += self._decoder.decode(block, final=not block)
        except UnicodeDecodeError:
            raise self.error("is not UTF-8, here or soon after") from None
        self.ended = not block

    def pass_over(self, count: int) -> None:
        """Move the beginning of the window."""
        passed, self.window = self.window[:count], self.window[count:]
        newlines = passed.count("\n")
        self.line += newlines
        self.column = len(passed) - passed.rfind("\n") if newlines else self.column + len(passed)

    def next(self) -> str:
        """Return the next character that is not white space, still in the window; '' at the end."""
        while True:
            self.pass_over(len(self.window) - len(self.window.lstrip(_WHITE)))
            if self.window or self.ended:
                return self.window[:1]
            self.read()

    def error(self, problem: str, line: int | None = None, column: int | None = None) -> Exception:
        """Return what is wrong here, or there."""
        return BatchInputError(self.source, line or self.line, column or self.column, problem)


def _array(text: _Text) -> Iterator[Entry]:
    decoder = json.JSONDecoder()
    text.next()
    text.pass_over(1)
    if text.next() == "]":
        text.pass_over(1)
    else:
        while True:
            yield _element(text, decoder)
            after = text.next()
            if after not in {",", "]"}:
                raise text.error("expected , or ] after a request")
            text.pass_over(1)
            if after == "]":
                break
    if text.next():
        raise text.error("there is more after the end of the array")


def _element(text: _Text, decoder: json.JSONDecoder) -> Entry:
    text.next()
    while True:
        try:
            value, end = decoder.raw_decode(text.window)
        except json.JSONDecodeError as error:
            # What is cut off is wrong at its end; what is wrong before will not get better.
            if text.ended or len(text.window) > MAX_LINE_BYTES:
                line = text.line + error.lineno - 1
                column = error.colno + (text.column - 1 if error.lineno == 1 else 0)
                raise text.error(f"is no JSON: {error.msg}", line, column) from None
            text.read()
        except RecursionError:
            raise text.error("is nested too deeply") from None
        else:
            line, column, source = text.line, text.column, text.window[:end]
            found = _object(value, text.source, line, column)
            text.pass_over(end)
            return Entry(line, column, source, found)
