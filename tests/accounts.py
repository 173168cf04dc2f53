"""What became of the work: one line for each scenario of killing, and the table of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime

from provider_uploads import protocol
from tests.nodes import WorkerProcess

# [2026-11-21 04:19:14,123: INFO/MainProcess] Task provider_uploads.upload[<ticket>] received
_LINE = re.compile(r"^\[([\d-]+ [\d:,]+): \w+/[^]]+\] Task ([\w.]+)\[([\w-]+)\] (\w+)", re.M)

Message = tuple[str, str]  # a task's name and id


@dataclass(frozen=True)
class Event:
    """A worker's note about a message: "received", or how it ended."""

    at: float
    message: Message
    word: str


class Logs:
    """What the workers of a scenario wrote, living and dead ones."""

    def __init__(self, workers: Iterable[WorkerProcess]) -> None:
        texts = {worker: worker.logs() for worker in workers}
        self._events = {worker: [*_events(text)] for worker, text in texts.items()}
        #: Uploads whose message was lost, and which the sweep submitted again.
        self.swept = sum(text.count("sweep: lost") for text in texts.values())

    def redelivered(self) -> int:
        """Deliveries of uploads and polls that neither a first message nor a retry explains."""
        received, asked = Counter[Message](), Counter[Message]()
        for events in self._events.values():
            for event in events:
                received[event.message] += event.word == "received"
                asked[event.message] += event.word == "retry"
        return sum(
            max(0, count - 1 - asked[message])
            for message, count in received.items()
            if message[0] in {protocol.UPLOAD, protocol.POLL}
        )

    def takeovers_s(self, killed: Mapping[WorkerProcess, float]) -> list[float]:
        """How long each message that a killed worker held took into other hands, in order."""
        return sorted(
            taken_at - killed_at
            for victim, killed_at in killed.items()
            for taken_at in self._taken_over(victim, killed_at)
        )

    def _taken_over(self, victim: WorkerProcess, killed_at: float) -> Iterable[float]:
        held = Counter[Message]()
        for event in self._events[victim]:
            held[event.message] += 1 if event.word == "received" else -1
        taken: dict[Message, float] = {}
        for worker, events in self._events.items():
            for event in events if worker is not victim else ():
                if event.word == "received" and event.at > killed_at and held[event.message] > 0:
                    taken[event.message] = min(event.at, taken.get(event.message, event.at))
        return taken.values()


def _events(text: str) -> Iterable[Event]:
    for at, task, task_id, word in _LINE.findall(text):
        moment = datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f")
        yield Event(moment.timestamp(), (task, task_id), word)


@dataclass(frozen=True)
class Account:
    """One scenario's line in the table.

    ``swept`` are messages that were lost and submitted again; ``unused sessions`` those whose URL
    died with a worker or an answer before anyone knew it: they hold nothing, and nobody can end
    them. ``recovery s`` is the time from a kill until 99 % of what the killed held was in other
    hands, ``slowest s`` the longest: what meets a second kill on its way waits a second time.
    """

    scenario: str
    uploads: int
    killed: int
    redelivered: int
    swept: int
    resumed: int
    bytes_resent: int
    duplicates: int
    lost: int
    left_behind: int
    unused_sessions: int
    seconds: float
    recovery_s: float | None
    slowest_s: float | None
    remark: str = ""

    def assert_clean(self) -> None:
        """Nothing lost, nothing twice, nothing left behind."""
        assert (self.lost, self.duplicates, self.left_behind) == (0, 0, 0), self


def table(accounts: Sequence[Account]) -> str:
    """The accounts under headings, numbers right-aligned."""
    headings = [one.name.replace("_", " ") for one in fields(Account)]
    rows = [headings, *([_cell(value) for value in astuple(account)] for account in accounts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = {0, len(widths) - 1}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
