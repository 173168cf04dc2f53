"""Many files that wait: their polls are parked, and one list answers for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.result import AsyncResult
from pytest_celery import CeleryTestSetup

from provider_uploads import Stage, UploadInactiveError, UploadQueue, protocol
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import FileGoneError, UploadCancelledError, UploadFailedError
from provider_uploads.ledger import parked
from provider_uploads.ledger.upload_steps import row_key
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.providers.gemini import Gemini
from tests.conftest import KEY, profile_at
from tests.nodes import RedisProcess, WorkerProcess, wait_until
from tests.receiver import SECRET, Receiver

WAIT_S = 30
#: Two of them wait by countdown: they are too few.
MANY = 10

#: Polls by countdown come soon, and then hardly ever.
SELDOM: dict[str, Any] = {
    "poll_s": 0.5,
    "backoff_factor": 100.0,
    "max_poll_s": 50.0,
    "jitter_s": 0.0,
}


@pytest.fixture
def policy() -> dict[str, str]:
    return {
        "PROVIDER_UPLOADS_PARK_FROM": "3",
        "PROVIDER_UPLOADS_WATCH_EVERY_S": "0.2",
        "PROVIDER_UPLOADS_WATCH_CHECK_S": "0.2",
        "PROVIDER_UPLOADS_WATCH_TICK_S": "0.1",
        "PROVIDER_UPLOADS_WATCH_RETRY_S": "1",
        "PROVIDER_UPLOADS_WATCH_LOCK_S": "5",
        "PROVIDER_UPLOADS_VISIBILITY_TIMEOUT_S": "2",
        "PROVIDER_UPLOADS_RESTORE_EVERY_S": "1",
    }


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return EmulatorConfig(processing_s=3.0, api_keys=frozenset({KEY}))


@pytest.fixture
def rows(default_redis_broker: RedisProcess) -> Iterator[Ledger]:
    made = Ledger(default_redis_broker.url)
    yield made
    made.close()


def parked_now(rows: Ledger) -> int:
    return len(rows.run(parked.tickets()))


def watchers(rows: Ledger) -> set[str]:
    return {watcher for _, watcher in rows.run(parked.counts()).values()}


def requests(gemini: LocalGemini, operation: str) -> int:
    return int(gemini.counters()["operations"][operation]["requests"])


def test_one_list_answers_for_all(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    rows: Ledger,
    make_file: Callable[..., Path],
) -> None:
    tickets = queue.submit_many([make_file()] * MANY, **SELDOM)
    wait_until(lambda: parked_now(rows) == MANY, "the polls to be parked")
    ((count, watcher),) = rows.run(parked.counts()).values()
    assert count == MANY
    assert watcher == celery_setup.worker.hostname()
    assert {queue.status(ticket).stage for ticket in tickets} == {Stage.PROCESSING}
    results = [queue.result(ticket, timeout_s=WAIT_S) for ticket in tickets]
    # By the list, and not by the next poll of its own; how soon is measured in `make bench`.
    assert max(result.processing_s for result in results) < SELDOM["max_poll_s"] / 2
    assert requests(gemini, "get") <= 2  # those of the few
    assert 0 < requests(gemini, "list") < 40
    result: AsyncResult[dict[str, str]] = AsyncResult(tickets[-1], app=celery_setup.app)
    assert result.get(timeout=5)["state"] == "ACTIVE"
    assert parked_now(rows) == 0


def test_ends_of_every_kind(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    rows: Ledger,
    make_file: Callable[..., Path],
) -> None:
    """Failed, gone, too late, cancelled and revoked among those that are ACTIVE in the end."""
    gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_FAILED, match="failed")
    gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_STUCK, match="stuck")
    names = ("failed.mp4", "gone.mp4", "stuck.mp4", "cancelled.mp4", "revoked.mp4", "good.mp4")
    some = queue.submit_many([make_file("clip.mp4")] * 3, **SELDOM)
    wait_until(lambda: parked_now(rows) >= 1, "enough to be many")
    tickets = [
        queue.submit(make_file(name), **{**SELDOM, "timeout_s": 2 if "stuck" in name else 60})
        for name in names
    ]
    failed, gone, stuck, cancelled, revoked, good = tickets
    wait_until(lambda: rows.run(parked.tickets()).issuperset(tickets), "all to be parked")
    with Gemini(profile_at(gemini.url)) as provider:
        provider.delete(str(queue.status(gone).id))
    queue.cancel(cancelled)
    celery_setup.app.control.revoke(revoked)
    begun = time.monotonic()
    for ticket in (cancelled, revoked):
        with pytest.raises(UploadCancelledError):
            queue.result(ticket, timeout_s=5)
    ended: AsyncResult[object] = AsyncResult(cancelled, app=celery_setup.app)
    with pytest.raises(UploadCancelledError):
        ended.get(timeout=5)  # Celery's task ends too
    assert time.monotonic() - begun < 5
    assert rows.run(parked.tickets()).isdisjoint({cancelled, revoked})
    for ticket, error in ((failed, UploadFailedError), (gone, FileGoneError)):
        with pytest.raises(error):
            queue.result(ticket, timeout_s=WAIT_S)
    with pytest.raises(UploadInactiveError):
        queue.result(stuck, timeout_s=WAIT_S)
    assert queue.status(stuck).processing_s < 4
    assert {queue.result(one, timeout_s=WAIT_S).state for one in (*some, good)} == {"ACTIVE"}


@pytest.mark.parametrize("kind", [FaultKind.INTERNAL, FaultKind.STALL])
def test_a_list_that_never_comes_delays_nobody(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    rows: Ledger,
    make_file: Callable[..., Path],
    kind: FaultKind,
) -> None:
    """Each is polled by itself when it is due, and last polls come at their deadlines."""
    stall: dict[str, Any] = {"stall_s": 60} if kind is FaultKind.STALL else {}
    gemini.order_fault(Operation.LIST, kind, count=1000, **stall)
    gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_STUCK, match="stuck")
    pace: dict[str, Any] = {"poll_s": 1.0, "max_poll_s": 1.0, "jitter_s": 0.0}
    tickets = queue.submit_many([make_file("clip.mp4")] * MANY, **pace)
    stuck = queue.submit(make_file("stuck.mp4"), **{**pace, "timeout_s": 5, "max_poll_s": 60})
    results = [queue.result(ticket, timeout_s=WAIT_S) for ticket in tickets]
    assert max(result.processing_s for result in results) < 3 + 4
    assert min(result.polls for result in results) >= 1
    with pytest.raises(UploadInactiveError):
        queue.result(stuck, timeout_s=WAIT_S)
    assert queue.status(stuck).processing_s < 5 + 2
    assert requests(gemini, "list") >= 1
    # It may wait for that list still, in the tests that follow.
    celery_setup.worker.container.kill("SIGKILL")


def test_a_row_that_nobody_can_read_holds_up_no_other(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    rows: Ledger,
    make_file: Callable[..., Path],
) -> None:
    tickets = queue.submit_many([make_file()] * MANY, **SELDOM)
    wait_until(lambda: parked_now(rows) == MANY, "the polls to be parked")
    broken, *others = tickets
    rows.redis.set(row_key(broken), "no hash", xx=True)
    results = [queue.result(ticket, timeout_s=WAIT_S) for ticket in others]
    assert {result.state for result in results} == {"ACTIVE"}
    assert max(result.processing_s for result in results) < 3 + 5
    assert requests(gemini, "get") <= 2  # those of the few: the list answered for all


def test_a_list_that_is_rate_limited_is_read_again_after_the_wait(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    rows: Ledger,
    make_file: Callable[..., Path],
) -> None:
    """And no parked poll is sent in its place: a 429 is about the account."""
    limited = FaultKind.RATE_LIMITED
    gemini.order_fault(Operation.LIST, limited, count=2, retry_delay_s=2.0)
    tickets = queue.submit_many([make_file()] * MANY, **SELDOM)
    wait_until(lambda: requests(gemini, "list") == 1, "the list to be refused")
    refused_at = time.monotonic()
    asked = requests(gemini, "get")
    wait_until(lambda: requests(gemini, "list") == 2, "the list to be read again")
    assert time.monotonic() - refused_at > 1.5
    assert requests(gemini, "get") - asked <= 2  # the few that wait by countdown
    results = [queue.result(ticket, timeout_s=WAIT_S) for ticket in tickets]
    assert {result.state for result in results} == {"ACTIVE"}
    assert gemini.counters()["operations"]["list"]["by_status"]["429"] == 2


def test_pages_and_polls_share_the_rate(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    rows: Ledger,
    make_file: Callable[..., Path],
) -> None:
    """With sixty a minute the list is read once a second, though every 0.2 s is wanted."""
    celery_setup.app.control.rate_limit(protocol.POLL, "60/m", reply=True)
    tickets = queue.submit_many([make_file()] * MANY, timeout_s=60, **{**SELDOM, "poll_s": 60})
    wait_until(lambda: parked_now(rows) >= MANY - 2, "the polls to be parked")
    begun, before = time.monotonic(), requests(gemini, "list")
    watched = rows.run(parked.tickets())
    for ticket in watched:
        queue.result(ticket, timeout_s=WAIT_S)
    took_s = time.monotonic() - begun
    asked = sum(requests(gemini, operation) for operation in ("list", "get")) - before
    celery_setup.app.control.rate_limit(protocol.POLL, "0", reply=True)
    for ticket in set(tickets) - watched:
        queue.cancel(ticket)
    assert asked <= took_s + 2


class TestWhoIsTold:
    """Of an end that a watcher records, as of one that a poll's message does."""

    @pytest.fixture
    def receiver(self) -> Iterator[Receiver]:
        made = Receiver()
        yield made
        made.stop()

    @pytest.fixture
    def policy(self, policy: dict[str, str], receiver: Receiver) -> dict[str, str]:
        return policy | {
            "PROVIDER_UPLOADS_CALLBACKS__ORDERS__URL": receiver.url,
            "PROVIDER_UPLOADS_CALLBACKS__ORDERS__SECRET": SECRET,
        }

    def test_flower_and_the_callback(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        rows: Ledger,
        receiver: Receiver,
        make_file: Callable[..., Path],
    ) -> None:
        app = celery_setup.app
        app.control.enable_events()
        seen: dict[str, list[str]] = {}

        def note(event: dict[str, Any]) -> None:
            seen.setdefault(str(event["uuid"]), []).append(event["type"])

        with app.connection_for_read() as connection:
            events = app.events.Receiver(connection, handlers={"task-succeeded": note})
            thread = threading.Thread(target=events.capture, daemon=True)
            thread.start()
            paths = [make_file()] * MANY
            tickets = queue.submit_many(paths, callback="orders", **SELDOM)
            wait_until(lambda: parked_now(rows) == MANY, "the polls to be parked")
            for ticket in tickets:
                assert queue.result(ticket, timeout_s=WAIT_S).polls >= 1
            wait_until(lambda: seen.keys() >= {*tickets}, "an event of each end")
            events.should_stop = True
            thread.join(5)
        app.control.disable_events()
        assert {kind for kinds in seen.values() for kind in kinds} == {"task-succeeded"}
        wait_until(lambda: len(receiver.bodies()) >= MANY, "the callback")
        told = [body["data"]["ticket"] for body in receiver.bodies()]
        assert sorted(told) == sorted(tickets)


@pytest.mark.slow
class TestWatchers:
    """Two control workers; the one that watches ends."""

    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=15.0, api_keys=frozenset({KEY}))

    @pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
    def test_another_one_goes_on(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        more_workers: Callable[..., WorkerProcess],
        gemini: LocalGemini,
        rows: Ledger,
        make_file: Callable[..., Path],
        signal: str,
    ) -> None:
        first, second = celery_setup.worker.container, more_workers("-Q", "control")
        tickets = queue.submit_many([make_file()] * MANY, **{**SELDOM, "poll_s": 0.3})
        wait_until(lambda: parked_now(rows) == MANY, "the polls to be parked")
        (watcher,) = wait_until(lambda: watchers(rows) - {""}, "somebody to watch")
        watching = first if watcher == celery_setup.worker.hostname() else second
        begun = time.monotonic()
        watching.kill(signal)
        wait_until(lambda: watching.exit_code is not None, "its end")
        if signal == "SIGTERM":
            assert time.monotonic() - begun < 5  # nobody waits for the watch
        wait_until(lambda: watchers(rows) - {watcher, ""}, "another one to watch")
        results = [queue.result(ticket, timeout_s=WAIT_S) for ticket in tickets]
        assert max(result.processing_s for result in results) < 15 + 12
        assert {result.state for result in results} == {"ACTIVE"}
        assert requests(gemini, "get") <= MANY


class TestGateway:
    """Its names are its own, and so is its order: each file is asked for by itself."""

    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_by_mime={"*": 3.0}, api_keys=frozenset({KEY}))

    @pytest.fixture
    def default_worker_env(
        self, default_worker_env: dict[str, str], gemini: LocalGemini
    ) -> dict[str, str]:
        return {**default_worker_env, "PROVIDER_UPLOADS_BASE_URL": f"{gemini.url}/genai"}

    def test_countdowns_stay(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        rows: Ledger,
        make_file: Callable[..., Path],
    ) -> None:
        tickets = queue.submit_many([make_file()] * MANY, poll_s=0.5, max_poll_s=0.5)
        results = [queue.result(ticket, timeout_s=WAIT_S) for ticket in tickets]
        assert rows.run(parked.profiles()) == []
        assert max(result.polls for result in results) > 1
