"""Faults: one kind at one operation, to be ordered and to strike."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from provider_uploads.emulator.errors import ApiError, InvalidFaultError, unavailable
from provider_uploads.emulator.fault_kinds import RULES, AtBytes, FaultKind, Rule
from provider_uploads.emulator.fault_orders import FaultOrder, whole, word
from provider_uploads.emulator.occasions import Occasion
from provider_uploads.emulator.operations import Operation

DEFAULT_RETRY_DELAY_S = 1.0
DEFAULT_STALL_S = 1.0

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
        if self.match is not None and self.operation is Operation.LIST:
            raise InvalidFaultError("list is not about one file: leave match out")
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

    def concerns(self, occasion: Occasion) -> bool:
        """Can it happen there?"""
        return (
            self.rule.moment is occasion.moment
            and self.operation is occasion.operation
            and self.rule.needs in occasion.traits
            and self.is_aimed_at(occasion)
        )

    def at(self, occasion: Occasion, which: float, place: float) -> Fault:
        """What goes wrong there: this."""
        return self

    def json(self) -> dict[str, Any]:
        """The order."""
        return asdict(self) | {"operation": str(self.operation), "kind": str(self.kind)}
