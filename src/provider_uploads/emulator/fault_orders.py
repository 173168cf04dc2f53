"""What all orders for faults have in common: when they are due, and how they are read."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Self, TypeVar

from provider_uploads.emulator.errors import InvalidFaultError
from provider_uploads.emulator.occasions import Occasion

_Word = TypeVar("_Word", bound=StrEnum)


@dataclass(frozen=True, kw_only=True)
class FaultOrder:
    """From the ``nth`` matching occasion on, ``count`` times at most.

    With ``share`` it is a matter of chance from there on: that part of the occasions, always the
    same ones for the same ``seed``. With ``for_s`` it ends when so many seconds have passed on
    the server's clock.

    ``match`` is a part of the file's name or display name (for ``generate`` of one file among
    those given, or of the model's name; for ``register`` of a uri).
    """

    nth: int = 1
    count: int | None = None
    match: str | None = None
    share: float = 1.0
    seed: int = 0
    for_s: float | None = None
    retry_delay_s: float | None = None
    stall_s: float | None = None

    _required: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        whole("nth", self.nth, least=1)
        if self.count is not None:
            whole("count", self.count, least=1)
        match: Any = self.match
        if match is not None and not (isinstance(match, str) and match):
            raise InvalidFaultError("match must be a text that is not empty")
        if not (_is_number(self.share) and 0 < self.share <= 1):
            raise InvalidFaultError(f"share must be above 0 and at most 1, not {self.share!r}")
        whole("seed", self.seed)
        if self.for_s is not None and not (_is_number(self.for_s) and self.for_s > 0):
            raise InvalidFaultError(f"for_s must be seconds above 0, not {self.for_s!r}")
        for name in ("retry_delay_s", "stall_s"):
            seconds = getattr(self, name)
            if seconds is not None and not (_is_number(seconds) and seconds >= 0):
                raise InvalidFaultError(f"{name} must be seconds from 0, not {seconds!r}")

    @classmethod
    def from_json(cls, order: Any) -> Self:
        """Read an order; InvalidFaultError says what is wrong with it."""
        if not isinstance(order, dict):
            raise InvalidFaultError("a fault is a JSON object")
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(order) - set(known))
        if unknown:
            raise InvalidFaultError(
                f"unknown: {', '.join(unknown)}; such an order has {', '.join(known)}"
            )
        for name in cls._required:
            if name not in order:
                raise InvalidFaultError(f"{name} is missing")
        return cls(**order)

    def is_aimed_at(self, occasion: Occasion) -> bool:
        """Does ``match`` say nothing against it?"""
        return self.match is None or any(self.match in label for label in occasion.labels)


def word(kind: type[_Word], value: object, name: str) -> _Word:
    """The value as a word of that kind; InvalidFaultError if it is none."""
    try:
        return kind(value)  # type: ignore[arg-type]
    except ValueError:
        known = ", ".join(kind)
        raise InvalidFaultError(f"{name} must be one of {known}, not {value!r}") from None


def words(kind: type[_Word], values: Any, name: str) -> tuple[_Word, ...]:
    """Each once and in the order of their definition; all if none is given."""
    if not isinstance(values, list | tuple | set | frozenset):
        raise InvalidFaultError(f"{name} must be a list, not {values!r}")
    given = {word(kind, value, name) for value in values}
    return tuple(known for known in kind if not given or known in given)


def whole(name: str, value: Any, *, least: int | None = None) -> None:
    """InvalidFaultError unless it is a whole number and large enough."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or (least is not None and value < least):
        least_said = "" if least is None else f" from {least}"
        raise InvalidFaultError(f"{name} must be a whole number{least_said}, not {value!r}")


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
