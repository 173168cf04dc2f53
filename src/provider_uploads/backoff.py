"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

#: No wait is shorter, whatever the jitter takes away.
SHORTEST_S = 0.01


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential waits: ``first_s``, then ``factor`` times longer each, never above ``max_s``.

    ``jitter_s`` spreads each wait evenly over ±jitter_s, and ``jitter`` over ±that part of it, so
    that a thousand uploads that began together do not ask together, also at ``max_s``; 0 is exact.
    ``max_s=None`` lifts the cap.
    """

    first_s: float
    factor: float = 2.0
    max_s: float | None = None
    jitter_s: float = 0.0
    jitter: float = 0.0

    def delay(
        self, attempt: int, spread: Callable[[float, float], float] = random.uniform
    ) -> float:
        """Return the seconds to wait after ``attempt`` retries (0: before the first retry)."""
        try:
            exact = self.first_s * self.factor**attempt
        except OverflowError:
            exact = float("inf")
        if self.max_s is not None:
            exact = min(exact, self.max_s)
        exact = min(exact, 365 * 86_400.0)  # an uncapped wait still fits a datetime
        if spread_s := self.jitter_s + self.jitter * exact:
            exact += spread(-spread_s, spread_s)
        return max(exact, SHORTEST_S)
