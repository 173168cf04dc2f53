"""Workers and servers that are killed under load, and started again as a supervisor does."""

from __future__ import annotations

import hashlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provider_uploads import QueueUnavailableError, Stage, UploadQueue, protocol
from provider_uploads.emulator import LocalGemini
from provider_uploads.ledger.upload_steps import OPEN_KEY
from provider_uploads.schemas import UploadStatus
from tests.accounts import Account, Logs
from tests.nodes import Process, RedisProcess, WorkerProcess, wait_until

MIB = 1024 * 1024


@dataclass(frozen=True)
class Submitted:
    """What was asked for under one ticket."""

    size_bytes: int
    sha256: str


class House:
    """One Redis, one local Gemini, a client, and the workers and the beat that work for it."""

    def __init__(
        self,
        redis: RedisProcess,
        gemini: LocalGemini,
        queue: UploadQueue,
        env: Mapping[str, str],
        folder: Path,
        seed: int,
    ) -> None:
        self.redis, self.gemini, self.queue = redis, gemini, queue
        self.seed, self.chance = seed, random.Random(seed)
        self.workers: list[WorkerProcess] = []
        self.submitted: dict[str, Submitted] = {}
        self._env, self._folder = env, folder
        self._files: dict[Path, Submitted] = {}
        self._places: list[WorkerProcess] = []
        self._killed: dict[WorkerProcess, float] = {}
        self._beat: Process | None = None
        self._begun: float | None = None

    # -- workers -------------------------------------------------------------------------------

    def worker(self, app: str = "tasks", **env: str) -> WorkerProcess:
        """Start a worker that nobody starts again."""
        command = [app if part == "tasks" else part for part in WorkerProcess.command()]
        self.workers.append(WorkerProcess.spawn(self._folder, command, {**self._env, **env}))
        return self.workers[-1]

    def supervise(self, size: int) -> list[WorkerProcess]:
        """Start workers, and a beat, that ``keep`` starts again when they have ended."""
        fresh = [self.worker() for _ in range(size)]
        for worker in fresh:
            worker.ready()
        self._places += fresh
        self._beat = self._beat or WorkerProcess.beat(self._folder, self._env)
        return fresh

    def keep(self) -> None:
        """Start again what has ended."""
        for worker in self.workers:
            if worker.exit_code == -signal.SIGKILL:
                self._killed.setdefault(worker, time.time())
        for place, worker in enumerate(self._places):
            if worker.exit_code is not None:
                self._places[place] = self.worker()
        if self._beat is not None and self._beat.status == "exited":
            self._beat = WorkerProcess.beat(self._folder, self._env)

    def kill_one(self) -> None:
        """SIGKILL a worker that serves, if there is one."""
        ready = [one for one in self._places if one.exit_code is None and one.is_ready]
        if ready:
            self.kill(self.chance.choice(ready))

    def kill(self, worker: WorkerProcess) -> None:
        worker.kill()
        self.keep()

    def close(self) -> None:
        """Stop everything."""
        if self._beat is not None:
            self._beat.kill()
        for worker in self.workers:
            worker.teardown()

    # -- uploads -------------------------------------------------------------------------------

    def file(self, name: str, size_bytes: int) -> Path:
        """Make a file of random bytes."""
        path = self._folder / "files" / name
        path.parent.mkdir(exist_ok=True)
        chance = random.Random(f"{self.seed} {name}")
        blocks = (chance.randbytes(min(MIB, size_bytes - at)) for at in range(0, size_bytes, MIB))
        data = b"".join(blocks)
        path.write_bytes(data)
        self._files[path] = Submitted(size_bytes, hashlib.sha256(data).hexdigest())
        return path

    def submit(
        self, paths: Sequence[Path], *, one_by_one: bool = False, **poll_policy: Any
    ) -> list[str]:
        """Submit files, in one message or each in its own; the clock starts with the first."""
        self._begun = self._begun or time.monotonic()
        options = {"poll_s": 0.2, "max_poll_s": 1.0, "jitter_s": 0.0, **poll_policy}
        if one_by_one:
            tickets = [self.queue.submit(path, **options) for path in paths]
        else:
            tickets = self.queue.submit_many(paths, **options)
        files = [self._files[path] for path in paths]
        self.submitted.update(zip(tickets, files, strict=True))
        return tickets

    def submit_mixed(self, count: int, most_bytes: int, **poll_policy: Any) -> list[str]:
        """Submit videos and texts of 1 KiB to ``most_bytes``, in both ways."""
        paths = [
            self.file(
                f"{number}.{self.chance.choice(('mp4', 'txt'))}",
                int(1024 * (most_bytes / 1024) ** self.chance.random()),
            )
            for number in range(max(8, count // 8))
        ]
        chosen = [paths[number % len(paths)] for number in range(count)]
        half = count // 2
        return [
            *self.submit(chosen[:half], one_by_one=True, **poll_policy),
            *self.submit(chosen[half:], **poll_policy),
        ]

    def statuses(self, tickets: Sequence[str]) -> list[UploadStatus]:
        return self.queue.statuses(tickets)

    def until_ended(
        self,
        tickets: Sequence[str],
        timeout_s: float,
        meanwhile: Callable[[int], None] = lambda ended: None,
    ) -> float:
        """Keep the workers going until all has ended; return the seconds since the first submit.

        ``meanwhile`` is called again and again with how many have ended.
        """
        living = [*tickets]

        def all_ended() -> bool:
            self.keep()
            with suppress(QueueUnavailableError):  # while Redis is restarted
                living[:] = [one.ticket for one in self.statuses(living) if not one.stage.ended]
            meanwhile(len(tickets) - len(living))
            time.sleep(0.1)
            return not living

        try:
            wait_until(all_ended, "all uploads to end", timeout_s)
        except AssertionError as error:
            left = [one.model_dump_json() for one in self.statuses(living)[:5]]
            raise AssertionError(
                f"seed {self.seed}: {error}: {len(living)} of {len(tickets)}, {left}"
            ) from None
        return time.monotonic() - (self._begun or 0.0)

    # -- what became of it ---------------------------------------------------------------------

    def held(self) -> int:
        """Messages in queues and in workers' hands."""
        with self.redis.client as client:
            queues = client.scan_iter(f"{protocol.KEY_PREFIX}*", _type="list")
            waiting = sum(int(client.llen(key)) for key in queues)
            return waiting + int(client.hlen(f"{protocol.KEY_PREFIX}unacked"))

    def account(
        self,
        scenario: str,
        seconds: float,
        *,
        ends: Mapping[str, Stage] | None = None,
        settle_s: float = 20.0,
        remark: str = "",
    ) -> Account:
        """Wait until nothing moves any more, then count; ``ends`` says who is not to be ACTIVE."""
        expected = dict.fromkeys(self.submitted, Stage.ACTIVE) | dict(ends or {})

        def settled() -> bool:
            self.keep()
            return self.held() == 0 and not [*self._left_behind(expected)]

        with suppress(AssertionError):  # the account says what is wrong
            wait_until(settled, "the last messages", settle_s)
        hashes = {file["name"]: file["sha256"] for file in self.gemini.files()}
        copies = Counter(of[0] for of in map(protocol.upload_of, hashes) if of is not None)
        lost = [
            one
            for one in self.statuses([*expected])
            if one.stage is not expected[one.ticket]
            or (
                one.stage is Stage.ACTIVE
                and hashes.get(one.id or "") != self.submitted[one.ticket].sha256
            )
        ]
        self._assert_no_secret()
        left = [*self._left_behind(expected)]
        print(f"seed {self.seed}; lost: {lost[:5]}; left behind: {left[:5]}")
        counters, logs = self.gemini.counters(), Logs(self.workers)
        takeovers_s = logs.takeovers_s(self._killed)
        sizes = sum(file.size_bytes for file in self.submitted.values())
        return Account(
            scenario,
            uploads=len(expected),
            killed=len(self._killed),
            redelivered=logs.redelivered(),
            swept=logs.swept,
            resumed=sum(one["requests"] > 1 for one in counters["uploads"]),
            bytes_resent=max(0, counters["bytes_received"] - sizes),
            duplicates=sum(count - 1 for count in copies.values()),
            lost=len(lost),
            left_behind=len(left),
            unused_sessions=sum(one["received_bytes"] == 0 for one in self.gemini.sessions()),
            seconds=round(seconds, 1),
            recovery_s=takeovers_s[int(0.99 * (len(takeovers_s) - 1))] if takeovers_s else None,
            slowest_s=takeovers_s[-1] if takeovers_s else None,
            remark=remark,
        )

    def _assert_no_secret(self) -> None:
        """Neither the key nor a session's URL is in a log or in a result of Celery's."""
        with self.redis.client as client:
            results = [str(client.get(key)) for key in client.scan_iter("*celery-task-meta-*")]
        texts = [*(worker.logs() for worker in self.workers), *results]
        for text in texts:
            assert self._env["GEMINI_API_KEY"] not in text
            assert "upload_protocol=" not in text
        size = sum(map(len, texts))
        print(f"no secret in {size:,} characters of logs and {len(results):,} results")

    def _left_behind(self, expected: Mapping[str, Stage]) -> Iterator[str]:
        """What somebody would still have to clear away."""
        for file in self.gemini.files():
            found = protocol.upload_of(file["name"])
            if found is None or expected.get(found[0]) is not Stage.ACTIVE:
                yield f"file {file['name']}"
        for session in self.gemini.sessions():
            if session["received_bytes"] > 0:
                yield f"session of {session['name']} with {session['received_bytes']} bytes"
        with self.redis.client as client:
            for row in client.zrange(OPEN_KEY, 0, -1):
                yield f"row {row!r}"
            for lease in client.keys(f"{protocol.KEY_PREFIX}lease:{'[0-9a-f]' * 32}"):
                yield f"lease {lease!r}"
