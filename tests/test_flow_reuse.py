"""The same bytes once: one upload for all who want them, and a file until its last user is gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import redis
from pytest_celery import CeleryTestSetup

from provider_uploads import Stage, UploadFailedError, UploadQueue, UploadResult, protocol
from provider_uploads.cli import main
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import UnknownTicketError, UploadCancelledError
from provider_uploads.schemas import Copy
from provider_uploads.settings import settings
from tests.conftest import KEY
from tests.nodes import RedisProcess, WorkerProcess, wait_until

pytestmark = pytest.mark.slow

MIB = 1024**2
WAIT_S = 60


@pytest.fixture
def quick(quick: dict[str, Any]) -> dict[str, Any]:
    return {**quick, "reuse": True}


@pytest.fixture
def policy(tmp_path: Path, gemini: LocalGemini) -> dict[str, str]:
    (tmp_path / "staged").mkdir()
    return {
        "PROVIDER_UPLOADS_SWEEP_QUIET_S": "0.01",
        "PROVIDER_UPLOADS_STAGING": str(tmp_path / "staged"),
        "PROVIDER_UPLOADS_PROFILES__OTHER__API_KEY": KEY,
        "PROVIDER_UPLOADS_PROFILES__OTHER__BASE_URL": gemini.url,
    }


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


def requests(gemini: LocalGemini, operation: Operation) -> int:
    return int(gemini.counters()["operations"][operation]["requests"])


def names(gemini: LocalGemini) -> list[str]:
    return [str(file["name"]) for file in gemini.files()]


def results(queue: UploadQueue, *tickets: str) -> list[UploadResult]:
    return [queue.result(ticket, timeout_s=WAIT_S) for ticket in tickets]


def gone(queue: UploadQueue, ticket: str) -> bool:
    return queue.status(ticket).copy_at_provider is Copy.DELETED


def test_a_second_one_sends_nothing(
    queue: UploadQueue,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
    tmp_path: Path,
    quick: dict[str, Any],
) -> None:
    path = make_file("clip.mp4", 300_000)
    copy = path.with_name("copy.mp4")
    copy.write_bytes(path.read_bytes())
    first = queue.result(queue.submit(path, **quick), timeout_s=WAIT_S)
    assert not first.reused
    assert not queue.status(first.ticket).reused
    polls = requests(gemini, Operation.GET)

    second = queue.result(queue.submit(copy, **quick), timeout_s=WAIT_S)
    assert (second.id, second.uri, second.sha256) == (first.id, first.uri, first.sha256)
    assert second.expires_at == first.expires_at
    assert (second.reused, second.display_name, second.polls) == (True, "copy.mp4", 0)
    status = queue.status(second.ticket)
    assert (status.stage, status.sent_bytes, status.reused) == (Stage.ACTIVE, 0, True)
    assert requests(gemini, Operation.GET) == polls + 1

    streamed = queue.submit_stream(BytesIO(path.read_bytes()), filename="c.mp4", **quick)
    assert queue.result(streamed, timeout_s=WAIT_S).id == first.id
    wait_until(lambda: not [*(tmp_path / "staged").iterdir()], "its staged copy is removed")

    assert gemini.counters()["bytes_received"] == 300_000
    assert requests(gemini, Operation.START) == 1
    assert names(gemini) == [first.id]
    # Who did not ask for it sends its own.
    plain = queue.result(queue.submit(path, **{**quick, "reuse": False}), timeout_s=WAIT_S)
    assert plain.id == f"files/pu-{plain.ticket}-0"


class TestTogether:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=1, bandwidth_mib_s=4, api_keys=frozenset({KEY}))

    def test_ten_at_once_over_two_workers(
        self,
        queue: UploadQueue,
        more_workers: Callable[..., WorkerProcess],
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        more_workers()
        path = make_file("clip.mp4", 4 * MIB)
        tickets = [queue.submit(path, **quick) for _ in range(5)]
        tickets += queue.submit_many([path] * 5, **quick)
        wait_until(
            lambda: sum("waits for" in (s.note or "") for s in queue.statuses(tickets)) == 9,
            "nine wait and say so",
        )
        (owner,) = (s.ticket for s in queue.statuses(tickets) if s.stage is not Stage.QUEUED)
        notes = {s.note for s in queue.statuses(tickets) if s.ticket != owner}
        assert notes == {f"waits for {owner}, which sends the same bytes"}
        assert {result.id for result in results(queue, *tickets)} == {f"files/pu-{owner}-0"}
        assert [s.reused for s in queue.statuses(tickets)].count(False) == 1
        assert gemini.counters()["bytes_received"] == 4 * MIB
        assert requests(gemini, Operation.START) == 1

    def test_a_cancelled_owner_leaves_its_followers_their_file(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        path = make_file("clip.mp4", 10 * MIB)
        owner = queue.submit(path, **quick)
        wait_until(lambda: queue.status(owner).sent_bytes > 0, "bytes moving")
        followers = [queue.submit(path, **quick) for _ in range(2)]
        wait_until(lambda: all(s.note for s in queue.statuses(followers)), "two wait")
        assert queue.cancel(owner) is Stage.UPLOADING
        one, other = results(queue, *followers)
        assert one.id == other.id != f"files/pu-{owner}-0"
        with pytest.raises(UploadCancelledError):
            queue.result(owner)
        wait_until(lambda: names(gemini) == [one.id], "nothing else stays")

    def test_a_cancelled_follower_leaves_the_others_alone(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        path = make_file("clip.mp4", 2 * MIB)
        owner = queue.submit(path, **quick)
        wait_until(lambda: queue.status(owner).sent_bytes > 0, "bytes moving")
        follower = queue.submit(path, **quick)
        wait_until(lambda: queue.status(follower).note, "it waits")
        assert queue.cancel(follower) is Stage.QUEUED
        (result,) = results(queue, owner)
        wait_until(lambda: f"{follower}] raised" in celery_setup.worker.logs(), "its end")
        assert names(gemini) == [result.id]
        assert queue.delete(owner) is Stage.ACTIVE
        wait_until(lambda: names(gemini) == [], "nobody else used it")


@pytest.mark.slow
class TestKilled:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=0.3, bandwidth_mib_s=2, api_keys=frozenset({KEY}))

    @pytest.fixture
    def policy(self, policy: dict[str, str]) -> dict[str, str]:
        return {
            **policy,
            "PROVIDER_UPLOADS_VISIBILITY_TIMEOUT_S": "1",
            "PROVIDER_UPLOADS_RESTORE_EVERY_S": "1",
            "PROVIDER_UPLOADS_LEASE_S": "3",
            "PROVIDER_UPLOADS_LEASE_HELD_RETRY_S": "0.5",
        }

    def test_an_owner_s_worker_killed_while_bytes_move(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        more_workers: Callable[..., WorkerProcess],
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        path = make_file("clip.mp4", 6 * MIB)
        owner = queue.submit(path, **quick)
        wait_until(lambda: queue.status(owner).sent_bytes > 0, "bytes moving")
        followers = queue.submit_many([path] * 3, **quick)
        wait_until(lambda: all(s.note for s in queue.statuses(followers)), "three wait")
        celery_setup.worker.kill()  # SIGKILL, of the followers' worker too
        more_workers()
        assert {r.id for r in results(queue, owner, *followers)} == {f"files/pu-{owner}-0"}
        assert requests(gemini, Operation.START) == 1
        assert len(gemini.files()) == 1


def test_what_differs_is_sent(
    queue: UploadQueue,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
    quick: dict[str, Any],
) -> None:
    path = make_file("clip.mp4", 5000)
    changed = path.with_name("changed.mp4")
    changed.write_bytes(path.read_bytes()[:-1] + b"\0")
    tickets = [
        queue.submit(path, **quick),
        queue.submit(path, **quick, mime_type="video/webm"),
        queue.submit(path, **quick, profile="other"),
        queue.submit(changed, **quick),
    ]
    assert len({result.id for result in results(queue, *tickets)}) == 4
    assert len(gemini.files()) == 4


def test_a_file_that_cannot_be_had_is_sent_again(
    queue: UploadQueue,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
    raw: redis.Redis,
    quick: dict[str, Any],
) -> None:
    path = make_file("clip.mp4", 5000)

    def next_one() -> UploadResult:
        return queue.result(queue.submit(path, **quick), timeout_s=WAIT_S)

    first = next_one()
    assert gemini.files()
    gemini.advance_clock(48 * 3600 + 1)  # the provider deletes it
    second = next_one()
    assert (second.id != first.id, second.reused) == (True, False)

    # It says that it expires in 59 minutes, and it says so only in its row.
    key = f"{protocol.KEY_PREFIX}upload:{second.ticket}"
    file = json.loads(str(raw.hget(key, "file")))
    file["expires_at"] = (datetime.now(UTC) + timedelta(minutes=59)).isoformat()
    raw.hset(key, "file", json.dumps(file))
    polls = requests(gemini, Operation.GET)
    third = next_one()
    assert (third.id != second.id, third.reused) == (True, False)
    assert requests(gemini, Operation.GET) == polls + third.polls  # nobody asked for the second
    assert next_one().id == third.id

    main_ends(0, "files", "delete", third.id)
    fourth = next_one()
    assert (fourth.id != third.id, fourth.reused) == (True, False)
    assert next_one().id == fourth.id


def main_ends(code: int, *arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == code


def test_a_follower_takes_over_from_an_owner_that_failed(
    queue: UploadQueue,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
    quick: dict[str, Any],
) -> None:
    gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_FAILED)
    path = make_file("clip.mp4", 5000)
    tickets = queue.submit_many([path] * 3, **quick)
    failed, good = [], []
    for ticket in tickets:
        try:
            good.append(queue.result(ticket, timeout_s=WAIT_S).id)
        except UploadFailedError:
            failed.append(ticket)
    assert len(failed) == 1
    assert len(good) == 2
    assert len(set(good)) == 1
    wait_until(lambda: names(gemini) == good[:1], "the failed one's deletion")


def test_a_source_that_changed_before_it_was_sent_is_nobody_elses(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
    quick: dict[str, Any],
) -> None:
    """Read, then not sent at once because the provider said no, then other bytes of that size."""
    gemini.order_fault(Operation.UPLOAD, FaultKind.RATE_LIMITED, retry_delay_s=1)
    path = make_file("clip.mp4", 5000)
    other = path.with_name("other.mp4")
    other.write_bytes(path.read_bytes())
    owner = queue.submit(path, **quick)
    wait_until(
        lambda: gemini.counters()["operations"]["upload"]["by_status"].get("429"), "the refusal"
    )
    path.write_bytes(b"x" * 5000)
    follower = queue.submit(other, **quick)
    first, second = results(queue, owner, follower)
    assert first.id != second.id
    assert first.sha256 != second.sha256
    assert {file["sha256"] for file in gemini.files()} == {first.sha256, second.sha256}


class TestDelete:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=3600, api_keys=frozenset({KEY}))

    def test_the_last_user_takes_the_file_along(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        path = make_file("a.txt", 5000)
        owner = queue.submit(path, **quick)
        (first,) = results(queue, owner)
        other = queue.submit(path, **quick)
        results(queue, other)

        assert queue.delete(owner) is Stage.ACTIVE
        wait_until(lambda: gone(queue, owner), "the first lets go")
        assert queue.status(owner).stage is Stage.ACTIVE
        assert queue.status(other).copy_at_provider is Copy.PRESENT
        # The claim is the other's now: a third one finds the file, though its first user left.
        third = queue.submit(path, **quick)
        assert results(queue, third)[0].id == first.id
        assert queue.delete(owner) is Stage.ACTIVE  # twice is once
        celery_setup.app.send_task(
            protocol.SWEEP, kwargs={"at_provider": True}, queue=protocol.CONTROL_QUEUE
        )
        wait_until(
            lambda: any(
                protocol.SWEEP in line and "succeeded" in line
                for line in celery_setup.worker.logs().splitlines()
            ),
            "a sweep",
        )
        assert queue.sweep(quiet_s=0) == []
        assert names(gemini) == [first.id]
        assert requests(gemini, Operation.DELETE) == 0

        capsys.readouterr()
        main_ends(0, "delete", other, third, owner)
        assert capsys.readouterr().out.splitlines() == [
            f"{other}  is being deleted",
            f"{third}  is being deleted",
            f"{owner}  ACTIVE: nothing is left",
        ]
        wait_until(lambda: gone(queue, other) and gone(queue, third), "both let go")
        assert names(gemini) == []
        assert requests(gemini, Operation.DELETE) == 1
        again = queue.submit(path, **quick)
        assert results(queue, again)[0].id == f"files/pu-{again}-0"

    def test_without_reuse_and_of_what_is_not_active(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        with pytest.raises(UnknownTicketError):
            queue.delete("0" * 32)
        own = queue.submit(make_file("a.txt"))
        results(queue, own)
        gemini.order_fault(Operation.DELETE, FaultKind.UNAVAILABLE, count=2)  # tried again
        assert queue.delete(own) is Stage.ACTIVE
        wait_until(lambda: names(gemini) == [] and gone(queue, own), "the deletion")

        living = queue.submit(make_file("b.mp4"), timeout_s=600)
        wait_until(lambda: queue.status(living).stage is Stage.PROCESSING, "the bytes")
        main_ends(0, "delete", living)
        assert "PROCESSING: cancel it" in capsys.readouterr().out
        assert queue.delete(living) is Stage.PROCESSING
        assert queue.status(living).stage is Stage.PROCESSING
        assert len(gemini.files()) == 1
        queue.cancel(living)
        assert queue.delete(living) is Stage.CANCELLED
        wait_until(lambda: gone(queue, living), "the cancelled one's deletion")

        late = queue.submit(
            make_file("c.mp4"), timeout_s=0.1, poll_s=0.1, jitter_s=0, cleanup_on_timeout=False
        )
        wait_until(lambda: queue.status(late).stage is Stage.TIMED_OUT, "its time is up")
        assert len(gemini.files()) == 1  # kept, as it was asked for
        assert queue.delete(late) is Stage.TIMED_OUT
        wait_until(lambda: gone(queue, late) and names(gemini) == [], "its deletion")

    def test_a_lost_deletion_is_sent_again(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        raw: redis.Redis,
    ) -> None:
        ticket = queue.submit(make_file("a.txt"))
        results(queue, ticket)
        celery_setup.app.control.cancel_consumer(protocol.CONTROL_QUEUE, reply=True)
        assert queue.delete(ticket) is Stage.ACTIVE
        assert raw.delete(f"{protocol.KEY_PREFIX}{protocol.CONTROL_QUEUE}") == 1
        celery_setup.app.control.add_consumer(protocol.CONTROL_QUEUE, reply=True)
        assert [f.subject for f in queue.sweep(quiet_s=0, dry_run=False)] == [ticket]
        wait_until(lambda: names(gemini) == [] and gone(queue, ticket), "the deletion")
