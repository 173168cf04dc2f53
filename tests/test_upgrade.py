"""An upgrade and a downgrade under load: two versions in one fleet, and nothing is lost.

Both are wheels of their own. The later one's payloads, rows and stages are unknown to the other.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from provider_uploads import protocol
from provider_uploads.emulator import EmulatorConfig, LocalGemini
from provider_uploads.ledger.upload_steps import OPEN_KEY, row_key
from tests.conftest import KEY
from tests.nodes import ROOT, Process, RedisProcess, WorkerProcess, wait_until
from tests.versions import Version, installed, later_tree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("versions")
    tree = later_tree(folder / "tree")
    return installed(ROOT, folder / "this"), installed(tree, folder / "later")


@pytest.fixture
def policy() -> dict[str, str]:
    return {
        "PROVIDER_UPLOADS_VISIBILITY_TIMEOUT_S": "2",
        "PROVIDER_UPLOADS_RESTORE_EVERY_S": "1",
        "PROVIDER_UPLOADS_LEASE_S": "3",
        "PROVIDER_UPLOADS_LEASE_HELD_RETRY_S": "0.5",
        "PROVIDER_UPLOADS_SWEEP_QUIET_S": "6",
        "PROVIDER_UPLOADS_SWEEP_EVERY_S": "2",
        "PROVIDER_UPLOADS_NEWER_PAYLOAD_RETRY_S": "0.5",
    }


@pytest.fixture
def gemini_config(request: pytest.FixtureRequest) -> EmulatorConfig:
    """Long enough for files to be PROCESSING while workers come and go."""
    return EmulatorConfig(
        processing_s=15.0 if "downgrade" in request.node.name else 3.0, api_keys=frozenset({KEY})
    )


@pytest.fixture
def default_redis_broker(tmp_path: Path) -> Iterator[RedisProcess]:
    node = RedisProcess.spawn(tmp_path)
    node.ready()
    yield node
    node.teardown()


class Fleet:
    """Workers of two versions, and what was submitted to them."""

    def __init__(self, redis_node: RedisProcess, this: Version, later: Version) -> None:
        self.this, self.later = this, later
        self.raw: Any = redis.Redis(port=redis_node.port, decode_responses=True)
        self.workers: list[WorkerProcess] = []
        self.all_workers: list[WorkerProcess] = []
        self.beats: list[Process] = []
        self.tickets: list[str] = []

    def start(self, version: Version, name: str) -> None:
        self.workers.append(version.worker(name))
        self.all_workers.append(self.workers[-1])

    def stop(self, number: int) -> None:
        """Stop the workers that are there for longest, as a deployment does."""
        for _ in range(number):
            worker = self.workers.pop(0)
            worker.kill("SIGTERM")
            wait_until(lambda: worker.exit_code is not None, "it stops")  # noqa: B023

    def submit(self, version: Version, path: Path, count: int) -> None:
        self.tickets += version.submit(path, count)
        self.tickets += version.submit(path, count, many=True)

    def stages(self) -> Counter[str]:
        with self.raw.pipeline() as pipe:
            for ticket in self.tickets:
                pipe.hget(row_key(ticket), "stage")
            return Counter(pipe.execute())

    def ended_well(self, count: int) -> bool:
        assert all(worker.exit_code is None for worker in self.workers)
        stages = self.stages()
        bad = {stage: stages[stage] for stage in ("FAILED", "TIMED_OUT", "CANCELLED")}
        assert sum(bad.values()) == 0, self.why()
        time.sleep(0.1)
        return stages["ACTIVE"] == count

    def why(self) -> list[str]:
        rows = [self.raw.hgetall(row_key(ticket)) for ticket in self.tickets]
        return [str(row) for row in rows if "error" in row][:3]

    def close(self) -> None:
        for one in self.beats:
            one.kill()
        for worker in self.all_workers:
            worker.teardown()
        self.raw.close()


@pytest.fixture
def fleet(
    wheels: tuple[Path, Path],
    default_redis_broker: RedisProcess,
    gemini: LocalGemini,
    default_worker_env: dict[str, str],
    tmp_path: Path,
) -> Iterator[Fleet]:
    this, later = (Version(path, tmp_path, default_worker_env) for path in wheels)
    made = Fleet(default_redis_broker, this, later)
    yield made
    made.close()


def assert_nothing_lost(fleet: Fleet, gemini: LocalGemini) -> None:
    owners = Counter(
        of[0] for of in (protocol.upload_of(one["name"]) for one in gemini.files()) if of
    )
    assert owners == Counter(fleet.tickets)
    wait_until(lambda: fleet.raw.zcard(OPEN_KEY) == 0, "nothing to be open")
    for worker in fleet.all_workers:
        logs = worker.logs()
        assert "Traceback" not in logs
        assert len(logs) < 1_000_000


def test_an_upgrade(fleet: Fleet, gemini: LocalGemini, make_file: Callable[..., Path]) -> None:
    """New web apps and workers come while old ones are at work; then the old ones go."""
    path = make_file("clip.mp4")
    fleet.start(fleet.this, "old1")
    fleet.start(fleet.this, "old2")
    fleet.beats.append(fleet.this.beat())
    fleet.submit(fleet.this, path, 10)
    fleet.start(fleet.later, "new1")
    fleet.submit(fleet.later, path, 10)
    fleet.submit(fleet.this, path, 10)
    wait_until(lambda: fleet.ended_well(60), "all to end in the mixed fleet")
    fleet.submit(fleet.later, path, 10)
    fleet.start(fleet.later, "new2")
    fleet.submit(fleet.this, path, 5)
    fleet.stop(2)
    wait_until(lambda: fleet.ended_well(90), "all to end")
    assert_nothing_lost(fleet, gemini)
    assert any("waits for a newer worker" in one.logs() for one in fleet.all_workers)


def test_a_downgrade_and_up_again(
    fleet: Fleet, gemini: LocalGemini, make_file: Callable[..., Path]
) -> None:
    """What only the later version can read waits for it; everything else goes on."""
    path = make_file("clip.mp4")
    fleet.start(fleet.later, "new1")
    fleet.start(fleet.later, "new2")
    fleet.beats.append(fleet.this.beat())
    fleet.submit(fleet.later, path, 10)
    fleet.submit(fleet.this, path, 10)
    fleet.start(fleet.this, "old1")
    fleet.stop(2)
    before = fleet.stages()["ACTIVE"]
    own = len(fleet.tickets)
    fleet.submit(fleet.this, path, 10)
    recent = fleet.tickets[own:]

    def recent_active() -> bool:
        fleet.ended_well(-1)
        return all(fleet.raw.hget(row_key(one), "stage") == "ACTIVE" for one in recent)

    wait_until(recent_active, "those of this version to end")
    assert before < own  # some wait
    fleet.start(fleet.later, "new3")
    wait_until(lambda: fleet.ended_well(60), "all to end")
    assert_nothing_lost(fleet, gemini)
