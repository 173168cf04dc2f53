"""Orders of what is to become of something: for the nth that matches, some of them, or a share."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, fields
from typing import Any, Generic, Self, TypeVar

from provider_uploads.emulator.errors import InvalidFaultError
from provider_uploads.emulator.faults import whole


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What becomes of one thing; a kind of its own for each kind of thing."""

    @classmethod
    def from_json(cls, given: dict[str, Any], before: Self | None = None) -> Self:
        """A fate, what is not given as ``before``; InvalidFaultError says what is wrong."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InvalidFaultError(
                f"unknown: {', '.join(unknown)}; such an order has {', '.join(known)}"
            )
        kept = {} if before is None else {name: getattr(before, name) for name in known}
        return cls(**kept | given)

    def json(self) -> dict[str, Any]:
        """What was ordered."""
        ordered = asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in ordered.items()}


_FateT = TypeVar("_FateT", bound=Fate)


def is_number(value: Any) -> bool:
    """Is it a number, and not a truth value?"""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class Order:
    """For whom a fate is: the ``nth`` that matches and those after it, ``count`` in all.

    ``match`` is a part of one of its labels. With ``share`` it is a matter of chance from there
    on, the same for the same ``seed``; then ``count`` is without limit unless given, else it is 1.
    """

    match: str | None = None
    nth: int = 1
    count: int | None = None
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        whole("nth", self.nth, least=1)
        whole("seed", self.seed)
        if self.count is not None:
            whole("count", self.count, least=1)
        if not (is_number(self.share) and 0 < self.share <= 1):
            raise InvalidFaultError(f"share must be above 0 and at most 1, not {self.share!r}")
        match: Any = self.match
        if match is not None and not (isinstance(match, str) and match):
            raise InvalidFaultError("match must be a text that is not empty")
        if self.count is None and self.share == 1:
            object.__setattr__(self, "count", 1)


class _Entry(Generic[_FateT]):
    def __init__(self, order: Order, fate: _FateT, order_id: int) -> None:
        self.order = order
        self.fate = fate
        self.order_id = order_id
        self.seen = 0
        self.applied = 0
        self._chance = random.Random(order.seed)  # noqa: S311

    def due(self, labels: tuple[str, ...]) -> bool:
        order = self.order
        if order.match is not None and not any(order.match in label for label in labels):
            return False
        self.seen += 1
        return (
            self._chance.random() < order.share
            and self.seen >= order.nth
            and (order.count is None or self.applied < order.count)
        )

    def json(self) -> dict[str, Any]:
        progress = {"id": self.order_id, "seen": self.seen, "applied": self.applied}
        return {**progress, **asdict(self.order), **self.fate.json()}


class OrderBook(Generic[_FateT]):
    """The orders; of several that are due for one thing the first counts."""

    def __init__(self, kind: type[_FateT]) -> None:
        self._kind = kind
        self._entries: dict[int, _Entry[_FateT]] = {}
        self._next_id = 1

    def order(self, wanted: Any) -> dict[str, Any]:
        """Add an order; the answer is its entry. InvalidFaultError says what is wrong with it."""
        if not isinstance(wanted, dict):
            raise InvalidFaultError("an order is a JSON object")
        whose = {f.name for f in fields(Order)}
        order = Order(**{name: value for name, value in wanted.items() if name in whose})
        fate = {name: value for name, value in wanted.items() if name not in whose}
        entry = _Entry(order, self._kind.from_json(fate), self._next_id)
        self._entries[self._next_id] = entry
        self._next_id += 1
        return entry.json()

    def json(self) -> list[dict[str, Any]]:
        """All entries, with how many things they saw and to how many they were applied."""
        return [entry.json() for entry in self._entries.values()]

    def fate_for(self, labels: tuple[str, ...]) -> _FateT:
        """What becomes of something with these labels."""
        due = [entry for entry in self._entries.values() if entry.due(labels)]
        if not due:
            return self._kind()
        due[0].applied += 1
        return due[0].fate

    def clear(self) -> None:
        """Everything goes as usual."""
        self._entries.clear()
