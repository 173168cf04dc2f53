"""The one clock, and how the service writes its times."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

# Nanoseconds since the epoch. Every state and every expiry is computed from it when asked.
Clock = Callable[[], int]

SECOND_NS = 1_000_000_000

system_clock: Clock = time.time_ns


def rfc3339(time_ns: int, *, fraction_digits: int = 6) -> str:
    """``2025-05-01T09:30:00.123456Z``; the service gives nine digits for expiry, else six."""
    whole_s, rest_ns = divmod(time_ns, SECOND_NS)
    fraction = f"{rest_ns:09d}"[:fraction_digits]
    return f"{datetime.fromtimestamp(whole_s, UTC):%Y-%m-%dT%H:%M:%S}.{fraction}Z"
