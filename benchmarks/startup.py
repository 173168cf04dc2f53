"""How long a command takes that does little, and a worker until its first file is done."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, Series
from benchmarks.harness import redis_alone, start_gemini, start_redis, start_workers, supervised
from benchmarks.plan import Plan, Step
from provider_uploads.client import UploadQueue
from provider_uploads.ledger.uploads import Ledger

_PEER = "python -c pass"
_PATIENCE_S = 60.0


@dataclass(slots=True)
class _Command:
    """A command's runs."""

    argv: list[str]
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def run(self, env: Mapping[str, str]) -> None:
        before, begun = _children_s(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, *self.argv], env=env, capture_output=True, text=True, check=False
        )
        self.wall_s.append(time.perf_counter() - begun)
        self.cpu_s.append(_children_s() - before)
        if done.returncode:
            raise BenchmarkError(f"{' '.join(self.argv)} failed: {done.stderr or done.stdout}")


def startup(plan: Plan, step: Step) -> list[Figure]:
    """Run commands that do not wait, and start a worker that has a file to upload."""
    return [*_commands(plan, step), _worker(plan, step)]


def _commands(plan: Plan, step: Step) -> list[Figure]:
    with redis_alone() as (folder, redis_url):
        path = folder / "a.txt"
        path.write_text("one file")
        with UploadQueue(redis_url) as queue:
            ticket = queue.submit(path)
        env = {**os.environ, "PROVIDER_UPLOADS_REDIS_URL": redis_url}
        module = ["-m", "provider_uploads"]
        bare = _Command(["-c", "pass"])
        ours = {
            "provider-uploads status <ticket>": _Command([*module, "status", ticket]),
            "provider-uploads upload <file>": _Command([*module, "upload", str(path)]),
        }
        for number in range(plan.starts + 1):
            step(f"commands, run {number} of {plan.starts}")
            for command in (bare, *ours.values()):
                command.run(env)
    figures = []
    for what, command in ours.items():  # the first run wrote bytecode, and read the disk
        for unit, mine, theirs in (
            ("s", command.wall_s, bare.wall_s),
            ("s of CPU", command.cpu_s, bare.cpu_s),
        ):
            figures.append(
                Figure(
                    "startup", what, unit, "less", Series.of(mine[1:]), _PEER, Series.of(theirs[1:])
                )
            )
    return figures


def _worker(plan: Plan, step: Step) -> Figure:
    """From the process's start to ACTIVE, of a file that was queued before."""
    took_s = []
    with supervised() as (folder, supervisor):
        redis_url = start_redis(folder, supervisor)
        base_url = start_gemini(folder, supervisor, 0.0, 0.5, ())
        path = folder / "a.txt"
        path.write_text("one file")
        ledger = Ledger(redis_url)
        with UploadQueue(redis_url) as queue:
            for number in range(max(plan.starts // 2, 1)):
                step(f"a worker, start {number + 1} of {max(plan.starts // 2, 1)}")
                ticket = queue.submit(path)
                with supervised() as (own, own_supervisor):
                    begun_at = time.time()
                    start_workers(
                        own,
                        own_supervisor,
                        redis_url,
                        base_url,
                        {"transfer_concurrency": "16"},
                        1,
                        roots=folder,
                    )
                    queue.result(ticket, timeout_s=_PATIENCE_S)
                took_s.append((ledger.read(ticket).ended_at or 0.0) - begun_at)
        ledger.close()
    what = "a worker, from its start to its first file ACTIVE"
    return Figure("startup", what, "s", "less", Series.of(took_s))


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
