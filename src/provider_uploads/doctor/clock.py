"""How far two clocks are apart, when a question and its answer take their time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Skew:
    """How many seconds a clock is ahead of another: at least ``low_s``, at most ``high_s``."""

    low_s: float
    high_s: float

    @classmethod
    def measured(cls, asked_s: float, theirs_s: float, answered_s: float) -> Skew:
        """Return how far their clock is ahead of ours, which said the other two times."""
        return cls(theirs_s - answered_s, theirs_s - asked_s)

    def against(self, other: Skew) -> Skew:
        """Return how far this clock is ahead of the other one; both were held against a third."""
        return Skew(self.low_s - other.high_s, self.high_s - other.low_s)

    @property
    def certain_s(self) -> float:
        """What it is at least, whichever way; negative when it is behind."""
        if self.low_s > 0:
            return self.low_s
        return min(self.high_s, 0.0)

    @property
    def most_s(self) -> float:
        """What it is at most, whichever way."""
        return max(abs(self.low_s), abs(self.high_s))
