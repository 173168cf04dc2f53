"""Faults on order: one kind at one operation, or a mix over all."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar, Self, TypeVar

from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.errors import ApiError, InvalidFaultError, unavailable
from provider_uploads.emulator.fault_kinds import (
    RULES,
    AtBytes,
    FaultKind,
    FaultPoint,
    Moment,
    Rule,
)

_Word = TypeVar("_Word", bound=StrEnum)


@dataclass(frozen=True, kw_only=True)
class FaultOrder:
    """From the ``nth`` matching fault_point on, ``count`` times at most.

    With ``share`` it is a matter of chance from there on: that part of the occasions, always the
    same ones for the same ``seed``. With ``for_s`` it ends when so many seconds have passed on
    the server's clock.

    ``match`` is a part of the file's name or display name (for ``generate`` of one file among
    those given, or of the model's name; for ``register`` of a uri; for batches of the job's name,
    display name or model, or of its input file's name).
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

    def is_aimed_at(self, fault_point: FaultPoint) -> bool:
        """Does ``match`` say nothing against it?"""
        return self.match is None or any(self.match in label for label in fault_point.labels)


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


DEFAULT_RETRY_DELAY_S = 1.0
DEFAULT_STALL_S = 1.0

# Operations that are about no file or batch in particular.
_ABOUT_ALL = frozenset({Operation.LIST, Operation.LIST_BATCHES})

# What only some kinds take.
_PARAMETERS = ("retry_delay_s", "stall_s", "after_bytes")


@dataclass(frozen=True)
class Fault(FaultOrder):
    """One kind of fault at one operation; ``FaultOrder`` says when.

    ``count`` is 1 unless there is a ``share`` or ``for_s``, then without limit. What is counted
    is requests; for kinds about a file (``file_failed``, ``file_stuck``, ``name_taken``,
    ``lost_finalize``, ``no_file``) files that are made. A kind counts only what it can happen to:
    ``name_taken`` files whose name the client chose, ``early_final`` requests with bytes,
    ``active_error`` chunks of a resumable upload.

    On an upload, ``reset`` and ``stall`` strike when ``after_bytes`` of that request were taken
    (or all, if there are fewer), else before any. ``early_final`` keeps so many of them, else
    half, and calls the file complete.
    """

    operation: Operation
    kind: FaultKind
    after_bytes: int | None = None

    _required = ("operation", "kind")

    def __post_init__(self) -> None:
        object.__setattr__(self, "operation", word(Operation, self.operation, "operation"))
        object.__setattr__(self, "kind", word(FaultKind, self.kind, "kind"))
        if self.operation not in self.rule.operations:
            allowed = ", ".join(sorted(self.rule.operations))
            raise InvalidFaultError(
                f"{self.kind} cannot happen at {self.operation}, only at {allowed}"
            )
        for name in _PARAMETERS:
            if getattr(self, name) is not None and name not in self.rule.takes:
                raise InvalidFaultError(f"{self.kind} does not take {name}")
        super().__post_init__()
        if self.seed and self.share == 1:
            raise InvalidFaultError("seed is for a share below 1")
        if self.match is not None and self.operation in _ABOUT_ALL:
            raise InvalidFaultError(f"{self.operation} is not about one: leave match out")
        if self.after_bytes is not None:
            whole("after_bytes", self.after_bytes, least=0)
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

    def concerns(self, fault_point: FaultPoint) -> bool:
        """Can it happen there?"""
        return (
            self.rule.moment is fault_point.moment
            and self.operation is fault_point.operation
            and self.rule.needs in fault_point.traits
            and self.is_aimed_at(fault_point)
        )

    def at(self, fault_point: FaultPoint, which: float, place: float) -> Fault:
        """What goes wrong there: this."""
        return self

    def json(self) -> dict[str, Any]:
        """The order."""
        return asdict(self) | {"operation": str(self.operation), "kind": str(self.kind)}


@dataclass(frozen=True, kw_only=True)
class FaultMix(FaultOrder):
    """A ``share`` of the replies goes wrong, each in one of ``kinds``, chosen by chance.

    Every reply gets a kind that can happen to it. For one ``seed``, what happens follows from the
    sequence of requests to each operation, whatever comes in between to others. ``kinds`` and
    ``operations`` are all unless some are named. ``reset``, ``stall`` and ``early_final`` strike
    anywhere in the bytes. With a share of 1 and ``for_s`` this is an outage.
    """

    share: float = field()
    kinds: Collection[FaultKind] = ()
    operations: Collection[Operation] = ()

    _required = ("share",)

    def __post_init__(self) -> None:
        super().__post_init__()
        named = bool(self.operations)
        kinds = words(FaultKind, self.kinds, "kinds")
        operations = words(Operation, self.operations, "operations")
        if self.match is not None and _ABOUT_ALL & set(operations):
            if named:
                about_all = ", ".join(sorted(_ABOUT_ALL & set(operations)))
                raise InvalidFaultError(f"{about_all} is not about one: leave match out")
            operations = tuple(op for op in operations if op not in _ABOUT_ALL)
        object.__setattr__(self, "kinds", kinds)
        object.__setattr__(self, "operations", operations)
        for name in ("retry_delay_s", "stall_s"):
            given = getattr(self, name) is not None
            if given and not any(name in RULES[kind].takes for kind in kinds):
                raise InvalidFaultError(f"none of these kinds takes {name}")
        for kind in kinds:
            if not RULES[kind].operations & set(operations):
                raise InvalidFaultError(f"{kind} cannot happen at any of these operations")
        for operation in operations if named else ():
            if not any(operation in RULES[kind].operations for kind in kinds):
                raise InvalidFaultError(f"none of these kinds can happen at {operation}")

    def concerns(self, fault_point: FaultPoint) -> bool:
        """Can any of it happen there?"""
        return (
            fault_point.moment is Moment.REQUEST
            and fault_point.operation in self.operations
            and bool(self._fitting(fault_point))
            and self.is_aimed_at(fault_point)
        )

    def at(self, fault_point: FaultPoint, which: float, place: float) -> Fault:
        """What goes wrong there, out of two numbers from 0 to below 1."""
        fitting = self._fitting(fault_point)
        kind = fitting[int(which * len(fitting))]
        takes = RULES[kind].takes
        placed = "after_bytes" in takes and fault_point.operation is Operation.UPLOAD
        return Fault(
            fault_point.operation,
            kind,
            retry_delay_s=self.retry_delay_s if "retry_delay_s" in takes else None,
            stall_s=self.stall_s if "stall_s" in takes else None,
            after_bytes=int(place * (fault_point.length_bytes or 0)) if placed else None,
        )

    def json(self) -> dict[str, Any]:
        """The order."""
        return asdict(self) | {
            "kinds": [str(kind) for kind in self.kinds],
            "operations": [str(operation) for operation in self.operations],
        }

    def _fitting(self, fault_point: FaultPoint) -> list[FaultKind]:
        return [
            kind
            for kind in self.kinds
            if fault_point.operation in RULES[kind].operations
            and RULES[kind].needs in fault_point.traits
        ]
