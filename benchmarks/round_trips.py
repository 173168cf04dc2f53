"""How often our worker talks to Redis for a file, by Redis's own account."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, Series
from benchmarks.harness import Harness
from benchmarks.small_files import write_files
from provider_uploads import protocol

BENCHMARK = "Redis, a text file of 1 KiB, our worker alone"
TRIPS = "round trips"
_PATIENCE_S = 60.0
#: Commands that are run less often have nothing to do with a file.
_LEAST = 0.1


@dataclass(frozen=True, slots=True)
class _Account:
    """What Redis has counted so far; one read by itself."""

    reads: int
    commands: dict[str, int]
    unacknowledged: int


def round_trips(here: Harness, count: int) -> list[Figure]:
    """Deliver files while nobody else talks to Redis; count what the worker says.

    The files are submitted while the worker is halted, and their end is learnt from the provider. A
    round trip is a read event on a connection of Redis's (``total_reads_processed``): a command, or
    all commands of a pipeline, which a client sends in one piece. Commands are those of ``INFO
    commandstats``, which counts the ones that scripts run as well.
    """
    paths = write_files(here.folder, count, ".txt")
    here.deliver(paths[:32])
    with here.provider.counted(count, paths[0].stat().st_size):
        with _halted(here):
            here.queue.submit_many(paths)
            before = _account(here)
        _until_made(here, count)
        after = _account(here)
        polls = 1
        while after.unacknowledged:
            time.sleep(0.1)
            after = _account(here)
            polls += 1
    trips = (after.reads - before.reads - polls) / count
    commands = {
        name: (total - before.commands.get(name, 0)) / count
        for name, total in after.commands.items()
    }
    named = sorted(commands.items(), key=lambda item: -item[1])
    return [
        Figure(BENCHMARK, TRIPS, "", "less", Series.of([trips])),
        *(
            Figure(BENCHMARK, f"{name.upper()}, scripts' included", "", "less", Series.of([calls]))
            for name, calls in named
            if calls >= _LEAST
        ),
    ]


@contextmanager
def _halted(here: Harness) -> Iterator[None]:
    worker = psutil.Process(here.worker_pids[0])
    worker.suspend()
    try:
        yield
    finally:
        worker.resume()


def _account(here: Harness) -> _Account:
    with here.redis.pipeline(transaction=False) as pipeline:
        pipeline.info("stats")
        pipeline.info("commandstats")
        pipeline.hlen(f"{protocol.KEY_PREFIX}unacked")
        stats, commands, unacknowledged = pipeline.execute()
    return _Account(
        stats["total_reads_processed"],
        {name.removeprefix("cmdstat_"): counted["calls"] for name, counted in commands.items()},
        unacknowledged,
    )


def _until_made(here: Harness, count: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while here.provider.counters()["files_made"] < count:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{count} files were not made in {_PATIENCE_S:g} s")
        time.sleep(0.02)
