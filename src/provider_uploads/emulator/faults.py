"""Faults that can be ordered: what shall go wrong, at which call, how often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, TypeVar

from provider_uploads.emulator.errors import (
    ApiError,
    InvalidFaultError,
    internal,
    rate_limited,
    unavailable,
)
from provider_uploads.emulator.operations import Operation
from provider_uploads.emulator.stored_file import Fate

DEFAULT_RETRY_DELAY_S = 1.0

_Word = TypeVar("_Word", bound=StrEnum)


class FaultKind(StrEnum):
    """What goes wrong."""

    RATE_LIMITED = "rate_limited"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    RESET = "reset"
    FILE_FAILED = "file_failed"
    FILE_STUCK = "file_stuck"


@dataclass(frozen=True)
class _Rule:
    """Where a kind of fault can strike, and what it takes besides nth, count and match."""

    operations: frozenset[Operation]
    parameters: frozenset[str] = frozenset()
    # Instead of doing what was asked, answer this.
    error: Callable[[Fault], ApiError] | None = None
    # The request goes well, but the file it makes ends like this.
    fate: Fate | None = None


_ANY = frozenset(Operation)
_UPLOAD = frozenset({Operation.UPLOAD})

_RULES: dict[FaultKind, _Rule] = {
    FaultKind.RATE_LIMITED: _Rule(
        _ANY,
        frozenset({"retry_delay_s"}),
        error=lambda fault: rate_limited(
            DEFAULT_RETRY_DELAY_S if fault.retry_delay_s is None else fault.retry_delay_s
        ),
    ),
    FaultKind.INTERNAL: _Rule(_ANY, error=lambda fault: internal()),
    FaultKind.UNAVAILABLE: _Rule(_ANY, error=lambda fault: unavailable()),
    FaultKind.RESET: _Rule(_ANY, frozenset({"after_bytes"})),
    FaultKind.FILE_FAILED: _Rule(_UPLOAD, fate=Fate.FAILED),
    FaultKind.FILE_STUCK: _Rule(_UPLOAD, fate=Fate.STUCK),
}


@dataclass(frozen=True)
class Fault:
    """One order: at the ``nth`` matching request from now, and the ``count - 1`` after it.

    ``match`` is a part of the file's name or display name (for ``generate`` of one file among
    those given, or of the model's name; for ``register`` of a uri). ``file_failed`` and
    ``file_stuck`` count the files that are uploaded, all other kinds count requests. ``reset`` on
    an upload closes the connection after ``after_bytes`` of that request were taken, else before
    any.
    """

    operation: Operation
    kind: FaultKind
    nth: int = 1
    count: int = 1
    match: str | None = None
    retry_delay_s: float | None = None
    after_bytes: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "operation", _word(Operation, self.operation, "operation"))
        object.__setattr__(self, "kind", _word(FaultKind, self.kind, "kind"))
        if self.operation not in self._rule.operations:
            allowed = ", ".join(sorted(self._rule.operations))
            raise InvalidFaultError(
                f"{self.kind} cannot happen at {self.operation}, only at {allowed}"
            )
        for name in ("retry_delay_s", "after_bytes"):
            if getattr(self, name) is not None and name not in self._rule.parameters:
                raise InvalidFaultError(f"{self.kind} does not take {name}")
        _whole("nth", self.nth, least=1)
        _whole("count", self.count, least=1)
        match: Any = self.match
        if match is not None and not (isinstance(match, str) and match):
            raise InvalidFaultError("match must be a text that is not empty")
        if self.match is not None and self.operation is Operation.LIST:
            raise InvalidFaultError("list is not about one file: leave match out")
        if self.after_bytes is not None:
            _whole("after_bytes", self.after_bytes, least=0)
            if self.operation is not Operation.UPLOAD:
                raise InvalidFaultError("after_bytes is only for the operation upload")
        delay_s: Any = self.retry_delay_s
        if delay_s is not None and (
            isinstance(delay_s, bool) or not isinstance(delay_s, int | float) or delay_s < 0
        ):
            raise InvalidFaultError(f"retry_delay_s must be seconds from 0, not {delay_s!r}")

    @classmethod
    def from_json(cls, order: Any) -> Fault:
        """Read an order; InvalidFaultError says what is wrong with it."""
        if not isinstance(order, dict):
            raise InvalidFaultError("a fault is a JSON object")
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(order) - set(known))
        if unknown:
            raise InvalidFaultError(
                f"unknown: {', '.join(unknown)}; a fault has {', '.join(known)}"
            )
        for name in ("operation", "kind"):
            if name not in order:
                raise InvalidFaultError(f"{name} is missing")
        return cls(**order)

    @property
    def error(self) -> ApiError | None:
        """The answer this fault gives, None if it gives none."""
        return None if self._rule.error is None else self._rule.error(self)

    @property
    def fate(self) -> Fate | None:
        """What becomes of the file, None if this fault is about a request."""
        return self._rule.fate

    @property
    def _rule(self) -> _Rule:
        return _RULES[self.kind]

    def concerns(self, operation: Operation, labels: Sequence[str]) -> bool:
        """Is it about such a request?"""
        return self.operation is operation and (
            self.match is None or any(self.match in label for label in labels)
        )


class _Order:
    """A fault in the book, and how far it has come."""

    def __init__(self, fault: Fault, order_id: int) -> None:
        self.fault = fault
        self.order_id = order_id
        self.seen = 0
        self.applied = 0

    def strikes(self, operation: Operation, labels: Sequence[str]) -> bool:
        if not self.fault.concerns(operation, labels):
            return False
        self.seen += 1
        return self.seen >= self.fault.nth and self.applied < self.fault.count

    def json(self) -> dict[str, Any]:
        return {
            "id": self.order_id,
            **asdict(self.fault),
            "operation": str(self.fault.operation),
            "kind": str(self.fault.kind),
            "seen": self.seen,
            "applied": self.applied,
        }


class FaultBook:
    """The faults on order.

    All count the requests they see. Where two are due at once, the one ordered first strikes and
    the other stays due.
    """

    def __init__(self) -> None:
        self._orders: list[_Order] = []
        self._next_id = 1

    def order(self, fault: Fault) -> dict[str, Any]:
        """Add a fault; the answer is its entry in the book."""
        order = _Order(fault, self._next_id)
        self._next_id += 1
        self._orders.append(order)
        return order.json()

    def json(self) -> list[dict[str, Any]]:
        """All entries, with how many matching requests they saw and how often they struck."""
        return [order.json() for order in self._orders]

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._orders.clear()

    def at_request(self, operation: Operation, labels: Sequence[str]) -> Fault | None:
        """What goes wrong with the request that has just come in."""
        return self._strike(operation, labels, makes_file=False)

    def at_file(self, labels: Sequence[str]) -> Fate:
        """What becomes of the file that is just being made."""
        fault = self._strike(Operation.UPLOAD, labels, makes_file=True)
        return Fate.ACTIVE if fault is None or fault.fate is None else fault.fate

    def _strike(
        self, operation: Operation, labels: Sequence[str], *, makes_file: bool
    ) -> Fault | None:
        due = [
            order
            for order in self._orders
            if (order.fault.fate is not None) is makes_file and order.strikes(operation, labels)
        ]
        if not due:
            return None
        due[0].applied += 1
        return due[0].fault


def _word(kind: type[_Word], value: object, name: str) -> _Word:
    try:
        return kind(value)  # type: ignore[arg-type]
    except ValueError:
        known = ", ".join(kind)
        raise InvalidFaultError(f"{name} must be one of {known}, not {value!r}") from None


def _whole(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidFaultError(f"{name} must be a whole number from {least}, not {value!r}")
