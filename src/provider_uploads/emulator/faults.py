"""Orders for faults: what shall go wrong, at which call, how often."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Self, TypeVar

from provider_uploads.emulator.errors import ApiError, InvalidFaultError, unavailable
from provider_uploads.emulator.fault_kinds import RULES, AtBytes, FaultKind, Rule
from provider_uploads.emulator.occasions import Moment, Occasion
from provider_uploads.emulator.operations import Operation

DEFAULT_RETRY_DELAY_S = 1.0
DEFAULT_STALL_S = 1.0

_Word = TypeVar("_Word", bound=StrEnum)

# What only some kinds take.
_PARAMETERS = ("retry_delay_s", "stall_s", "after_bytes")


class _FromJson:
    """Orders as they come over HTTP."""

    _required: ClassVar[tuple[str, ...]]

    @classmethod
    def from_json(cls, order: Any) -> Self:
        """Read an order; InvalidFaultError says what is wrong with it."""
        if not isinstance(order, dict):
            raise InvalidFaultError("a fault is a JSON object")
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        unknown = sorted(set(order) - set(known))
        if unknown:
            raise InvalidFaultError(
                f"unknown: {', '.join(unknown)}; such an order has {', '.join(known)}"
            )
        for name in cls._required:
            if name not in order:
                raise InvalidFaultError(f"{name} is missing")
        return cls(**order)


@dataclass(frozen=True)
class Fault(_FromJson):
    """One kind at one operation: at the ``nth`` matching request from now, ``count`` times.

    With ``share`` it is a matter of chance from there on: that part of the matching requests,
    always the same ones for the same ``seed``. With ``for_s`` it ends when so many seconds have
    passed on the server's clock. Without either, ``count`` is 1, else without limit.

    ``match`` is a part of the file's name or display name (for ``generate`` of one file among
    those given, or of the model's name; for ``register`` of a uri).

    What is counted is requests, for kinds about a file (``file_failed``, ``file_stuck``,
    ``name_taken``, ``lost_finalize``, ``no_file``) files that are made. A kind counts only what
    it can happen to: ``name_taken`` files whose name the client chose, ``early_final`` requests
    with bytes, ``active_error`` chunks of a resumable upload.

    On an upload, ``reset`` and ``stall`` strike when ``after_bytes`` of that request were taken,
    else before any; ``early_final`` keeps that many and calls the file complete, else half.
    """

    operation: Operation
    kind: FaultKind
    nth: int = 1
    count: int | None = None
    match: str | None = None
    share: float = 1.0
    seed: int = 0
    for_s: float | None = None
    retry_delay_s: float | None = None
    stall_s: float | None = None
    after_bytes: int | None = None

    _required = ("operation", "kind")

    def __post_init__(self) -> None:
        object.__setattr__(self, "operation", _word(Operation, self.operation, "operation"))
        object.__setattr__(self, "kind", _word(FaultKind, self.kind, "kind"))
        if self.operation not in self.rule.operations:
            allowed = ", ".join(sorted(self.rule.operations))
            raise InvalidFaultError(
                f"{self.kind} cannot happen at {self.operation}, only at {allowed}"
            )
        for name in _PARAMETERS:
            if getattr(self, name) is not None and name not in self.rule.takes:
                raise InvalidFaultError(f"{self.kind} does not take {name}")
        _check_schedule(self)
        if self.match is not None and self.operation is Operation.LIST:
            raise InvalidFaultError("list is not about one file: leave match out")
        if self.after_bytes is not None:
            _whole("after_bytes", self.after_bytes, least=0)
            if self.operation is not Operation.UPLOAD:
                raise InvalidFaultError("after_bytes is only for the operation upload")
        if self.count is None and self.share == 1 and self.for_s is None:
            object.__setattr__(self, "count", 1)

    @property
    def rule(self) -> Rule:
        """What the table says of its kind."""
        return RULES[self.kind]

    @property
    def refusal(self) -> ApiError | None:
        """What is answered instead of doing anything; None if it is not that kind of fault."""
        refusal, delay_s = self.rule.refusal, self.retry_delay_s
        if refusal is None:
            return None
        return refusal(DEFAULT_RETRY_DELAY_S if delay_s is None else delay_s)

    @property
    def dropped(self) -> ApiError:
        """The answer to bytes that were thrown away, while the upload goes on."""
        return ApiError(unavailable().http_status, None, "active")

    @property
    def pause_s(self) -> float:
        """How long nothing happens."""
        return DEFAULT_STALL_S if self.stall_s is None else self.stall_s

    def place_bytes(self, length_bytes: int | None) -> int:
        """After how many bytes of a request it strikes."""
        if self.after_bytes is not None:
            return self.after_bytes
        return (length_bytes or 0) // 2 if self.rule.at_bytes is AtBytes.END else 0

    def concerns(self, occasion: Occasion) -> bool:
        """Can it happen there?"""
        return (
            self.rule.moment is occasion.moment
            and self.operation is occasion.operation
            and self.rule.needs in occasion.traits
            and _matches(self.match, occasion)
        )

    def at(self, occasion: Occasion, which: float, place: float) -> Fault:
        """What goes wrong there: this."""
        return self

    def json(self) -> dict[str, Any]:
        """The order."""
        return asdict(self) | {"operation": str(self.operation), "kind": str(self.kind)}


@dataclass(frozen=True)
class FaultMix(_FromJson):
    """A ``share`` of the replies goes wrong, in one of ``kinds`` each, chosen by chance.

    Every reply gets a kind that can happen to it. For one ``seed``, what happens follows from the
    sequence of requests to each operation, whatever comes in between to others. ``kinds`` and
    ``operations`` are all unless some are named. ``reset``, ``stall`` and ``early_final`` strike
    anywhere in the bytes. ``nth``, ``count``, ``match`` and ``for_s`` are those of ``Fault``;
    with a share of 1, one kind and ``for_s`` this is an outage.
    """

    share: float
    seed: int = 0
    kinds: tuple[FaultKind, ...] = ()
    operations: tuple[Operation, ...] = ()
    nth: int = 1
    count: int | None = None
    match: str | None = None
    for_s: float | None = None
    retry_delay_s: float | None = None
    stall_s: float | None = None

    _required = ("share",)

    def __post_init__(self) -> None:
        _check_schedule(self)
        named = bool(self.operations)
        object.__setattr__(self, "kinds", _words(FaultKind, self.kinds, "kinds"))
        object.__setattr__(self, "operations", _words(Operation, self.operations, "operations"))
        if self.match is not None and Operation.LIST in self.operations:
            if named:
                raise InvalidFaultError("list is not about one file: leave match out")
            others = tuple(op for op in self.operations if op is not Operation.LIST)
            object.__setattr__(self, "operations", others)
        for name in ("retry_delay_s", "stall_s"):
            if getattr(self, name) is not None and not any(
                name in RULES[kind].takes for kind in self.kinds
            ):
                raise InvalidFaultError(f"none of these kinds takes {name}")
        for kind in self.kinds:
            if not RULES[kind].operations & set(self.operations):
                raise InvalidFaultError(f"{kind} cannot happen at any of these operations")
        if named:
            for operation in self.operations:
                if not any(operation in RULES[kind].operations for kind in self.kinds):
                    raise InvalidFaultError(f"none of these kinds can happen at {operation}")

    def concerns(self, occasion: Occasion) -> bool:
        """Can any of it happen there?"""
        return (
            occasion.moment is Moment.REQUEST
            and occasion.operation in self.operations
            and bool(self._fitting(occasion))
            and _matches(self.match, occasion)
        )

    def at(self, occasion: Occasion, which: float, place: float) -> Fault:
        """What goes wrong there, out of two numbers from 0 to below 1."""
        fitting = self._fitting(occasion)
        kind = fitting[int(which * len(fitting))]
        takes = RULES[kind].takes
        placed = "after_bytes" in takes and occasion.operation is Operation.UPLOAD
        return Fault(
            occasion.operation,
            kind,
            retry_delay_s=self.retry_delay_s if "retry_delay_s" in takes else None,
            stall_s=self.stall_s if "stall_s" in takes else None,
            after_bytes=int(place * (occasion.length_bytes or 0)) if placed else None,
        )

    def json(self) -> dict[str, Any]:
        """The order."""
        return asdict(self) | {
            "kinds": [str(kind) for kind in self.kinds],
            "operations": [str(operation) for operation in self.operations],
        }

    def _fitting(self, occasion: Occasion) -> list[FaultKind]:
        return [
            kind
            for kind in self.kinds
            if occasion.operation in RULES[kind].operations and RULES[kind].needs in occasion.traits
        ]


def _matches(match: str | None, occasion: Occasion) -> bool:
    return match is None or any(match in label for label in occasion.labels)


def _check_schedule(order: Fault | FaultMix) -> None:
    _whole("nth", order.nth, least=1)
    if order.count is not None:
        _whole("count", order.count, least=1)
    match: Any = order.match
    if match is not None and not (isinstance(match, str) and match):
        raise InvalidFaultError("match must be a text that is not empty")
    if not (_is_number(order.share) and 0 < order.share <= 1):
        raise InvalidFaultError(f"share must be above 0 and at most 1, not {order.share!r}")
    seed: Any = order.seed
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidFaultError(f"seed must be a whole number, not {seed!r}")
    if seed and isinstance(order, Fault) and order.share == 1:
        raise InvalidFaultError("seed is for a share below 1")
    for name in ("for_s", "retry_delay_s", "stall_s"):
        seconds = getattr(order, name)
        if seconds is not None and not (_is_number(seconds) and seconds >= 0):
            raise InvalidFaultError(f"{name} must be seconds from 0, not {seconds!r}")


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def _word(kind: type[_Word], value: object, name: str) -> _Word:
    try:
        return kind(value)  # type: ignore[arg-type]
    except ValueError:
        known = ", ".join(kind)
        raise InvalidFaultError(f"{name} must be one of {known}, not {value!r}") from None


def _words(kind: type[_Word], values: Any, name: str) -> tuple[_Word, ...]:
    """Each once and in the order of their definition; all if none is given."""
    if isinstance(values, str) or not isinstance(values, list | tuple | set | frozenset):
        raise InvalidFaultError(f"{name} must be a list, not {values!r}")
    given = {_word(kind, value, name) for value in values}
    return tuple(word for word in kind if not given or word in given)


def _whole(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidFaultError(f"{name} must be a whole number from {least}, not {value!r}")
