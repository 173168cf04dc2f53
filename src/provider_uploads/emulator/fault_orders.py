"""The faults on order, and what has become of each order."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from provider_uploads.emulator.config import SECOND_NS, Clock, Operation, rfc3339
from provider_uploads.emulator.fault_kinds import FaultPoint
from provider_uploads.emulator.faults import Fault, FaultMix


class _Entry:
    """An order in the book, and how far it has come."""

    def __init__(self, order: Fault | FaultMix, order_id: int, clock: Clock) -> None:
        self.order = order
        self.order_id = order_id
        self.seen = 0
        self.fired: Counter[tuple[str, str]] = Counter()
        self._clock = clock
        self._until_ns = None if order.for_s is None else clock() + int(order.for_s * SECOND_NS)
        # One for each operation, so that requests to others do not change what happens to its own.
        self._chance: dict[Operation, random.Random] = {}

    def due(self, fault_point: FaultPoint) -> Fault | None:
        """What this order would let happen here; seen it has the fault_point in any case."""
        if not self.order.concerns(fault_point):
            return None
        self.seen += 1
        chance = self._chance.setdefault(
            fault_point.operation,
            random.Random(f"{self.order.seed} {fault_point.operation}"),  # noqa: S311
        )
        # Always as many numbers, so that later draws do not depend on this one's outcome.
        drawn, which, place = chance.random(), chance.random(), chance.random()
        if (
            drawn >= self.order.share
            or self.seen < self.order.nth
            or (self.order.count is not None and self.fired.total() >= self.order.count)
            or (self._until_ns is not None and self._clock() >= self._until_ns)
        ):
            return None
        return self.order.at(fault_point, which, place)

    def json(self) -> dict[str, Any]:
        fired: dict[str, dict[str, int]] = {}
        for (operation, kind), count in self.fired.items():
            fired.setdefault(operation, {})[kind] = count
        return {
            "id": self.order_id,
            **self.order.json(),
            "until": None if self._until_ns is None else rfc3339(self._until_ns),
            "seen": self.seen,
            "applied": self.fired.total(),
            "fired": fired,
        }


class FaultOrders:
    """The faults on order.

    All count the occasions they see. Where two are due at once, the one ordered first strikes;
    the other stays due, unless it was there by chance.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[int, _Entry] = {}  # in the order they were made
        self._next_id = 1

    def order(self, order: Fault | FaultMix) -> dict[str, Any]:
        """Add an order; the answer is its entry in the book."""
        entry = _Entry(order, self._next_id, self._clock)
        self._entries[self._next_id] = entry
        self._next_id += 1
        return entry.json()

    def json(self) -> list[dict[str, Any]]:
        """All entries, with how many occasions they saw and how often they struck."""
        return [entry.json() for entry in self._entries.values()]

    def end(self, order_id: int) -> dict[str, Any] | None:
        """Take one order out; the answer is how far it came, None if there is none of that id."""
        entry = self._entries.pop(order_id, None)
        return None if entry is None else entry.json()

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._entries.clear()

    def strike(self, fault_point: FaultPoint) -> Fault | None:
        """What goes wrong here."""
        due = [
            (entry, fault)
            for entry in self._entries.values()
            if (fault := entry.due(fault_point)) is not None
        ]
        if not due:
            return None
        entry, fault = due[0]
        entry.fired[str(fault.operation), str(fault.kind)] += 1
        return fault
