"""Request messages, checked as protobuf's JSON is: names, types, and nothing unknown.

    INVALID_ARGUMENT  Invalid JSON payload received. Unknown name "temp" at 'generation_config':
                      Cannot find field.
    INVALID_ARGUMENT  Invalid value at 'generation_config.temperature' (TYPE_FLOAT), "warm"

Names may be camelCase or snake_case, what is read has snake_case only. One item stands for a list
of one, null for nothing, a number may be written as a string. The values of enums are not
checked: the service gains some in every release.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Protocol

from provider_uploads.emulator.errors import invalid_fields

_PACKAGE = "type.googleapis.com/google.ai.generativelanguage.v1beta."


class Violations:
    """What is wrong with a request, all of it, as (where, what)."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def unknown(self, name: str, where: str, why: str = "Cannot find field.") -> None:
        """A name that is not in the message, or that cannot be what it is used as."""
        at = f" at '{where}'" if where else ""
        self.found.append(
            (where, f'Invalid JSON payload received. Unknown name "{name}"{at}: {why}')
        )

    def invalid(self, value: Any, where: str, type_name: str) -> None:
        """A value that is not of its field's type."""
        if isinstance(value, dict | list):
            shown = "Starting an object on a scalar field"
        else:
            shown = json.dumps(value, ensure_ascii=False)
        self.found.append((where, f"Invalid value at '{where}' ({type_name}), {shown}"))


class Kind(Protocol):
    """What a field may hold."""

    def read(self, value: Any, where: str, violations: Violations) -> Any:
        """The value as the rest of the service wants it; complaints are added."""


class Scalar:
    """A string, a number, a truth value, told apart by a function that raises ValueError."""

    def __init__(self, type_name: str, convert: Any) -> None:
        self._type_name = type_name
        self._convert = convert

    def read(self, value: Any, where: str, violations: Violations) -> Any:
        """The converted value."""
        try:
            return self._convert(value)
        except ValueError:
            violations.invalid(value, where, self._type_name)
            return None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise ValueError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9][0-9.eE+-]*", value):
        raise ValueError
    try:
        number = float(value)
    except OverflowError:
        raise ValueError from None
    if not math.isfinite(number):
        raise ValueError
    return number


def _integer(bits: int) -> Any:
    def convert(value: Any) -> int:
        whole = int(value) if isinstance(value, int) and not isinstance(value, bool) else None
        if whole is None:
            if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,19}", value):
                whole = int(value)
            else:
                number = _number(value)
                whole = int(number)
                if whole != number:
                    raise ValueError
        if not -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1):
            raise ValueError
        return whole

    return convert


def _enum(value: Any) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", value):
        return value
    raise ValueError


def _duration(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,12}(?:\.[0-9]{1,9})?s", value):
        return value
    raise ValueError


_DATE = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
_TIME = re.compile(rf"{_DATE}T{_CLOCK}(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])")


def _time(value: Any) -> str:
    if isinstance(value, str) and _TIME.fullmatch(value):
        return value
    raise ValueError


TEXT = Scalar("TYPE_STRING", _text)
BYTES = Scalar("TYPE_BYTES", _text)  # base64; whoever needs the bytes decodes them
FLAG = Scalar("TYPE_BOOL", _flag)
NUMBER = Scalar("TYPE_FLOAT", _number)
INT32 = Scalar("TYPE_INT32", _integer(32))
INT64 = Scalar("TYPE_INT64", _integer(64))
ENUM = Scalar("TYPE_ENUM", _enum)
DURATION = Scalar("type.googleapis.com/google.protobuf.Duration", _duration)
TIME = Scalar("type.googleapis.com/google.protobuf.Timestamp", _time)


class Anything:
    """Any JSON, kept as it is: google.protobuf.Value."""

    def read(self, value: Any, where: str, violations: Violations) -> Any:
        """The value."""
        return value


class AnyObject:
    """Any JSON object, kept as it is: google.protobuf.Struct."""

    def read(self, value: Any, where: str, violations: Violations) -> Any:
        """The object."""
        if not isinstance(value, dict):
            violations.invalid(value, where, "type.googleapis.com/google.protobuf.Struct")
        return value


ANY = Anything()
STRUCT = AnyObject()


class Repeated:
    """A list of one kind; a single item stands for a list of it."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def read(self, value: Any, where: str, violations: Violations) -> Any:
        """The list."""
        items = value if isinstance(value, list) else [value]
        return [
            self._kind.read(item, f"{where}[{n}]", violations)
            for n, item in enumerate(items)
            if item is not None
        ]


class MapOf:
    """An object whose names are data."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def read(self, value: Any, where: str, violations: Violations) -> Any:
        """The object, its names as they are."""
        if not isinstance(value, dict):
            violations.invalid(value, where, "map")
            return {}
        return {
            name: self._kind.read(item, f"{where}[{n}].value", violations)
            for n, (name, item) in enumerate(value.items())
            if item is not None
        }


class Message:
    """An object with fields of its own; ``fields`` may be filled later, for a message in itself."""

    def __init__(self, message_name: str, /, **fields: Kind) -> None:
        self.name = message_name
        self.fields: dict[str, Kind] = fields

    def parse(self, body: Any) -> dict[str, Any]:
        """Read a whole request; 400 with every complaint at once."""
        violations = Violations()
        read: dict[str, Any] = {}
        if isinstance(body, dict):
            read = self.read(body, "", violations)
        else:
            why = "Root element must be a message."
            violations.found.append(("", f"Invalid JSON payload received. {why}"))
        if violations.found:
            raise invalid_fields(violations.found)
        return read

    def read(self, value: Any, where: str, violations: Violations) -> Any:
        """The object with the names of its fields in snake_case."""
        if isinstance(value, list):
            field = where.rpartition(".")[2]
            violations.unknown(field, where, "Proto field is not repeating, cannot start list.")
            return {}
        if not isinstance(value, dict):
            violations.invalid(value, where, _PACKAGE + self.name)
            return {}
        read = {}
        for given, item in value.items():
            name = given if given in self.fields else snake_case(given)
            kind = self.fields.get(name)
            if kind is None or not (given == name or given == camel_case(name)):
                violations.unknown(given, where)
            elif isinstance(kind, Scalar) and isinstance(item, list):
                why = "Proto field is not repeating, cannot start list."
                violations.unknown(given, where, why)
            elif item is not None or isinstance(kind, Anything):
                read[name] = kind.read(item, f"{where}.{name}" if where else name, violations)
        return read


def snake_case(name: str) -> str:
    """``fileUri`` is ``file_uri``."""
    return re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), name)


def camel_case(name: str) -> str:
    """``file_uri`` is ``fileUri``."""
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)


def from_query(query: Mapping[str, str], name: str) -> str | None:
    """A parameter of the query string under either of its names."""
    return query.get(camel_case(name), query.get(name))
