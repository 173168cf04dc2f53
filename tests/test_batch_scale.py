"""Batches at the size that people have: many lines, many files, many jobs, and workers that die."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pytest_celery import CeleryTestSetup

from provider_uploads import UploadQueue
from provider_uploads.emulator import EmulatorConfig, LocalGemini
from tests.batching import MODEL, QUICK, asked, counted, local_gemini, nothing_left, write
from tests.nodes import RedisProcess, WorkerProcess, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _long(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--chaos"):
        pytest.skip("takes minutes: make test-chaos")


MIB = 1024**2


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return local_gemini(max_concurrent_jobs=2000)


@pytest.fixture
def policy() -> dict[str, str]:
    return QUICK


def most_memory(setup: CeleryTestSetup, until: Callable[[], bool], timeout_s: float) -> int:
    """Return the most bytes the worker held while waiting."""
    process = psutil.Process(setup.worker.container.pid)
    most, deadline = 0, time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline
        most = max(most, process.memory_info().rss)
        time.sleep(0.02)
    return most


@pytest.mark.timeout(300)
def test_a_hundred_thousand_lines(
    queue: UploadQueue, celery_setup: CeleryTestSetup, gemini: LocalGemini, tmp_path: Path
) -> None:
    warm = queue.batch(write(tmp_path / "small.jsonl", 10), model=MODEL)
    queue.batch_result(warm, timeout_s=60)
    idle = psutil.Process(celery_setup.worker.container.pid).memory_info().rss
    path = write(tmp_path / "in.jsonl", 100_000)
    ticket = queue.batch(path, model=MODEL, results=tmp_path / "out.jsonl")
    most = most_memory(celery_setup, lambda: queue.batch_status(ticket).stage.ended, 240)
    result = queue.batch_result(ticket, timeout_s=0)
    assert (result.counts.requests, result.counts.failed) == (100_000, 0)
    for number, answer in enumerate(queue.batch_answers(ticket)):
        assert answer.key == f"k{number}"
    print(
        f"\n{path.stat().st_size / MIB:.0f} MiB of input, {(most - idle) / MIB:.0f} MiB above idle"
    )
    assert most - idle <= 64 * MIB


@pytest.mark.timeout(300)
def test_three_hundred_files_given_as_paths(
    queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path]
) -> None:
    paths = [make_file(f"{n}.txt", 100 + n) for n in range(300)]
    requests = [
        {"contents": [{"parts": [{"text": "Summarise"}, {"file": str(path)}]}]} for path in paths
    ]
    ticket = queue.batch(requests, model=MODEL)
    result = queue.batch_result(ticket, timeout_s=200)
    assert (result.counts.requests, result.counts.failed) == (300, 0)
    for path, answer in zip(paths, queue.batch_answers(ticket), strict=True):
        assert path.name in str(answer.response)
    wait_until(lambda: nothing_left(gemini), "no file and no job left")


class TestKills:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return local_gemini(running_s=2.0, max_concurrent_jobs=2000)

    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {
            **QUICK,
            "PROVIDER_UPLOADS_VISIBILITY_TIMEOUT_S": "3",
            "PROVIDER_UPLOADS_RESTORE_EVERY_S": "1",
            "PROVIDER_UPLOADS_LEASE_S": "3",
            "PROVIDER_UPLOADS_LEASE_HELD_RETRY_S": "0.5",
            "PROVIDER_UPLOADS_SWEEP_QUIET_S": "2",
            "PROVIDER_UPLOADS_SWEEP_EVERY_S": "2",
        }

    @pytest.fixture
    def queue(self, default_redis_broker: RedisProcess) -> Iterator[UploadQueue]:
        with UploadQueue(default_redis_broker.url) as made:
            yield made

    @pytest.mark.timeout(400)
    def test_batches_while_workers_are_killed(
        self,
        request: pytest.FixtureRequest,
        queue: UploadQueue,
        gemini: LocalGemini,
        default_worker_env: dict[str, str],
        more_workers: Callable[..., WorkerProcess],
        tmp_path: Path,
    ) -> None:
        """One of three, again and again, wherever it is just then; each step is met."""
        whole = request.config.getoption("--chaos")
        count, most = (100, 40) if whole else (30, 8)
        draw = random.Random(request.config.getoption("--chaos-seed"))
        beat = WorkerProcess.beat(tmp_path, default_worker_env)
        workers = [more_workers() for _ in range(3)]
        path = write(tmp_path / "in.jsonl", 20)
        tickets = [
            queue.batch(path if n % 2 else asked(5), model=MODEL, display_name=f"b{n}")
            for n in range(count)
        ]
        kills = 0

        def ended() -> bool:
            return all(queue.batch_status(ticket).stage.ended for ticket in tickets)

        while not ended() and kills < most:
            time.sleep(draw.uniform(0.05, 0.4))
            workers.pop(draw.randrange(len(workers))).kill_now()
            kills += 1
            workers.append(more_workers())
        wait_until(ended, "all have ended", 120)
        wait_until(lambda: nothing_left(gemini), "no file and no job left", 90)
        statuses: list[Any] = [queue.batch_status(ticket) for ticket in tickets]
        assert [one.stage for one in statuses] == ["SUCCEEDED"] * count
        print(f"\n{kills} kills, {counted(gemini, 'create_batch')} jobs for {count} batches")
        assert sum(len(one.jobs) for one in statuses) == count
        assert counted(gemini, "create_batch") == count
        beat.kill()
