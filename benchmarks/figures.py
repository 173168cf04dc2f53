"""What was measured: one value a round, ours beside a peer's of the same run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self

Better = Literal["less", "more"]


@dataclass(frozen=True, slots=True)
class Series:
    """One value a round."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        return cls(tuple(values))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def over(self, other: Series) -> Series:
        """Divide round by round: neighbours in time saw the same noise."""
        return Series.of(
            mine / theirs if theirs else float("inf")
            for mine, theirs in zip(self.values, other.values, strict=True)
        )

    def times(self, factor: float) -> Series:
        return Series.of(value * factor for value in self.values)

    def json(self) -> dict[str, float]:
        return {
            "median": round(self.median, 4),
            "min": round(min(self.values), 4),
            "max": round(max(self.values), 4),
        }


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table. Without ``theirs``, ``peer`` says why there is none, or is empty."""

    benchmark: str
    what: str
    unit: str
    better: Better
    ours: Series
    peer: str = ""
    theirs: Series | None = None

    @property
    def ratio(self) -> Series | None:
        """Ours ÷ the peer's."""
        return None if self.theirs is None else self.ours.over(self.theirs)

    def json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "figure": self.what,
            "unit": self.unit,
            "better": self.better,
            "ours": self.ours.json(),
            "peer": self.peer or None,
            "theirs": self.theirs.json() if self.theirs else None,
            "ratio": self.ratio.json() if self.ratio else None,
            "rounds": len(self.ours.values),
        }
