"""Requests a minute and a day: counted per operation, granted per project."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from provider_uploads.emulator.clock import SECOND_NS, Clock
from provider_uploads.emulator.errors import rate_limited
from provider_uploads.emulator.operations import Operation

WINDOW_S = 60

# The service names some such delay for a quota of the day too, though waiting for it is no use.
_USELESS_DELAY_S = 30.0


class SlidingWindow:
    """What happened in the last 60 seconds; the most there ever was in any 60."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._times_ns: deque[int] = deque()
        self.most = 0

    def __len__(self) -> int:
        before_ns = self._clock() - WINDOW_S * SECOND_NS
        while self._times_ns and self._times_ns[0] <= before_ns:
            self._times_ns.popleft()
        return len(self._times_ns)

    @property
    def moves_in_s(self) -> float:
        """How long until the oldest is out of it, in whole milliseconds and never too short."""
        left_ns = self._times_ns[0] + WINDOW_S * SECOND_NS - self._clock()
        return math.ceil(left_ns / 1_000_000) / 1000

    def add(self) -> None:
        """It happened now."""
        self._times_ns.append(self._clock())
        self.most = max(self.most, len(self))


class Quotas:
    """How often each project may call each operation; what is refused uses nothing up.

    The minute is any 60 seconds, the day is California's.
    """

    def __init__(
        self,
        per_minute: Mapping[Operation, int],
        per_day: Mapping[Operation, int],
        clock: Clock,
    ) -> None:
        self._per_minute = per_minute
        self._per_day = per_day
        self._clock = clock
        self._windows: dict[tuple[Operation, str], SlidingWindow] = {}
        self._day = date.min
        self._today: Counter[tuple[Operation, str]] = Counter()

    def take(self, operation: Operation, project: str) -> None:
        """Use one request up, or 429 with the quota that is used up already."""
        per_minute = self._per_minute.get(operation)
        per_day = self._per_day.get(operation)
        key = (operation, project)
        if per_day is not None:
            self._begin_day()
            if self._today[key] >= per_day:
                raise rate_limited(_USELESS_DELAY_S, _quota_id(operation, "Day"), per_day)
        if per_minute is not None:
            window = self._windows.setdefault(key, SlidingWindow(self._clock))
            if len(window) >= per_minute:
                quota_id = _quota_id(operation, "Minute")
                raise rate_limited(window.moves_in_s, quota_id, per_minute)
            window.add()
        if per_day is not None:
            self._today[key] += 1

    def clear(self) -> None:
        """Nothing has been used up."""
        self._windows.clear()
        self._today.clear()

    def _begin_day(self) -> None:
        today = datetime.fromtimestamp(self._clock() / SECOND_NS, UTC).astimezone(_pacific()).date()
        if today != self._day:
            self._day = today
            self._today.clear()


def _quota_id(operation: Operation, per: str) -> str:
    about = "" if operation is Operation.GENERATE else "File"
    return f"{about}{operation.capitalize()}RequestsPer{per}PerProject"


def _pacific() -> tzinfo:
    try:
        return ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:  # a system without a time zone database
        return timezone(timedelta(hours=-8))
