"""Ten batches, and a worker that is killed with all of them at one instant: each ends once.

The provider has done what was asked, and its answer is on its way; the worker that waits for it is
killed, and another one takes over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from provider_uploads import UploadQueue
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini
from tests.batching import MODEL, QUICK, WAIT_S, asked, counted, local_gemini, nothing_left, write
from tests.nodes import RedisProcess, WorkerProcess, wait_until

pytestmark = pytest.mark.slow

JOBS = 10
LINES = 3


class Instant(NamedTuple):
    """What hangs when the worker is killed."""

    operation: str
    by_file: bool = False
    #: How many of the ten batches hang in it at once: of those that wait for a list, one asks.
    at_once: int = JOBS
    #: Whether the jobs are still to run then.
    running: bool = False


INSTANTS = {
    "input": Instant("upload", by_file=True),
    "create inline": Instant("create_batch"),
    "create from a file": Instant("create_batch", by_file=True),
    "poll of all": Instant("list_batches", at_once=1, running=True),
    "poll of one": Instant("get_batch", running=True),
    "answers inline": Instant("get_batch"),
    "download": Instant("download", by_file=True),
    "deletion of the job": Instant("delete_batch"),
    "deletion of its files": Instant("delete", by_file=True),
}
#: Without --chaos: what came of kills here before, and what costs most when it goes wrong.
OFTEN = ("input", "create inline", "create from a file", "download")


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return local_gemini()


@pytest.fixture
def policy() -> dict[str, str]:
    return {
        **QUICK,
        "PROVIDER_UPLOADS_VISIBILITY_TIMEOUT_S": "3",
        "PROVIDER_UPLOADS_RESTORE_EVERY_S": "1",
        "PROVIDER_UPLOADS_LEASE_S": "2",
        "PROVIDER_UPLOADS_LEASE_HELD_RETRY_S": "0.5",
    }


@pytest.fixture
def queue(default_redis_broker: RedisProcess) -> Iterator[UploadQueue]:
    """Without a worker: the test starts its own."""
    with UploadQueue(default_redis_broker.url) as made:
        yield made


@pytest.mark.parametrize("name", INSTANTS)
def test_ten_batches_at(
    request: pytest.FixtureRequest,
    queue: UploadQueue,
    gemini: LocalGemini,
    more_workers: Callable[..., WorkerProcess],
    tmp_path: Path,
    name: str,
) -> None:
    if name not in OFTEN and not request.config.getoption("--chaos"):
        pytest.skip("with --chaos: make test-chaos")
    instant = INSTANTS[name]
    if instant.running:
        gemini.batches.order(running_s=3600, count=JOBS)
    else:
        hang(gemini, instant)
    first = more_workers()
    given: Any = write(tmp_path / "in.jsonl", LINES) if instant.by_file else asked(LINES)
    tickets = [queue.batch(given, model=MODEL, display_name=f"b{n}") for n in range(JOBS)]
    if instant.running:
        jobs = all_running(queue, tickets)
        hang(gemini, instant)
        if instant.operation == "get_batch":
            for job in jobs:  # as a webhook does: each is asked for alone
                queue.batch_wake(job)
    wait_until(lambda: hanging(gemini) == instant.at_once, f"{instant} hangs")
    first.kill_now()
    if instant.running:
        for job in jobs:
            gemini.batches.change(job, running_s=0)
    more_workers()
    for ticket in tickets:
        assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.succeeded == LINES
        answers = [*queue.batch_answers(ticket)]
        assert [one.key for one in answers] == [f"k{n}" for n in range(LINES)]
        assert all(one.response for one in answers)
    wait_until(lambda: nothing_left(gemini), "nothing left", WAIT_S)
    assert counted(gemini, "create_batch") == JOBS
    assert len({job for ticket in tickets for job in queue.batch_status(ticket).jobs}) == JOBS


def hang(gemini: LocalGemini, instant: Instant) -> None:
    gemini.order_fault(instant.operation, FaultKind.LATE_ANSWER, count=instant.at_once, stall_s=120)


def hanging(gemini: LocalGemini) -> int:
    (order,) = gemini.faults()
    return int(order["applied"])


def all_running(queue: UploadQueue, tickets: list[str]) -> list[str]:
    def found() -> list[str]:
        statuses = [queue.batch_status(ticket) for ticket in tickets]
        return [job for one in statuses if one.state == "RUNNING" for job in one.jobs]

    wait_until(lambda: len(found()) == JOBS, "all run")
    return found()
