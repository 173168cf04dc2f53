"""Rate limits on the whole road: real workers, real Redis, a provider that counts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pytest_celery import CeleryTestSetup

from provider_uploads import Stage, UploadQueue, protocol
from provider_uploads.cli import main
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import SourceTooLargeError
from provider_uploads.fleet.limits import Limits, published
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.storage import Storage
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.protocol import PriorityQueue
from provider_uploads.schemas import Copy
from provider_uploads.settings import settings
from tests.conftest import KEY
from tests.nodes import RedisProcess, WorkerProcess, wait_until

pytestmark = pytest.mark.slow

TIERS = """
[quick]
upload = "600/m"
poll = "6000/m"
delete = "600/m"
generate = "600/m"
transfer_concurrency = 8

[slow]
upload = "20/m"
transfer_concurrency = 8
"""


@pytest.fixture
def policy(tmp_path: Path, gemini: LocalGemini) -> dict[str, str]:
    (tmp_path / "tiers.toml").write_text(TIERS)
    return {
        "PROVIDER_UPLOADS_TIERS_FILE": str(tmp_path / "tiers.toml"),
        "PROVIDER_UPLOADS_TIER": "quick",
        "PROVIDER_UPLOADS_PROFILES__SLOW__API_KEY": KEY,
        "PROVIDER_UPLOADS_PROFILES__SLOW__BASE_URL": gemini.url,
        "PROVIDER_UPLOADS_PROFILES__SLOW__TIER": "slow",
    }


@pytest.fixture
def ledger(default_redis_broker: RedisProcess) -> Ledger:
    return Ledger(default_redis_broker.url)


@pytest.fixture
def limits(ledger: Ledger) -> Limits:
    """What an operator sees."""
    return Limits(ledger, lambda profile, work: published(ledger)[profile].rate(work))


def ended(queue: UploadQueue, tickets: list[str]) -> int:
    return sum(status.stage.ended for status in queue.statuses(tickets))


def starts(gemini: LocalGemini) -> dict[str, int]:
    counted: dict[str, int] = gemini.counters()["operations"]["upload"]["by_status"]
    return counted


def test_uploads_go_at_the_tiers_pace_whoever_sends_them(
    queue: UploadQueue,
    more_workers: Callable[..., WorkerProcess],
    make_file: Callable[..., Path],
    quick: dict[str, Any],
) -> None:
    more_workers("-Q", "transfer")
    tickets = queue.submit_many([make_file(f"{n}.txt") for n in range(60)], **quick)
    wait_until(lambda: ended(queue, tickets) == 60, "all of them", 30)
    statuses = queue.statuses(tickets)
    assert {status.stage for status in statuses} == {Stage.ACTIVE}
    begun = [status.queued_s for status in statuses]
    # Twelve at once, and one every 104 ms after them: what came faster was not allowed.
    assert max(begun) - min(begun) > (60 - 12) * 0.104 * 0.95


def test_single_ones_go_in_the_order_they_came(
    queue: UploadQueue,
    limits: Limits,
    make_file: Callable[..., Path],
    quick: dict[str, Any],
) -> None:
    limits.set_rate(Work.UPLOAD, "120/m", profile="default", profiles=[])
    path = make_file("a.txt")
    tickets = [queue.submit(path, **quick) for _ in range(20)]
    wait_until(lambda: ended(queue, tickets) == 20, "all of them", 30)
    begun = [status.queued_s for status in queue.statuses(tickets)]
    went = sorted(range(20), key=lambda n: begun[n])
    assert max(abs(place - n) for place, n in enumerate(went)) <= 8  # those that wait in slots


def test_polls_whose_time_is_up_leave_no_turns_behind(
    queue: UploadQueue,
    limits: Limits,
    make_file: Callable[..., Path],
    quick: dict[str, Any],
) -> None:
    limits.set_rate(Work.POLL, "60/m", profile="default", profiles=[])
    path = make_file("a.mp4")
    tickets = queue.submit_many([path] * 30, **{**quick, "timeout_s": 3.0})
    wait_until(lambda: ended(queue, tickets) == 30, "their last polls", 30)
    assert limits.acquire("default", Work.POLL).wait_s < 5


class TestRefused:
    def test_one_429_holds_everybody_up_once(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        limits: Limits,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        queue.result(queue.submit(make_file("warm.txt"), **quick), timeout_s=20)
        gemini.order_fault(Operation.UPLOAD, FaultKind.RATE_LIMITED, count=1, retry_delay_s=3.0)
        first = queue.submit(make_file("first.mp4"), **quick)
        wait_until(lambda: starts(gemini).get("429"), "the refusal")
        wait_until(lambda: limits.status("default", Work.UPLOAD).on_hold_s > 0, "the hold")
        assert limits.status("slow", Work.UPLOAD).on_hold_s == 0
        others = [queue.submit(make_file(f"{n}.mp4"), **quick) for n in range(5)]
        for ticket in (first, *others):
            queue.result(ticket, timeout_s=20)
        assert starts(gemini)["429"] == 1
        assert limits.status("default", Work.UPLOAD).factor < 0.8

    def test_a_look_and_a_deletion_come_back_after_it(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        limits: Limits,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        for operation in (Operation.GET, Operation.DELETE):
            gemini.order_fault(operation, FaultKind.RATE_LIMITED, count=1, retry_delay_s=0.5)
        ticket = queue.submit(make_file("clip.mp4"), **quick)
        queue.result(ticket, timeout_s=20)
        queue.delete(ticket)
        wait_until(lambda: gemini.files() == [], "the deletion")
        operations = gemini.counters()["operations"]
        assert operations["get"]["by_status"]["429"] == 1
        assert operations["delete"]["by_status"] == {"429": 1, "200": 1}

    def test_a_quota_of_the_day_is_waited_for_in_the_slot(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        gemini: LocalGemini,
        limits: Limits,
        more_workers: Callable[..., WorkerProcess],
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.RATE_LIMITED_DAY, count=1)

        def waits(name: str) -> str:
            ticket = queue.submit(make_file(name), **quick)
            wait_until(
                lambda: "rate limit, not before" in (queue.status(ticket).note or ""),
                "the reason in its status",
            )
            return ticket

        unwanted, wanted = waits("a.txt"), waits("b.txt")
        assert limits.status("default", Work.UPLOAD).on_hold_s > 1
        assert queue.cancel(unwanted) is Stage.QUEUED
        stopped = celery_setup.worker
        stopped.kill("SIGTERM")
        more_workers()  # from a worker that stops the message comes back at once
        wait_until(lambda: celery_setup.worker.container.status == "exited", "its end")
        for name in ("default", "slow"):  # the operator knows better
            limits.set_rate(Work.UPLOAD, "600/m", profile=name, profiles=[])
        assert queue.result(wanted, timeout_s=20).state == "ACTIVE"
        assert starts(gemini) == {"429": 1, "200": 1}


class TestOnHold:
    """One account, or one kind of work, has to wait for an hour; nobody else does."""

    @pytest.fixture
    def done(
        self, queue: UploadQueue, make_file: Callable[..., Path], quick: dict[str, Any]
    ) -> Callable[[], None]:
        """See that another upload goes through, soon and again."""

        def done() -> None:
            for _ in range(3):
                queue.result(queue.submit(make_file("other.txt"), **quick), timeout_s=20)

        return done

    @pytest.mark.parametrize("slots", [1, 2, 8])
    def test_an_account_with_more_uploads_than_slots(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        limits: Limits,
        more_workers: Callable[..., WorkerProcess],
        make_file: Callable[..., Path],
        quick: dict[str, Any],
        done: Callable[[], None],
        slots: int,
    ) -> None:
        celery_setup.worker.kill("SIGTERM")
        more_workers("-c", str(slots))
        path = make_file("a.txt")
        limits.cool_down("slow", Work.UPLOAD, 3600.0, "a quota")
        singles = [queue.submit(path, profile="slow", **quick) for _ in range(12)]
        many = queue.submit_many([path] * 30, profile="slow", **quick)
        wait_until(lambda: "a quota" in (queue.status(singles[0]).note or ""), "the first")
        done()
        limits.set_rate(Work.UPLOAD, "unlimited", profile="slow", profiles=[])
        wait_until(lambda: ended(queue, [*singles, *many]) == 42, "all of them", 30)

    def test_refusals_that_meet_slots_at_work(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        limits: Limits,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
        done: Callable[[], None],
    ) -> None:
        limits.set_rate(Work.UPLOAD, "unlimited", profile="slow", profiles=[])
        gemini.order_fault(
            Operation.UPLOAD, FaultKind.RATE_LIMITED, count=8, match="hour", retry_delay_s=3600
        )
        path = make_file("hour.txt")
        tickets = [queue.submit(path, profile="slow", **quick) for _ in range(8)]
        wait_until(lambda: limits.status("slow", Work.UPLOAD).on_hold_s > 3000, "the hold")
        done()

        def all_ended() -> bool:  # the refusals that are left are an hour each, too
            limits.set_rate(Work.UPLOAD, "1000/s", profile="slow", profiles=[])
            return ended(queue, tickets) == 8

        wait_until(all_ended, "all of them", 30)

    def test_questions(
        self,
        queue: UploadQueue,
        limits: Limits,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
        done: Callable[[], None],
    ) -> None:
        limits.cool_down("slow", Work.GENERATE, 3600.0, "a quota")
        limits.cool_down("default", Work.GENERATE, 3600.0, "a quota")
        asked = [
            queue.ask("What is it?", profile=profile)
            for _ in range(12)
            for profile in ("default", "slow")
        ]
        done()
        for profile in ("default", "slow"):
            limits.set_rate(Work.GENERATE, "unlimited", profile=profile, profiles=[])
        for ticket in asked:
            queue.answer(ticket, timeout_s=30)

    def test_a_look_at_the_deadline_is_taken_all_the_same(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        limits: Limits,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        limits.cool_down("default", Work.POLL, 3600.0, "a quota")
        ticket = queue.submit(make_file("a.mp4"), **{**quick, "timeout_s": 1.0})
        assert queue.result(ticket, timeout_s=20).state == "ACTIVE"
        assert gemini.counters()["operations"]["get"]["requests"] == 1

    def test_one_that_waits_for_a_shared_file_can_be_cancelled(
        self,
        queue: UploadQueue,
        ledger: Ledger,
        limits: Limits,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        path = make_file("a.txt")
        queue.result(queue.submit(path, reuse=True, **quick), timeout_s=20)
        limits.cool_down("default", Work.POLL, 3600.0, "a quota")
        ticket = queue.submit(path, reuse=True, **quick)
        wait_until(lambda: "the poll rate limit" in (queue.status(ticket).note or ""), "the reason")
        assert ledger.leased(ticket)
        queue.cancel(ticket)
        wait_until(lambda: not ledger.leased(ticket), "its slot", 5)


class TestManyBesideSingleOnes:
    @pytest.fixture
    def policy(self, policy: dict[str, str]) -> dict[str, str]:
        return {**policy, "PROVIDER_UPLOADS_BULK_PATIENCE_S": "0.5"}

    def test_single_ones_that_do_not_end_leave_them_turns(
        self,
        queue: UploadQueue,
        limits: Limits,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        limits.set_rate(Work.UPLOAD, "120/m", profile="default", profiles=[])
        path = make_file("a.txt")
        singles = [queue.submit(path, **quick) for _ in range(40)]
        wait_until(lambda: ended(queue, singles) > 0, "the first")
        many = queue.submit_many([path] * 2, **quick)
        wait_until(lambda: ended(queue, many) == 2, "those of many", 30)
        assert ended(queue, singles) < 36


class TestFairness:
    def test_one_file_does_not_wait_behind_many(
        self,
        queue: UploadQueue,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        path = make_file("a.txt")
        many = queue.submit_many([path] * 300, **quick)
        wait_until(lambda: ended(queue, many) > 15, "the first of many", 30)
        for _ in range(3):
            queue.result(queue.submit(path, **quick), timeout_s=20)
        assert ended(queue, many) < 150

    def test_a_slow_account_is_in_nobodys_way(
        self,
        queue: UploadQueue,
        limits: Limits,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        limits.set_rate(Work.UPLOAD, "unlimited", profile="default", profiles=[])
        path = make_file("a.txt")
        slow = queue.submit_many([path] * 100, profile="slow", **quick)  # one in three seconds
        wait_until(lambda: ended(queue, slow) > 0, "the first of the slow ones")
        fast = queue.submit_many([path] * 200, **quick)
        wait_until(lambda: ended(queue, fast) == 200, "the fast ones", 30)
        # With slots shared by turns alone, every fast one would have waited for a slow one.
        assert ended(queue, slow) < 20

    def test_transfer_means_the_lanes_of_all_profiles(
        self, celery_setup: CeleryTestSetup, more_workers: Callable[..., WorkerProcess]
    ) -> None:
        more_workers("-Q", "transfer")
        inspect = celery_setup.app.control.inspect
        served = inspect(timeout=60, limit=2).active_queues().values()
        lanes = {
            protocol.transfer_queue(name, lane)
            for name in ("default", "slow")
            for lane in PriorityQueue
        }
        names = [{queue["name"] for queue in queues} for queues in served]
        assert sorted(names, key=len) == [lanes, lanes | {"control"}]


class TestRatesThatWereSet:
    def test_by_celerys_own_command(
        self, celery_setup: CeleryTestSetup, queue: UploadQueue, limits: Limits
    ) -> None:
        control = celery_setup.app.control
        (answer,) = control.rate_limit(protocol.UPLOAD, "30/m", reply=True)
        assert [*answer.values()] == [{"ok": "new rate limit set successfully"}]
        for name in ("default", "slow"):
            assert limits.status(name, Work.UPLOAD).rate == 30
        (answer,) = control.rate_limit(protocol.UPLOAD, "10/x", reply=True)
        assert [*answer.values()] == [{"error": "'10/x' is no rate: write 10/s, 60/m or 500/h"}]
        assert limits.status("default", Work.UPLOAD).rate == 30

    def test_by_the_form_in_flower(
        self, celery_setup: CeleryTestSetup, limits: Limits, flower: httpx2.Client
    ) -> None:
        ping = celery_setup.app.control.ping
        (name,) = wait_until(lambda: [*ping()[0]], "the worker's name")
        wait_until(lambda: name in flower.get("/api/workers?refresh=1").json(), "Flower to see it")
        done = flower.post(
            f"/api/task/rate-limit/{protocol.UPLOAD}",
            data={"workername": name, "ratelimit": "90/m"},
        )
        assert done.is_success, done.text
        for profile in ("default", "slow"):
            assert limits.status(profile, Work.UPLOAD).rate == 90


def test_a_tier_nobody_knows_stops_the_worker(
    tmp_path: Path, default_worker_env: dict[str, str]
) -> None:
    env = {**default_worker_env, "PROVIDER_UPLOADS_TIER": "tier_9"}
    env.pop("PROVIDER_UPLOADS_TIERS_FILE")
    worker = WorkerProcess.spawn(tmp_path, WorkerProcess.command(), env)
    wait_until(lambda: worker.exit_code, "its end")
    assert "no tier 'tier_9'" in worker.logs()
    assert "free, tier_1, tier_2, tier_3, unlimited" in worker.logs()


class TestStorage:
    """A project of ten megabytes."""

    SIZE = 3_000_000

    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(
            processing_s=0.1, api_keys=frozenset({KEY}), max_project_bytes=10_000_000
        )

    @pytest.fixture
    def policy(self, policy: dict[str, str], tmp_path: Path) -> dict[str, str]:
        tiers = "[small]\ntransfer_concurrency = 8\nstorage_bytes = 10_000_000\n" + TIERS
        (tmp_path / "tiers.toml").write_text(tiers)
        return {
            **policy,
            "PROVIDER_UPLOADS_TIER": "small",
            "PROVIDER_UPLOADS_STORAGE_LOOK_S": "0.1",
            "PROVIDER_UPLOADS_SWEEP_QUIET_S": "0.01",
        }

    def uploaded(
        self, queue: UploadQueue, make_file: Callable[..., Path], quick: dict[str, Any]
    ) -> list[str]:
        tickets = []
        for n in range(3):
            tickets.append(queue.submit(make_file(f"{n}.mp4", self.SIZE), **quick))
            queue.result(tickets[-1], timeout_s=20)
        return tickets

    def test_what_does_not_fit_waits_until_something_goes(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        first, *_ = self.uploaded(queue, make_file, quick)
        waits = queue.submit(make_file("more.mp4", self.SIZE), **quick)
        small = queue.submit(make_file("small.mp4", 500_000), **quick)
        queue.result(small, timeout_s=20)
        wait_until(lambda: "lacks" in (queue.status(waits).note or ""), "the reason")
        assert "1,000,000" not in (queue.status(waits).note or "")
        assert queue.status(waits).stage is Stage.QUEUED
        queue.delete(first)
        assert queue.result(waits, timeout_s=20).state == "ACTIVE"
        assert gemini.counters()["operations"]["start"]["by_status"].get("429") is None

    class TestLookedForSeldom:
        @pytest.fixture
        def policy(self, policy: dict[str, str]) -> dict[str, str]:
            return {**policy, "PROVIDER_UPLOADS_STORAGE_LOOK_S": "5"}

        def test_many_that_do_not_fit_are_in_no_way(
            self,
            queue: UploadQueue,
            make_file: Callable[..., Path],
            quick: dict[str, Any],
        ) -> None:
            tickets = TestStorage().uploaded(queue, make_file, quick)
            path = make_file("more.mp4", TestStorage.SIZE)
            waiting = [queue.submit(path, **quick) for _ in range(6)]
            wait_until(lambda: "lacks" in (queue.status(waiting[-1]).note or ""), "the reason")
            queue.result(queue.submit(make_file("small.mp4", 1000), **quick), timeout_s=20)
            queue.answer(queue.ask("What is it?", tickets=tickets[:1]), timeout_s=20)
            assert ended(queue, waiting) == 0

    def test_one_that_waits_for_a_permit_holds_no_room(
        self,
        queue: UploadQueue,
        ledger: Ledger,
        limits: Limits,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        limits.cool_down("default", Work.UPLOAD, 3600.0, "a quota")
        tickets = [queue.submit(make_file(f"{n}.mp4", self.SIZE), **quick) for n in range(3)]

        def all_wait() -> bool:
            return all("a quota" in (one.note or "") for one in queue.statuses(tickets))

        wait_until(all_wait, "the reason")
        assert Storage(ledger).held_bytes("default") == 0
        for ticket in tickets:
            queue.cancel(ticket)

    def test_what_another_one_shares_makes_no_room(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        shared = make_file("shared.mp4", self.SIZE)
        first, other = (queue.submit(shared, reuse=True, **quick) for _ in range(2))
        for ticket in (first, other):
            queue.result(ticket, timeout_s=20)
        owner, user = sorted((first, other), key=lambda one: one not in gemini.files()[0]["name"])
        second = queue.submit(make_file("second.mp4", self.SIZE), **quick)
        queue.result(second, timeout_s=20)
        queue.delete(owner)
        third = queue.submit(make_file("third.mp4", self.SIZE + 1), evict="oldest", **quick)
        queue.result(third, timeout_s=20)
        fourth = queue.submit(make_file("fourth.mp4", self.SIZE + 2), evict="oldest", **quick)
        queue.result(fourth, timeout_s=20)
        assert queue.status(second).copy_at_provider is Copy.DELETED
        assert queue.status(user).copy_at_provider is Copy.PRESENT

    def test_the_oldest_go_where_that_was_asked_for(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        tickets = self.uploaded(queue, make_file, quick)
        oldest = tickets[0]
        more = queue.submit(make_file("more.mp4", self.SIZE), evict="oldest", **quick)
        queue.result(more, timeout_s=20)
        assert queue.status(oldest).copy_at_provider is Copy.DELETED
        names = {file["name"] for file in gemini.files()}
        kept = {queue.result(ticket).id for ticket in (*tickets, more)} - {queue.result(oldest).id}
        assert names == kept

    def test_what_never_fits_is_refused(
        self, queue: UploadQueue, make_file: Callable[..., Path], quick: dict[str, Any]
    ) -> None:
        ticket = queue.submit(make_file("huge.mp4", 10_000_001), **quick)
        with pytest.raises(SourceTooLargeError):
            queue.result(ticket, timeout_s=20)


class TestTheCommands:
    """``provider-uploads tier``, beside workers that obey."""

    @pytest.fixture
    def run(
        self,
        default_worker_env: dict[str, str],
        queue: UploadQueue,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> Callable[..., tuple[int, str]]:
        for name, value in default_worker_env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("COLUMNS", "120")
        settings.cache_clear()

        def run(*arguments: str) -> tuple[int, str]:
            with pytest.raises(SystemExit) as end:
                main(["tier", *arguments])
            said = capsys.readouterr()
            assert isinstance(end.value.code, int)
            return end.value.code, said.out + said.err

        return run

    def test_what_is_set_while_uploads_wait_holds_at_once(
        self,
        run: Callable[..., tuple[int, str]],
        queue: UploadQueue,
        more_workers: Callable[..., WorkerProcess],
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        slow = queue.submit_many([make_file("a.txt")] * 60, profile="slow", **quick)
        wait_until(lambda: ended(queue, slow) > 0, "the first of them, of twenty a minute")
        code, said = run("set", "upload", "unlimited", "--profile", "slow")
        assert code == 0
        assert re.search(r"slow +slow +upload +20/m +no limit", said), said
        more_workers("-Q", "transfer")  # which has never heard of it
        wait_until(lambda: ended(queue, slow) == 60, "all of them")

    def test_a_pause(
        self,
        run: Callable[..., tuple[int, str]],
        queue: UploadQueue,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        code, said = run("set", "upload", "pause", "--profile", "slow")
        assert code == 0
        assert re.search(r"slow +slow +upload +20/m +paused", said), said
        waits = queue.submit(make_file("a.txt"), profile="slow", **quick)
        note = wait_until(lambda: queue.status(waits).note, "a note that says why")
        assert note == "upload is paused; provider-uploads tier set upload tier ends that"
        goes = queue.submit(make_file("a.txt"), **quick)  # another account is not concerned
        assert queue.result(goes, timeout_s=15).state == "ACTIVE"
        assert queue.status(waits).stage is Stage.QUEUED
        assert '"paused": true' in run("show", "--json")[1]
        run("set", "upload", "tier", "--profile", "slow")
        assert queue.result(waits, timeout_s=20).state == "ACTIVE"

    def test_what_holds(self, run: Callable[..., tuple[int, str]], limits: Limits) -> None:
        limits.cool_down("default", Work.UPLOAD, 100.0, "a quota")
        code, table = run("show")
        assert code == 0
        assert re.search(r"default +quick +upload +600/m +600/m +75% +(99|100) s: a quota", table)
        assert "slow: storage 0.00 GB, no limit" in table
        code, lines = run("show", "--json")
        first, *_ = (json.loads(line) for line in lines.splitlines())
        assert first["work"] == "upload"
        assert (first["per_minute"], first["share"], first["why"]) == (600, 0.75, "a quota")

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("set", "upload", "fast"), "write 10/s, 60/m or 500/h, unlimited, pause or tier"),
            (("set", "uploads", "10/s"), "'uploads' is not one of"),
            (("set", "upload", "10/s", "--profile", "other"), "known: default, slow"),
        ],
    )
    def test_what_is_wrong(
        self, run: Callable[..., tuple[int, str]], arguments: tuple[str, ...], told: str
    ) -> None:
        code, said = run(*arguments)
        assert code == 2
        assert told in " ".join(said.split())


def test_celery_and_flower_see_the_tiers_rates(celery_setup: CeleryTestSetup) -> None:
    inspect = celery_setup.app.control.inspect
    (tasks,) = inspect(timeout=60, limit=1).registered("rate_limit").values()
    assert "provider_uploads.upload [rate_limit=600/m]" in tasks
    assert "provider_uploads.poll_until_active [rate_limit=6000/m]" in tasks
    (conf,) = inspect(timeout=60, limit=1).conf().values()
    assert conf["worker_disable_rate_limits"] is True


def test_without_a_worker_nobody_knows_the_tiers(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROVIDER_UPLOADS_REDIS_URL", redis_url)
    with pytest.raises(SystemExit) as end:
        main(["tier", "show"])
    assert end.value.code == 2
    assert "Start one: provider-uploads worker" in " ".join(capsys.readouterr().err.split())
