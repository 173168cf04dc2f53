"""Submitting: what a web request waits for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import redis
from celery import Celery

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, Series
from benchmarks.harness import redis_alone
from benchmarks.plan import Plan, Step
from provider_uploads import protocol
from provider_uploads.client import UploadQueue

_BENCHMARK = "submit"
_PLAIN_QUEUE = "plain"


def submission(plan: Plan, step: Step) -> list[Figure]:
    """Submit files one by one and in a batch; nobody takes them, so only the client is measured."""
    singles, pings, sends, batches = [], [], [], []
    with redis_alone() as (folder, url), redis.Redis.from_url(url) as client:
        path = folder / "one.txt"
        path.write_bytes(b"x" * 1024)
        many = [path] * plan.batch_files
        with UploadQueue(url) as queue, _plain_celery(url) as plain:

            def send() -> None:
                plain.send_task("plain.nothing", args=(str(path),), queue=_PLAIN_QUEUE)

            step("warming up")
            queue.submit(path)
            send()
            client.ping()
            for number in range(plan.rounds):
                step(f"round {number + 1} of {plan.rounds}")
                singles.append(times_ms(lambda: queue.submit(path), plan.submits))
                pings.append(times_ms(client.ping, plan.submits))
                sends.append(times_ms(send, plan.submits))
                batches += times_ms(lambda: queue.submit_many(many), 1)
        _check(client, protocol.TRANSFER_QUEUE, plan.rounds * plan.submits + 1)
        _check(client, protocol.CONTROL_QUEUE, plan.rounds)
        rows = plan.rounds * (plan.submits + plan.batch_files) + 1
        found = sum(1 for _ in client.scan_iter(f"{protocol.KEY_PREFIX}upload:*", count=1000))
        if found != rows:
            raise BenchmarkError(f"the ledger has {found} rows, expected {rows}")
    p50, p99 = Series.of(map(statistics.median, singles)), Series.of(map(_p99, singles))
    ping, sent = Series.of(map(statistics.median, pings)), Series.of(map(statistics.median, sends))
    what = f"one submit, p50 of {plan.submits}"
    return [
        Figure(_BENCHMARK, what, "ms", "less", p50, "Redis PING, p50", ping),
        Figure(_BENCHMARK, what, "ms", "less", p50, "Celery send_task, p50", sent),
        Figure(
            _BENCHMARK,
            f"one submit, p99 of {plan.submits}",
            "ms",
            "less",
            p99,
            "Celery send_task, p99",
            Series.of(map(_p99, sends)),
        ),
        Figure(
            _BENCHMARK,
            f"submit_many of {plan.batch_files:,} files",
            "ms",
            "less",
            Series.of(batches),
            "as many submits",
            Series.of(statistics.fmean(times) * plan.batch_files for times in singles),
        ),
    ]


def _plain_celery(url: str) -> Celery:
    """Celery as it comes, sending one small message to the same Redis: no record, no checks."""
    app = Celery("plain", broker=url, set_as_current=False)
    app.conf.update(task_ignore_result=True)
    return app


def times_ms(call: Callable[[], object], count: int) -> list[float]:
    """Return how long each of ``count`` calls took."""
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        call()
        times.append((time.perf_counter() - begun) * 1000)
    return times


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[98]


def _check(client: redis.Redis, queue: str, expected: int) -> None:
    found = client.llen(f"{protocol.KEY_PREFIX}{queue}")
    if found != expected:
        raise BenchmarkError(f"queue {queue} holds {found} messages, expected {expected}")
