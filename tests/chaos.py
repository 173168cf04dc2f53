"""Workers and servers that are killed under load, and the account of what became of the work.

A `Fleet` is a supervisor: it starts again what has ended. A `House` is one Redis, one local Gemini,
a client and the fleets. An `Account` is what the provider, the ledger, the broker and the workers'
logs say when all is over.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from provider_uploads import QueueUnavailableError, Stage, UploadQueue, contract
from provider_uploads.emulator import LocalGemini
from provider_uploads.ledger import OPEN_KEY
from provider_uploads.records import UploadStatus
from tests.nodes import Process, RedisProcess, WorkerProcess, wait_until

MIB = 1024 * 1024

# [2026-11-21 04:19:14,123: INFO/MainProcess] Task provider_uploads.upload[<ticket>] received
_LINE = re.compile(r"^\[([\d-]+ [\d:,]+): \w+/[^]]+\] Task ([\w.]+)\[([\w-]+)\] (\w+)", re.M)


@dataclass(frozen=True)
class Event:
    """One line of a worker's log about a task."""

    at: float
    message: tuple[str, str]  # the task's name and id
    word: str  # "received", or how it ended


class Fleet:
    """Workers that are started again when they end, as a supervisor does in production."""

    def __init__(self, start: Callable[[], WorkerProcess], size: int, chance: random.Random) -> None:
        self._start = start
        self._chance = chance
        self.killed: dict[WorkerProcess, float] = {}
        self.workers = [start() for _ in range(size)]
        self.all = [*self.workers]

    def ready(self) -> None:
        for worker in self.workers:
            worker.ready()

    def keep(self) -> None:
        """Start again those that have ended."""
        for place, worker in enumerate(self.workers):
            if worker.exit_code is not None:
                self.workers[place] = self._start()
                self.all.append(self.workers[place])

    def kill_one(self) -> None:
        """SIGKILL one that has begun to work, if there is one; ``keep`` replaces it."""
        ready = [one for one in self.workers if one.exit_code is None and one.is_ready]
        if ready:
            self.kill(self._chance.choice(ready))

    def kill(self, worker: WorkerProcess) -> None:
        worker.kill()
        self.killed[worker] = time.time()

    def stop(self) -> None:
        for worker in self.workers:
            worker.teardown()

    def events(self, worker: WorkerProcess) -> list[Event]:
        return [
            Event(
                datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").timestamp(),  # noqa: DTZ007
                (task, task_id),
                word,
            )
            for at, task, task_id, word in _LINE.findall(worker.logs())
        ]

    def redelivered(self) -> int:
        """Deliveries of uploads and looks that neither a first message nor a retry explains."""
        received, asked = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for worker in self.all:
            for event in self.events(worker):
                received[event.message] += event.word == "received"
                asked[event.message] += event.word == "retry"
        return sum(
            max(0, count - 1 - asked[message])
            for message, count in received.items()
            if message[0] in {contract.UPLOAD, contract.POLL}
        )

    def recovery_s(self) -> float | None:
        """The longest time from a kill until what the killed held was in another's hands."""
        events = {worker: self.events(worker) for worker in self.all}
        longest = None
        for victim, killed_at in self.killed.items():
            held = Counter[tuple[str, str]]()
            for event in events[victim]:
                held[event.message] += 1 if event.word == "received" else -1
            taken: dict[tuple[str, str], float] = {}
            for worker, seen in events.items():
                for event in seen if worker is not victim else ():
                    if event.word == "received" and event.at > killed_at:
                        taken[event.message] = min(event.at, taken.get(event.message, event.at))
            waits = [taken[one] - killed_at for one, count in held.items() if count > 0 if one in taken]
            longest = max([*waits, longest or 0.0]) if waits else longest
        return longest


@dataclass(frozen=True)
class Account:
    """One scenario's line in the table."""

    scenario: str
    uploads: int
    killed: int
    redelivered: int
    resumed: int
    resent_bytes: int
    duplicates: int
    lost: int
    left_behind: int
    seconds: float
    recovery_s: float | None = None
    remark: str = ""

    def assert_clean(self) -> None:
        """Nothing lost, nothing twice, nothing left behind."""
        assert (self.lost, self.duplicates, self.left_behind) == (0, 0, 0), self


def table(accounts: Sequence[Account]) -> str:
    """The accounts under headings, right-aligned where they are numbers."""
    headings = [one.name.replace("_", " ") for one in fields(Account)]
    rows = [headings, *([_cell(value) for value in astuple(account)] for account in accounts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in {0, len(widths) - 1} else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


@dataclass
class House:
    """One Redis, one local Gemini, a client, and the fleets that work for it."""

    redis: RedisProcess
    gemini: LocalGemini
    queue: UploadQueue
    env: Mapping[str, str]
    folder: Path
    seed: int
    fleets: list[Fleet] = field(default_factory=list)
    #: What was submitted: the SHA-256 of each ticket's file.
    hashes: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    begun: float = 0.0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._files: dict[str, tuple[Path, str]] = {}
        self._beat: Process | None = None

    # -- workers -------------------------------------------------------------------------------

    def worker(self, *arguments: str, app: str = "tasks", **env: str) -> WorkerProcess:
        command = [app if part == "tasks" else part for part in WorkerProcess.command(*arguments)]
        return WorkerProcess.spawn(self.folder, command, {**self.env, **env})

    def fleet(self, size: int, *arguments: str, **env: str) -> Fleet:
        fleet = Fleet(lambda: self.worker(*arguments, **env), size, self.chance)
        self.fleets.append(fleet)
        fleet.ready()
        if self._beat is None:
            self.beat()
        return fleet

    def beat(self) -> None:
        """Start what sends the sweeps."""
        self._beat = WorkerProcess.beat(self.folder, self.env)

    def keep(self) -> None:
        for fleet in self.fleets:
            fleet.keep()
        if self._beat is not None and self._beat.status == "exited":
            self.beat()

    def close(self) -> None:
        for fleet in self.fleets:
            for worker in fleet.workers:
                worker.kill("SIGTERM")  # all together; then wait for each
        if self._beat is not None:
            self._beat.stop()
        for fleet in self.fleets:
            fleet.stop()

    # -- uploads -------------------------------------------------------------------------------

    def file(self, name: str, size_bytes: int) -> Path:
        if name not in self._files:
            path = self.folder / "files" / name
            path.parent.mkdir(exist_ok=True)
            data = random.Random(f"{self.seed} {name}").randbytes(size_bytes)
            path.write_bytes(data)
            self._files[name] = (path, hashlib.sha256(data).hexdigest())
        return self._files[name][0]

    def submit(self, paths: Sequence[Path], *, one_by_one: bool = False, **patience: Any) -> list[str]:
        """Submit files, in one message or each in its own; the clock starts with the first."""
        self.begun = self.begun or time.monotonic()
        options = {"poll_s": 0.2, "max_poll_s": 1.0, "jitter_s": 0.0, **patience}
        if one_by_one:
            tickets = [self.queue.submit(path, **options) for path in paths]
        else:
            tickets = self.queue.submit_many(paths, **options)
        for ticket, path in zip(tickets, paths, strict=True):
            self.hashes[ticket] = self._files[path.name][1]
            self.sizes[ticket] = path.stat().st_size
        return tickets

    def submit_mixed(self, count: int, most_bytes: int, **patience: Any) -> list[str]:
        """Submit files of 1 KiB to ``most_bytes``, videos and texts, by both ways."""
        kinds = max(8, count // 8)
        paths = []
        for number in range(kinds):
            size = int(1024 * (most_bytes / 1024) ** self.chance.random())
            paths.append(self.file(f"{number}.{self.chance.choice(('mp4', 'txt'))}", size))
        chosen = [paths[number % kinds] for number in range(count)]
        half = count // 2
        return [
            *self.submit(chosen[:half], one_by_one=True, **patience),
            *self.submit(chosen[half:], **patience),
        ]

    def status(self, tickets: Collection[str]) -> list[UploadStatus]:
        return self.queue.statuses([*tickets])

    def until_ended(
        self,
        tickets: Sequence[str],
        timeout_s: float,
        *,
        meanwhile: Callable[[int], None] = lambda ended: None,
    ) -> float:
        """Keep the fleets going until all tickets have ended; return the seconds since submitting.

        ``meanwhile`` is called again and again with how many have ended.
        """
        living = [*tickets]

        def all_ended() -> bool:
            self.keep()
            with suppress(QueueUnavailableError):  # while Redis is restarted
                living[:] = [one.ticket for one in self.status(living) if not one.stage.ended]
            meanwhile(len(tickets) - len(living))
            time.sleep(0.1)
            return not living

        try:
            wait_until(all_ended, "all uploads to end", timeout_s)
        except AssertionError as error:
            left = [one.model_dump_json() for one in self.status(living)[:5]]
            raise AssertionError(f"{error}: {len(living)} of {len(tickets)}, {left}") from None
        return time.monotonic() - self.begun

    # -- what became of it ---------------------------------------------------------------------

    def held(self) -> int:
        """Messages in queues and in workers' hands that move an upload."""
        with self.redis.client as client:
            queues = (contract.TRANSFER_QUEUE, contract.CONTROL_QUEUE)
            waiting = sum(client.llen(f"{contract.KEY_PREFIX}{name}") for name in queues)
            return int(waiting) + int(client.hlen(f"{contract.KEY_PREFIX}unacked"))

    def account(
        self,
        scenario: str,
        seconds: float,
        *,
        ends: Mapping[str, Stage] | None = None,
        settle_s: float = 20.0,
        remark: str = "",
    ) -> Account:
        """Wait until nothing moves any more, then count; ``ends`` says who should not be ACTIVE."""
        expected = dict.fromkeys(self.hashes, Stage.ACTIVE) | dict(ends or {})

        def settled() -> bool:
            self.keep()
            return self.held() == 0 and not [*self._left_behind(expected)]

        with suppress(AssertionError):  # the account says what is wrong
            wait_until(settled, "the last messages", settle_s)
        statuses = {one.ticket: one for one in self.status([*expected])}
        files = self.gemini.files()
        copies = Counter(contract.upload_of(file["name"]) for file in files)
        tickets = Counter(of[0] for of in copies if of is not None)
        good = {
            found[0]
            for file in files
            if (found := contract.upload_of(file["name"])) is not None
            and file["sha256"] == self.hashes[found[0]]
        }
        lost = [
            f"{ticket}: {statuses[ticket]}"
            for ticket, stage in expected.items()
            if statuses[ticket].stage is not stage or (stage is Stage.ACTIVE and ticket not in good)
        ]
        left = [*self._left_behind(expected)]
        print(f"seed {self.seed}; lost: {lost[:5]}; left behind: {left[:5]}")
        counters = self.gemini.counters()
        sent_twice = counters["bytes_received"] - sum(self.sizes.values())
        return Account(
            scenario,
            len(expected),
            sum(len(fleet.killed) for fleet in self.fleets),
            sum(fleet.redelivered() for fleet in self.fleets),
            sum(one["requests"] > 1 for one in counters["uploads"]),
            max(0, sent_twice),
            sum(count - 1 for count in tickets.values()),
            len(lost),
            len(left),
            round(seconds, 1),
            max(filter(None, (fleet.recovery_s() for fleet in self.fleets)), default=None),
            remark,
        )

    def empty_sessions(self) -> int:
        """Sessions whose URL died with a worker, or with an answer, before anyone wrote it down."""
        return sum(session["received_bytes"] == 0 for session in self.gemini.sessions())

    def _left_behind(self, expected: Mapping[str, Stage]) -> Iterator[str]:
        """What somebody would still have to clear away."""
        for file in self.gemini.files():
            found = contract.upload_of(file["name"])
            if found is None or expected.get(found[0]) is not Stage.ACTIVE:
                yield f"file {file['name']}"
        for session in self.gemini.sessions():
            # One without a byte has no owner that could know of it: see ``empty_sessions``.
            if session["received_bytes"] > 0:
                yield f"session of {session['name']} with {session['received_bytes']} bytes"
        with self.redis.client as client:
            for row in client.zrange(OPEN_KEY, 0, -1):
                yield f"row {row!r}"
            leases = client.keys(f"{contract.KEY_PREFIX}lease:*")
            if leases:
                yield f"{len(leases)} leases"
