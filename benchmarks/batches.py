"""Batches: how fast an input is read, what it takes of memory, and what many that wait cost."""

from __future__ import annotations

import io
import json
import threading
import time

import httpx2

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, Series
from benchmarks.harness import Harness, harness
from benchmarks.plan import Plan, Step
from config.policy import policy
from provider_uploads.batches.index import KeyIndex
from provider_uploads.batches.lines import entries
from provider_uploads.batches.reading import checked, line_for

_MODEL = "gemini-2.5-flash"
_JOBS = 100
_MIB = 1024**2
_PATIENCE_S = 400.0


def batches(plan: Plan, step: Step) -> list[Figure]:
    """Read an input of many lines; run it; run one inline; let many wait, and many be open."""
    return [
        _reading(plan, step),
        *_running(plan, step),
        _inline(plan, step),
        _waiting(plan, step),
        *_open(plan, step),
    ]


def _input(lines: int) -> bytes:
    """Lines of about 300 bytes, as a question with a paragraph is."""
    text = "What does this paragraph say? " + "Some words that stand for it. " * 6
    contents = [{"role": "user", "parts": [{"text": text}]}]
    return b"".join(
        json.dumps({"key": f"request-{n}", "request": {"contents": contents}}).encode() + b"\n"
        for n in range(lines)
    )


def _reading(plan: Plan, step: Step) -> Figure:
    given = _input(plan.batch_lines)
    ours, bare = [], []
    for number in range(plan.rounds):
        step(f"reading, round {number + 1} of {plan.rounds}")
        begun = time.perf_counter()
        with KeyIndex() as keys:
            for request in checked(entries(io.BytesIO(given), "input"), "input", keys):
                line_for(request, request.body)
        ours.append(plan.batch_lines / (time.perf_counter() - begun))
        begun = time.perf_counter()
        for line in io.BytesIO(given):
            json.dumps(json.loads(line)).encode()
        bare.append(plan.batch_lines / (time.perf_counter() - begun))
    what = f"{plan.batch_lines:,} lines checked and written, {len(given) / _MIB:.0f} MiB"
    peer = "json.loads and json.dumps alone"
    return Figure("batches", what, "lines/s", "more", Series.of(ours), peer, Series.of(bare))


def _running(plan: Plan, step: Step) -> list[Figure]:
    with harness() as here:
        path = here.folder / "input.jsonl"
        path.write_bytes(_input(10))
        here.queue.batch_result(here.queue.batch(path, model=_MODEL), timeout_s=_PATIENCE_S)
        idle = here.worker.memory_mib()
        path.write_bytes(_input(plan.batch_lines))
        step(f"a batch of {plan.batch_lines:,} lines")
        with here.worker.peak() as most:
            ticket = here.queue.batch(path, model=_MODEL, results=here.folder / "answers.jsonl")
            _until_ended(here, ticket)
        status = here.queue.batch_status(ticket)
    if status.counts.succeeded != plan.batch_lines:
        raise BenchmarkError(f"{status.counts} of {plan.batch_lines} lines: {status.error}")
    wall_s = status.queued_s + status.running_s
    what = f"{plan.batch_lines:,} lines, from submit to answers"
    return [
        Figure("batches", what, "s", "less", Series.of([wall_s])),
        Figure(
            "batches",
            "the worker's memory above idle meanwhile",
            "MiB",
            "less",
            Series.of([max(most[0] - idle, 0.0)]),
        ),
    ]


def _inline(plan: Plan, step: Step) -> Figure:
    """Run requests that go within the call, as many as that takes."""
    text = "What does this paragraph say? " + "Some words that stand for it. " * 6
    count = plan.inline_mb * 1_000_000 // len(_input(1))
    with harness() as here:
        warm = here.queue.batch([{"contents": text}] * 10, model=_MODEL)
        here.queue.batch_result(warm, timeout_s=_PATIENCE_S)
        idle = here.worker.memory_mib()
        step(f"a batch of {count:,} requests inline")
        with here.worker.peak() as most:
            ticket = here.queue.batch([{"contents": text}] * count, model=_MODEL)
            _until_ended(here, ticket)
        status = here.queue.batch_status(ticket)
        inputs = here.provider.counters()["files_made"]
    if status.counts.succeeded != count or inputs:
        raise BenchmarkError(f"{status.counts} of {count} inline, {inputs} files: {status.error}")
    what = f"the worker's memory above idle, {plan.inline_mb} MB of {count:,} requests inline"
    return Figure("batches", what, "MiB", "less", Series.of([max(most[0] - idle, 0.0)]))


def _until_ended(here: Harness, ticket: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not here.queue.batch_status(ticket).stage.ended:
        if time.monotonic() > deadline:
            raise BenchmarkError("the batch did not end")
        time.sleep(0.2)


def _waiting(plan: Plan, step: Step) -> Figure:
    """Count requests while a hundred jobs run that do not end, and the other batches wait."""
    count = plan.waiting_batches
    wanted = min(_JOBS, count)
    with harness(batch_jobs=_JOBS) as here:
        _submit_stuck(here, step, count, wanted)
        step(f"{count:,} batches waiting, for {plan.waiting_s:.0f} s")
        before = _requests(here)
        threading.Event().wait(plan.waiting_s)
        asked = _requests(here) - before
    what = f"requests a minute for {count:,} batches that wait, {wanted} of them with a job"
    return Figure("batches", what, "", "less", Series.of([asked / plan.waiting_s * 60]))


def _open(plan: Plan, step: Step) -> list[Figure]:
    """Count requests and CPU while every batch has a job that does not end.

    Polls are as rare as they have become ten minutes after the creation.
    """
    count = plan.waiting_batches
    seldom = {"PROVIDER_UPLOADS_BATCH_POLL_FIRST_S": str(policy.batch_poll_max_s)}
    with harness(batch_jobs=count, policy=seldom) as here:
        _submit_stuck(here, step, count, count)
        step(f"{count:,} jobs open, for {plan.waiting_s:.0f} s")
        before, cpu_ms = _requests(here), here.worker.cpu_ms()
        threading.Event().wait(plan.waiting_s)
        asked, cpu_ms = _requests(here) - before, here.worker.cpu_ms() - cpu_ms
    what = f"for {count:,} batches with an open job each"
    per_s = cpu_ms / plan.waiting_s
    return [
        Figure(
            *("batches", f"requests a minute {what}", "", "less"),
            Series.of([asked / plan.waiting_s * 60]),
        ),
        Figure(
            *("batches", f"the worker's CPU {what}", "ms/s", "less"),
            Series.of([per_s]),
        ),
    ]


def _submit_stuck(here: Harness, step: Step, count: int, wanted: int) -> None:
    """Submit batches whose jobs do not end, and wait until so many of those are open."""
    order = {"stuck": "running", "count": count}
    httpx2.post(f"{here.provider.url}/_emulator/batches/orders", json=order).raise_for_status()
    step(f"{count:,} batches submitted")
    for number in range(count):
        here.queue.batch([{"contents": f"Question {number}"}], model=_MODEL)
    deadline = time.monotonic() + _PATIENCE_S
    while len(here.queue.batch_list(stage="RUNNING", limit=1000)) < wanted:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{wanted} jobs were not created in time")
        time.sleep(1.0)


def _requests(here: Harness) -> int:
    operations = here.provider.counters()["operations"].values()
    return sum(int(counted["requests"]) for counted in operations)
