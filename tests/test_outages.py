"""Redis goes away while somebody waits: what was submitted goes on, and so does the wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from provider_uploads import AsyncUploadQueue, QueueUnavailableError, Stage, UploadQueue
from provider_uploads.background import begin
from provider_uploads.cli import main
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.schemas import ProviderFile
from tests.nodes import RedisProcess, wait_until


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisProcess]:
    """A Redis that survives its own death."""
    node = RedisProcess.spawn(tmp_path, aof=True)
    node.ready()
    yield node
    node.kill_now()


@pytest.fixture
def queue(own_redis: RedisProcess) -> Iterator[UploadQueue]:
    with UploadQueue(own_redis.url) as made:
        yield made


def ends_well(url: str, ticket: str) -> None:
    """Do to the ledger what a worker does."""
    ledger = Ledger(url)
    file = ProviderFile(
        name="files/a", uri="u", state="ACTIVE", mime_type="text/plain", size_bytes=1000
    )
    assert ledger.active(ledger.read(ticket), file)
    ledger.close()


def restart(node: RedisProcess) -> None:
    node.kill_now()
    node._container.restart()
    node.ready()


def waiting(call: Callable[[], Any], begun: threading.Event) -> Future[Any]:
    done = begin(call)
    assert begun.wait(10)
    return done


def test_a_result_is_waited_for(
    queue: UploadQueue, own_redis: RedisProcess, make_file: Callable[..., Path]
) -> None:
    ticket = queue.submit(make_file("a.txt"))

    def reads() -> int:
        with own_redis.client as client:
            stats = client.info("commandstats")
        return int(stats.get("cmdstat_hgetall", {}).get("calls", 0))

    done = begin(lambda: queue.result(ticket, timeout_s=60))
    wait_until(lambda: reads() >= 2, "its first reads")
    restart(own_redis)
    ends_well(own_redis.url, ticket)
    assert done.result(20).state == "ACTIVE"


def test_events_go_on(
    queue: UploadQueue, own_redis: RedisProcess, make_file: Callable[..., Path]
) -> None:
    ticket = queue.submit(make_file("a.txt"))
    seen = threading.Event()

    def follow() -> list[Stage]:
        stages = []
        for status in queue.events([ticket], timeout_s=60):
            stages.append(status.stage)
            seen.set()
        return stages

    done = waiting(follow, seen)
    restart(own_redis)
    ends_well(own_redis.url, ticket)
    stages = done.result(20)
    assert (stages[0], stages[-1]) == (Stage.QUEUED, Stage.ACTIVE)


def test_the_wait_still_ends(
    queue: UploadQueue, own_redis: RedisProcess, make_file: Callable[..., Path]
) -> None:
    ticket = queue.submit(make_file("a.txt"))
    events = queue.events([ticket], timeout_s=1.0)
    assert next(events).stage is Stage.QUEUED
    own_redis.kill_now()
    with pytest.raises(QueueUnavailableError, match="goes on when it is back"):
        next(events)
    begun = time.monotonic()
    with pytest.raises(QueueUnavailableError):
        queue.result(ticket, timeout_s=1.0)
    assert time.monotonic() - begun >= 1.0
    # Never seen: its address may be wrong.
    with UploadQueue(own_redis.url) as stranger, pytest.raises(QueueUnavailableError):
        stranger.result(ticket)


def test_a_result_is_asked_for_while_redis_is_away(
    queue: UploadQueue, own_redis: RedisProcess, make_file: Callable[..., Path]
) -> None:
    ticket = queue.submit(make_file("a.txt"))
    own_redis.kill_now()
    with pytest.raises(QueueUnavailableError):
        queue.status(ticket)
    done = begin(lambda: queue.result(ticket, timeout_s=60))
    own_redis._container.restart()
    own_redis.ready()
    ends_well(own_redis.url, ticket)
    assert done.result(60).state == "ACTIVE"


def test_the_same_in_an_event_loop(own_redis: RedisProcess, make_file: Callable[..., Path]) -> None:
    async def asked() -> str:
        async with AsyncUploadQueue(own_redis.url) as queue:
            ticket = await queue.submit(make_file("a.txt"))
            own_redis.kill_now()
            with pytest.raises(QueueUnavailableError):
                await queue.result(ticket, timeout_s=0.5)
            done = asyncio.create_task(queue.result(ticket, timeout_s=60))
            own_redis._container.restart()
            await asyncio.to_thread(own_redis.ready)
            await asyncio.to_thread(ends_well, own_redis.url, ticket)
            return (await done).state

    assert asyncio.run(asked()) == "ACTIVE"


def test_one_that_reads_its_data_is_waited_for() -> None:
    for reason in ("LOADING", "BusyLoadingError"):
        assert QueueUnavailableError("redis://x", reason).passing
    assert not QueueUnavailableError("redis://x", "ConnectionError").passing


def test_one_that_takes_a_right_away_is_not_waited_for(
    queue: UploadQueue, own_redis: RedisProcess, make_file: Callable[..., Path]
) -> None:
    ticket = queue.submit(make_file("a.txt"))
    with own_redis.client as client:
        client.execute_command("ACL", "SETUSER", "default", "-hgetall")
    with pytest.raises(QueueUnavailableError, match="rights of its user"):
        queue.result(ticket)


class TestCommands:
    @pytest.fixture(autouse=True)
    def environment(self, own_redis: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PROVIDER_UPLOADS_REDIS_URL", own_redis.url)

    def test_upload_and_wait(
        self,
        queue: UploadQueue,
        own_redis: RedisProcess,
        make_file: Callable[..., Path],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        path, client = make_file("a.txt"), Ledger(own_redis.url)

        def upload() -> int | str | None:
            with pytest.raises(SystemExit) as end:
                main(["upload", "--wait", str(path)])
            return end.value.code

        done = begin(upload)
        (key,) = wait_until(lambda: client.redis.keys("provider_uploads:upload:*"), "the row")
        wait_until(lambda: "QUEUED" in capsys.readouterr().out, "its stage")
        restart(own_redis)
        ends_well(own_redis.url, str(key).rpartition(":")[2])
        assert done.result(20) == 0
        client.close()

    def test_one_unknown_ticket_does_not_hide_the_others(
        self,
        queue: UploadQueue,
        make_file: Callable[..., Path],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        ticket = queue.submit(make_file("a.txt"))
        with pytest.raises(SystemExit) as end:
            main(["status", "f" * 32, ticket])
        said = capsys.readouterr()
        assert end.value.code == 2
        assert ticket in said.out
        assert "no upload is known under ticket" in said.err
