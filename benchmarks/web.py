"""A web app with an event loop: what a crowd waits for, and what open event streams cost."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, Series
from benchmarks.harness import redis_alone
from benchmarks.meter import Meter
from benchmarks.plan import Plan, Step
from provider_uploads.client import UploadQueue
from provider_uploads.ledger.uploads import Ledger

_BENCHMARK = "web"
_AT_ONCE = 200
_CHANGES = 20
_EVERY_S = 0.25
_PATIENCE_S = 120.0
_KINDS = ("ours", "bare")


def web(plan: Plan, step: Step) -> list[Figure]:
    """Submit from 200 requests at once, and hold event streams open; beside bare redis.asyncio."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with redis_alone() as (folder, url):
        path = folder / "one.txt"
        path.write_bytes(b"x" * 1024)
        for number in range(plan.rounds):
            for kind in _KINDS:
                step(f"round {number + 1} of {plan.rounds}, {kind}")
                times = _submit(kind, url, path, plan.web_requests)
                found[kind, "p50"].append(statistics.median(times))
                cuts = statistics.quantiles(times, n=100, method="inclusive")
                found[kind, "p99"].append(cuts[98])
                memory_mib, cpu_ms = _streams(kind, url, path, plan.streams)
                found[kind, "memory"].append(memory_mib)
                found[kind, "cpu"].append(cpu_ms)

    def figure(what: str, unit: str, peer: str, name: str) -> Figure:
        ours, bare = Series.of(found["ours", name]), Series.of(found["bare", name])
        return Figure(_BENCHMARK, what, unit, "less", ours, peer, bare)

    written, own = "redis.asyncio, the same bytes", "redis.asyncio, a subscription each"
    return [
        figure(f"one submit of {_AT_ONCE} at once, p50", "ms", written, "p50"),
        figure(f"one submit of {_AT_ONCE} at once, p99", "ms", written, "p99"),
        figure(f"memory of {plan.streams} open event streams", "MiB", own, "memory"),
        figure(f"CPU of {plan.streams} streams, {_CHANGES} changes", "ms", own, "cpu"),
    ]


def _app(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.web_app", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _submit(kind: str, url: str, path: Path, requests: int) -> list[float]:
    app = _app("submit", kind, url, str(path), str(requests), str(_AT_ONCE))
    said, _ = app.communicate(timeout=_PATIENCE_S)
    if app.returncode:
        raise BenchmarkError(f"the app ended with {app.returncode}")
    times: list[float] = json.loads(said)
    if len(times) != requests:
        raise BenchmarkError(f"{len(times)} requests were answered, expected {requests}")
    return times


def _streams(kind: str, url: str, path: Path, count: int) -> tuple[float, float]:
    """Return the memory of open streams in MiB, and the CPU for all changes in ms."""
    ledger = Ledger(url)
    with UploadQueue(url) as queue:
        ticket = queue.submit(path)
    app = _app("streams", kind, url, ticket, str(count))
    try:
        meter = Meter(app.pid)
        _wait(app, "idle")
        before_mib = meter.memory_mib()
        assert app.stdin
        print(file=app.stdin, flush=True)
        _wait(app, "open")
        time.sleep(1)  # what opened them has come to rest
        memory_mib, before_ms = meter.memory_mib() - before_mib, meter.cpu_ms()
        for number in range(_CHANGES - 1):
            ledger.note(ticket, f"change {number}")
            time.sleep(_EVERY_S)
        cpu_ms = meter.cpu_ms() - before_ms
        ledger.cancelled(ticket)
        _wait(app, "done")
        return memory_mib, cpu_ms
    finally:
        ledger.close()
        app.communicate(timeout=_PATIENCE_S)


def _wait(app: subprocess.Popen[str], wanted: str) -> None:
    assert app.stdout
    said = app.stdout.readline().strip()
    if said != wanted:
        raise BenchmarkError(f"the app said {said!r}, expected {wanted!r}")
