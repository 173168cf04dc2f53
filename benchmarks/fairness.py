"""Fairness: how long one file takes while many others wait."""

from __future__ import annotations

import time

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, Series
from benchmarks.harness import harness
from benchmarks.plan import Plan, Step
from benchmarks.small_files import write_files

_SINGLES = 20
_PATIENCE_S = 60.0


def fairness(plan: Plan, step: Step) -> list[Figure]:
    """Submit single files, first to an idle worker and then behind a submit_many."""
    count = plan.crowd
    with harness() as here:
        paths = write_files(here.folder, count, ".txt")

        def one_ms() -> float:
            begun = time.perf_counter()
            here.queue.result(here.queue.submit(paths[0]), timeout_s=_PATIENCE_S)
            return (time.perf_counter() - begun) * 1000

        step("warming up")
        here.deliver(paths[:50])
        step("alone")
        alone = Series.of(one_ms() for _ in range(_SINGLES))
        step(f"behind {count:,}")
        crowd = here.queue.submit_many(paths)
        while not here.queue.status(crowd[20]).stage.ended:
            time.sleep(0.01)
        behind = Series.of(one_ms() for _ in range(_SINGLES))
        left = sum(not status.stage.ended for status in here.queue.statuses(crowd))
        if left == 0:
            raise BenchmarkError("the many ended before the single ones did: submit more")
        here.queue.result(crowd[-1], timeout_s=count)
    what = f"one file to ACTIVE behind {count:,}, of {_SINGLES}"
    return [Figure("fairness", what, "ms", "less", behind, "the same alone", alone)]
