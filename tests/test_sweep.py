"""The sweep finds what nobody moves, and only that."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from pytest_celery import CeleryTestSetup

from provider_uploads import Files, Stage, UploadQueue, protocol, upload_and_wait_active
from provider_uploads.cli import main
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import UploadInactiveError
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.schemas import Copy
from provider_uploads.settings import settings
from provider_uploads.sweep import Kind, Sweep
from tests.conftest import KEY
from tests.nodes import RedisProcess, WorkerProcess, wait_until

WAIT_S = 20
TRANSFER, CONTROL = (f"{protocol.KEY_PREFIX}{name}" for name in ("transfer", "control"))


@pytest.fixture
def policy() -> dict[str, str]:
    return {"PROVIDER_UPLOADS_SWEEP_QUIET_S": "0.01"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, default_worker_env: dict[str, str]) -> None:
    """This process is an operator's beside the workers."""
    for name, value in default_worker_env.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()


@pytest.fixture
def raw(default_redis_broker: RedisProcess) -> Iterator[redis.Redis]:
    with redis.Redis(port=default_redis_broker.port, decode_responses=True) as client:
        yield client


class TestWithoutWorkers:
    """What a client sees that submits and sweeps where no worker runs."""

    @pytest.fixture
    def queue(self, default_redis_broker: RedisProcess) -> Iterator[UploadQueue]:
        with UploadQueue(default_redis_broker.url) as made:
            yield made

    def kinds(self, queue: UploadQueue, **options: Any) -> list[tuple[Kind, str]]:
        return [(f.kind, f.subject) for f in queue.sweep(quiet_s=0, **options)]

    def test_what_waits_in_a_queue_is_not_lost(
        self, queue: UploadQueue, make_file: Callable[..., Path], gemini: LocalGemini
    ) -> None:
        queue.submit(make_file("a.txt"))
        queue.submit_many([make_file(f"{n}.txt") for n in range(5)])
        queue.ask("?", [make_file("b.txt")])
        assert self.kinds(queue) == []

    def test_what_a_worker_holds_is_not_lost(
        self,
        queue: UploadQueue,
        make_file: Callable[..., Path],
        raw: redis.Redis,
        gemini: LocalGemini,
    ) -> None:
        queue.submit(make_file("a.txt"))
        message = raw.rpop(TRANSFER)
        held = json.dumps([json.loads(str(message)), "transfer", "transfer"])
        raw.hset(f"{protocol.KEY_PREFIX}unacked", "tag", held)
        assert self.kinds(queue) == []

    def test_a_long_queue_is_read_to_its_end(
        self,
        queue: UploadQueue,
        make_file: Callable[..., Path],
        raw: redis.Redis,
        gemini: LocalGemini,
    ) -> None:
        path = make_file("a.txt")
        tickets = [queue.submit(path) for _ in range(2100)]
        assert self.kinds(queue) == []
        for position, lost in ((0, tickets[0]), (1000, tickets[1000]), (2099, tickets[2099])):
            del position
            (message,) = (m for m in raw.lrange(TRANSFER, 0, -1) if f'"id": "{lost}"' in m)
            raw.lrem(TRANSFER, 1, str(message))
            assert self.kinds(queue) == [(Kind.LOST, lost)]
            raw.lpush(TRANSFER, message)

    def test_what_was_lost_is_submitted_again_once(
        self,
        queue: UploadQueue,
        make_file: Callable[..., Path],
        raw: redis.Redis,
        gemini: LocalGemini,
    ) -> None:
        ticket = queue.submit(make_file("a.txt"))
        message = raw.lindex(TRANSFER, 0)
        raw.delete(TRANSFER)
        assert self.kinds(queue) == [(Kind.LOST, ticket)]
        assert raw.llen(TRANSFER) == 0  # it only said so
        assert self.kinds(queue, dry_run=False) == [(Kind.LOST, ticket)]
        assert raw.llen(TRANSFER) == 1
        assert f'"id": "{ticket}"' in str(message)
        assert f'"id": "{ticket}"' in str(raw.lindex(TRANSFER, 0))
        assert self.kinds(queue, dry_run=False) == []
        assert "sweep" in (queue.status(ticket).note or "")

    def test_a_lease_means_that_somebody_sends(
        self,
        queue: UploadQueue,
        make_file: Callable[..., Path],
        raw: redis.Redis,
        default_redis_broker: RedisProcess,
        gemini: LocalGemini,
    ) -> None:
        ticket = queue.submit(make_file("a.txt"))
        raw.delete(TRANSFER)
        ledger = Ledger(default_redis_broker.url)
        with ledger.lease(ticket, 30):
            assert self.kinds(queue) == []
        ledger.close()
        assert self.kinds(queue) == [(Kind.LOST, ticket)]

    def test_what_moved_a_moment_ago_is_left_alone(
        self,
        queue: UploadQueue,
        make_file: Callable[..., Path],
        raw: redis.Redis,
        gemini: LocalGemini,
    ) -> None:
        queue.submit(make_file("a.txt"))
        raw.delete(TRANSFER)
        assert queue.sweep(quiet_s=60) == []

    def test_files_nobody_here_knows_are_said_and_left(
        self, queue: UploadQueue, make_file: Callable[..., Path], gemini: LocalGemini
    ) -> None:
        ours = upload_and_wait_active(make_file("a.txt"))  # without a queue: no row
        with Files() as files:
            assert self.kinds(queue, dry_run=False) == [(Kind.UNKNOWN, ours.id)]
            assert len([*files.list()]) == 1
            assert self.kinds(queue, dry_run=False, unknown=True) == [(Kind.UNKNOWN, ours.id)]
            assert [*files.list()] == []

    def test_staged_copies_that_no_upload_will_read(
        self, queue: UploadQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = tmp_path / "staging"
        place.mkdir()
        monkeypatch.setenv("PROVIDER_UPLOADS_STAGING", str(place))
        settings.cache_clear()
        waits = queue.submit_stream(io.BytesIO(b"waits"), filename="a.txt")
        ended = queue.submit_stream(io.BytesIO(b"ended"), filename="b.txt")
        queue.cancel(ended)
        abandoned, young = "0" * 32, "1" * 32
        for name in (abandoned, young, "not-a-copy.txt"):
            (place / name).write_bytes(b"bytes")
        for name in (abandoned, "not-a-copy.txt", waits):
            os.utime(place / name, (1, 1))
        found = {(Kind.STAGED, ended), (Kind.STAGED, abandoned)}
        assert set(self.kinds(queue)) == found
        assert set(self.kinds(queue, dry_run=False)) == found
        assert {path.name for path in place.iterdir()} == {waits, young, "not-a-copy.txt"}

    def test_the_command(
        self,
        queue: UploadQueue,
        make_file: Callable[..., Path],
        raw: redis.Redis,
        gemini: LocalGemini,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def run(*arguments: str) -> str:
            with pytest.raises(SystemExit) as end:
                main(["sweep", "--quiet-s", "0", *arguments])
            assert end.value.code == 0
            return " ".join(capsys.readouterr().out.split())

        assert run() == "Nothing is lost and nothing is left behind."
        ticket = queue.submit(make_file("a.txt"))
        raw.delete(TRANSFER)
        assert f'"subject":"{ticket}"' in run("--dry-run", "--json")
        assert "Would be" in run("--dry-run")
        assert "submitted again" in run()
        assert run() == "Nothing is lost and nothing is left behind."


def test_a_sweep_that_died_is_soon_out_of_the_way(default_redis_broker: RedisProcess) -> None:
    """Before, nothing was swept for ten minutes after a worker was killed while it swept."""
    dying = (
        "import os, signal, sys\n"
        "from provider_uploads.ledger.uploads import Ledger\n"
        "from provider_uploads.sweep import Sweep\n"
        "with Sweep(Ledger(sys.argv[1]), None, None, quiet_s=60).alone(1.0) as alone:\n"
        "    assert alone\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    url = default_redis_broker.url
    assert subprocess.run([sys.executable, "-c", dying, url]).returncode == -signal.SIGKILL
    ledger = Ledger(url)
    sweep = Sweep(ledger, Celery(set_as_current=False), lambda message: None, quiet_s=60)

    def alone() -> bool:
        with sweep.alone(1.0) as alone:
            return alone

    wait_until(alone, "the next sweep", 3)
    ledger.close()


def swept(app: Celery, at_provider: bool = False) -> None:
    """Have the worker sweep."""
    app.send_task(protocol.SWEEP, kwargs={"at_provider": at_provider}, queue="control")


def drop_everything(raw: redis.Redis) -> None:
    """Lose all messages."""
    raw.delete(
        TRANSFER, CONTROL, f"{protocol.KEY_PREFIX}unacked", f"{protocol.KEY_PREFIX}unacked_index"
    )


class TestBroughtToTheirEnd:
    """By a worker, as beat asks it to."""

    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=2, api_keys=frozenset({KEY}))

    def test_lost_uploads_lists_and_questions(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        make_file: Callable[..., Path],
        raw: redis.Redis,
    ) -> None:
        """Messages taken off their queues and dropped, as kombu can."""
        app = celery_setup.app
        for name in ("transfer", "control"):
            app.control.cancel_consumer(name, reply=True)
        ticket = queue.submit(make_file("a.txt"))
        many = queue.submit_many([make_file("b.txt"), make_file("c.txt")])
        asked = queue.ask("?", [make_file("d.txt")])
        drop_everything(raw)
        for name in ("transfer", "control"):
            app.control.add_consumer(name, reply=True)
        swept(app)
        assert {queue.result(one, timeout_s=WAIT_S).state for one in (ticket, *many)} == {"ACTIVE"}
        assert queue.answer(asked, timeout_s=WAIT_S).files == 1

    def test_a_lost_look(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        more_workers: Callable[..., WorkerProcess],
        make_file: Callable[..., Path],
        raw: redis.Redis,
        gemini: LocalGemini,
    ) -> None:
        ticket = queue.submit(make_file("a.mp4"), poll_s=0.2, max_poll_s=0.2, jitter_s=0)
        wait_until(lambda: queue.status(ticket).polls >= 2, "some polls")
        celery_setup.worker.kill()
        drop_everything(raw)
        more_workers()
        swept(celery_setup.app)
        result = queue.result(ticket, timeout_s=WAIT_S)
        assert result.polls > 2
        assert len(gemini.files()) == 1

    def test_leftovers_and_strays(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        make_file: Callable[..., Path],
        raw: redis.Redis,
        gemini: LocalGemini,
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_STUCK, count=2)
        options: dict[str, Any] = {"timeout_s": 0.2, "poll_s": 0.1}
        tickets = [
            queue.submit(make_file("a.mp4"), cleanup_on_timeout=False, **options),
            queue.submit(make_file("b.mp4"), cleanup_on_timeout=False, **options),
        ]
        for ticket in tickets:
            with pytest.raises(UploadInactiveError):
                queue.result(ticket, timeout_s=WAIT_S)
        good = queue.result(queue.submit(make_file("c.txt")), timeout_s=WAIT_S)
        # The first lost its deletion; the second was finished by somebody after it.
        for ticket, left in zip(tickets, (Copy.PRESENT, Copy.DELETED), strict=True):
            key = f"{protocol.KEY_PREFIX}upload:{ticket}"
            request = str(raw.hget(key, "request"))
            raw.hset(
                key,
                "request",
                request.replace('"cleanup_on_timeout":false', '"cleanup_on_timeout":true'),
            )
            raw.hset(key, "copy_at_provider", left.value)
        assert len(gemini.files()) == 3
        swept(celery_setup.app)
        wait_until(lambda: len(gemini.files()) == 2, "the leftover's deletion")
        wait_until(
            lambda: queue.status(tickets[0]).copy_at_provider is Copy.DELETED, "the ledger to know"
        )
        swept(celery_setup.app, at_provider=True)
        wait_until(lambda: len(gemini.files()) == 1, "the stray's deletion")
        assert gemini.files()[0]["name"] == good.id
        assert [queue.status(ticket).stage for ticket in tickets] == [Stage.TIMED_OUT] * 2

    def test_what_is_under_way_is_left_alone(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        more_workers: Callable[..., WorkerProcess],
        make_file: Callable[..., Path],
        gemini: LocalGemini,
    ) -> None:
        """Two workers sweep all the time; every upload happens once."""
        more_workers()
        tickets = [
            queue.submit(make_file(f"{n}.mp4", 200_000), poll_s=0.3, jitter_s=0) for n in range(10)
        ]

        def done() -> bool:
            swept(celery_setup.app, at_provider=True)
            return all(status.stage.ended for status in queue.statuses(tickets))

        wait_until(done, "all uploads", 30)
        assert [queue.result(ticket).state for ticket in tickets] == ["ACTIVE"] * 10
        assert len(gemini.files()) == 10
        operations = gemini.counters()["operations"]
        assert operations["upload"]["requests"] == 10
        assert operations["delete"]["requests"] == 0
