"""Requests counted and limited: quotas by operation and project, and what was served."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from provider_uploads.emulator.config import SECOND_NS, Clock, Operation
from provider_uploads.emulator.errors import rate_limited
from provider_uploads.emulator.files import StoredFile
from provider_uploads.emulator.sessions import UploadSession

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


_NOT_ABOUT_FILES = frozenset(
    {Operation.GENERATE, Operation.WEBHOOK} | {op for op in Operation if "batch" in op}
)


def _quota_id(operation: Operation, per: str) -> str:
    words = "".join(word.capitalize() for word in operation.split("_"))
    about = "" if operation in _NOT_ABOUT_FILES else "File"
    return f"{about}{words}RequestsPer{per}PerProject"


def _pacific() -> tzinfo:
    try:
        return ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:  # a system without a time zone database
        return timezone(timedelta(hours=-8))


# Of so many uploads the latest bytes are told: a server may run for weeks.
MAX_UPLOADS = 10_000


@dataclass
class UploadCount:
    """What one upload was sent: bytes that came twice or were thrown away count each time."""

    session: UploadSession
    requests: int = 0
    received_bytes: int = 0

    def json(self) -> dict[str, Any]:
        """Whose bytes, how many came, how many are of use; ``name`` is the file's once it is."""
        session = self.session
        file = session.outcome if isinstance(session.outcome, StoredFile) else None
        return {
            "name": session.metadata.name if file is None else file.name,
            "display_name": session.metadata.display_name,
            "state": str(session.state),
            "declared_bytes": session.metadata.declared_bytes,
            "requests": self.requests,
            "bytes_received": self.received_bytes,
            "bytes_kept": session.received_bytes if file is None else file.size_bytes,
        }


class Counters:
    """Requests per operation, answers per HTTP status, faults, file bytes taken, files made.

    ``most_in_60_s`` is the largest number of requests that came within any 60 seconds, from all
    projects together; ``over_quota`` how many of them were refused for it.

    A request that got no answer is counted under ``reset`` (the server hung up) or
    ``disconnected`` (the client did) instead of a status.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.clear()

    def clear(self) -> None:
        """Start again from zero."""
        self.requests: Counter[Operation] = Counter()
        self.answers: dict[Operation, Counter[str]] = {op: Counter() for op in Operation}
        self.faults: dict[Operation, Counter[str]] = {op: Counter() for op in Operation}
        self.over_quota: Counter[Operation] = Counter()
        self.received_bytes = 0
        self.files_made = 0
        self._windows = {op: SlidingWindow(self._clock) for op in Operation}
        self._uploads: dict[str, UploadCount] = {}  # oldest first

    def request(self, operation: Operation) -> None:
        """Count a request that has come in."""
        self.requests[operation] += 1
        self._windows[operation].add()

    def upload(self, session: UploadSession) -> UploadCount:
        """What is counted for one upload."""
        if session.upload_id not in self._uploads:
            if len(self._uploads) == MAX_UPLOADS:
                del self._uploads[next(iter(self._uploads))]
            self._uploads[session.upload_id] = UploadCount(session)
        return self._uploads[session.upload_id]

    def json(self) -> dict[str, Any]:
        """Everything that is counted."""
        return {
            "operations": {
                str(operation): {
                    "requests": self.requests[operation],
                    "by_status": dict(self.answers[operation]),
                }
                for operation in Operation
            },
            "faults": {
                str(operation): {str(kind): count for kind, count in kinds.items()}
                for operation, kinds in self.faults.items()
                if kinds
            },
            "over_quota": {str(operation): count for operation, count in self.over_quota.items()},
            "most_in_60_s": {
                str(operation): window.most
                for operation, window in self._windows.items()
                if window.most
            },
            "bytes_received": self.received_bytes,
            "files_made": self.files_made,
            "uploads": [upload.json() for upload in self._uploads.values()],
        }
