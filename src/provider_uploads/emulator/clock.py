"""The one clock, and how the service writes its times."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

# Nanoseconds since the epoch. Every state and every expiry is computed from it when asked.
Clock = Callable[[], int]

SECOND_NS = 1_000_000_000

# Ten years: enough for every expiry, and far from where dates end.
MAX_ADVANCE_S = 10 * 366 * 24 * 3600

system_clock: Clock = time.time_ns


class AdjustableClock:
    """Another clock and the time it has been put forward; it never goes back."""

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._ahead_ns = 0

    def __call__(self) -> int:
        """Nanoseconds since the epoch, put forward."""
        return self._clock() + self._ahead_ns

    @property
    def advanced_s(self) -> float:
        """How far it has been put forward."""
        return self._ahead_ns / SECOND_NS

    def advance(self, advance_s: Any) -> None:
        """Put it forward; ValueError if that would not be forward, or absurdly far."""
        if (
            isinstance(advance_s, bool)
            or not isinstance(advance_s, int | float)
            or not math.isfinite(advance_s)
            or advance_s < 0
        ):
            raise ValueError(f"advance_s must be seconds from 0, not {advance_s!r}")
        if self.advanced_s + advance_s > MAX_ADVANCE_S:
            raise ValueError(f"advance_s: {MAX_ADVANCE_S} seconds ahead are the most")
        self._ahead_ns += int(advance_s * SECOND_NS)


def rfc3339(time_ns: int, *, fraction_digits: int = 6) -> str:
    """``2025-05-01T09:30:00.123456Z``; the service gives nine digits for expiry, else six."""
    whole_s, rest_ns = divmod(time_ns, SECOND_NS)
    fraction = f".{rest_ns:09d}"[: fraction_digits + 1] if fraction_digits else ""
    return f"{datetime.fromtimestamp(whole_s, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"
