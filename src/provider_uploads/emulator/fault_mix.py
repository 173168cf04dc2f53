"""A mix of faults: a share of all replies goes wrong, in all ways."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from provider_uploads.emulator.errors import InvalidFaultError
from provider_uploads.emulator.fault_kinds import RULES, FaultKind
from provider_uploads.emulator.fault_orders import FaultOrder, words
from provider_uploads.emulator.faults import Fault
from provider_uploads.emulator.occasions import Moment, Occasion
from provider_uploads.emulator.operations import Operation


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
        if self.match is not None and Operation.LIST in operations:
            if named:
                raise InvalidFaultError("list is not about one file: leave match out")
            operations = tuple(op for op in operations if op is not Operation.LIST)
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

    def concerns(self, occasion: Occasion) -> bool:
        """Can any of it happen there?"""
        return (
            occasion.moment is Moment.REQUEST
            and occasion.operation in self.operations
            and bool(self._fitting(occasion))
            and self.is_aimed_at(occasion)
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
