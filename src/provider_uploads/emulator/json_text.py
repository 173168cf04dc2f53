"""JSON as the service reads it: a little more than JSON, and nothing that breaks the reader.

The service's parser takes what its own curl recipes send: strings in single quotes, names
without quotes, a comma after the last item. It refuses NaN, half a surrogate pair and more than
a hundred levels.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from provider_uploads.emulator.errors import ApiError, invalid_argument

MAX_DEPTH = 100


def parse_json(body: bytes | bytearray) -> Any:
    """The value a body holds, ``{}`` if it is empty; 400 if it is none."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(f"Invalid UTF-8 at byte {error.start}.") from None
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        value = _Lenient(text).value()
    _check(value)
    return value


def _check(value: Any) -> None:
    """400 for what Python reads and JSON does not have; a loop, so that depth does not matter."""
    level: list[Any] = [value]
    depth = 0
    while level:
        below: list[Any] = []
        for one in level:
            if isinstance(one, str):
                _check_text(one)
            elif isinstance(one, float):
                if not math.isfinite(one):
                    raise _refused("A number is out of range.")
            elif isinstance(one, dict):
                below += one
                below += one.values()
            elif isinstance(one, list):
                below += one
        depth += 1
        if below and depth > MAX_DEPTH:
            raise _too_deep()
        level = below


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refused("A string has half of a surrogate pair.") from None


def _no_constant(name: str) -> NoReturn:
    raise _refused(f"Unexpected token: {name}.")


def _refused(complaint: str) -> ApiError:
    return invalid_argument(f"Invalid JSON payload received. {complaint}")


def _too_deep() -> ApiError:
    return _refused(f"Message too deep. Max recursion depth reached: {MAX_DEPTH}.")


_SPACE = re.compile(r"[ \t\r\n]*")
_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_SINGLE = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)|([\"\n\r\t])", re.DOTALL)
_WORDS = {"true": True, "false": False, "null": None}
_QUOTED_CHARS = 40


class _Lenient:
    """Reads one value; only texts come here that are no JSON."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def value(self) -> Any:
        value = self._value(0)
        self._skip()
        if self._at < len(self._text):
            raise self._unexpected("the end of the payload")
        return value

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _too_deep()
        match self._peek():
            case "{":
                return self._object(depth)
            case "[":
                return self._list(depth)
            case "'" | '"':
                return self._string()
        if found := _NUMBER.match(self._text, self._at):
            self._at = found.end()
            try:
                return json.loads(found[0])
            except ValueError:  # too many digits
                raise _refused("A number is out of range.") from None
        found = _NAME.match(self._text, self._at)
        if found is None or found[0] not in _WORDS:
            raise self._unexpected("a value")
        self._at = found.end()
        return _WORDS[found[0]]

    def _object(self, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        self._at += 1
        while self._peek() != "}":
            name = self._name()
            self._take(":", "a : between a name and its value")
            made[name] = self._value(depth + 1)
            if self._peek() != "}":
                self._take(",", "a , or a } after a value")
        self._at += 1
        return made

    def _list(self, depth: int) -> list[Any]:
        made = []
        self._at += 1
        while self._peek() != "]":
            made.append(self._value(depth + 1))
            if self._peek() != "]":
                self._take(",", "a , or a ] after a value")
        self._at += 1
        return made

    def _name(self) -> str:
        if self._peek() in ("'", '"'):
            return self._string()
        found = _NAME.match(self._text, self._at)
        if found is None:
            raise self._unexpected("a name or a }")
        self._at = found.end()
        return found[0]

    def _string(self) -> str:
        quoted = _SINGLE if self._peek() == "'" else _DOUBLE
        found = quoted.match(self._text, self._at)
        if found is None:
            raise self._unexpected("a closing quote")
        self._at = found.end()
        # Made a JSON string, so that its escapes, surrogate pairs among them, are read as such.
        escaped = _ESCAPE.sub(_as_json, found[1])
        try:
            text: str = json.loads(f'"{escaped}"', strict=False)
        except ValueError:
            raise self._unexpected("a valid escape") from None
        return text

    def _take(self, sign: str, wanted: str) -> None:
        if self._peek() != sign:
            raise self._unexpected(wanted)
        self._at += 1

    def _peek(self) -> str:
        self._skip()
        return self._text[self._at : self._at + 1]

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        if found is not None:
            self._at = found.end()

    def _unexpected(self, wanted: str) -> ApiError:
        rest = self._text[self._at : self._at + _QUOTED_CHARS]
        return _refused(f"Expected {wanted}.\n{rest}\n^")


def _as_json(found: re.Match[str]) -> str:
    escape, bare = found.groups()
    if bare is not None:
        return json.dumps(bare)[1:-1]
    return "'" if escape == "'" else f"\\{escape}"
