"""One job for a batch, whatever breaks; and nothing that is left or waited for in vain."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from provider_uploads import UploadQueue, messages, protocol
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini
from provider_uploads.errors import UnreadableStateError
from provider_uploads.ledger.batches import Batches
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.providers.base import NewJob
from provider_uploads.providers.gemini import Gemini
from provider_uploads.schemas import BatchStage
from provider_uploads.settings import settings
from provider_uploads.sweep import Kind
from tests.batching import MODEL, QUICK, WAIT_S, asked, counted, local_gemini, nothing_left, write
from tests.conftest import profile_at
from tests.nodes import RedisProcess, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return local_gemini()


@pytest.fixture
def policy() -> dict[str, str]:
    return {
        **QUICK,
        "PROVIDER_UPLOADS_LEASE_S": "2",
        "PROVIDER_UPLOADS_LEASE_HELD_RETRY_S": "0.5",
    }


class TestOneJob:
    @pytest.mark.parametrize("kind", [FaultKind.LOST_ANSWER, FaultKind.BAD_JSON])
    def test_a_create_whose_answer_is_lost(
        self, queue: UploadQueue, gemini: LocalGemini, kind: FaultKind
    ) -> None:
        gemini.order_fault("create_batch", kind)
        ticket = queue.batch(asked(2), model=MODEL)
        assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.succeeded == 2
        assert counted(gemini, "create_batch") == 1

    def test_a_create_that_failed_is_made_again(
        self, queue: UploadQueue, gemini: LocalGemini
    ) -> None:
        gemini.order_fault("create_batch", FaultKind.UNAVAILABLE, count=2)
        ticket = queue.batch(asked(2), model=MODEL)
        assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.succeeded == 2
        assert counted(gemini, "create_batch") == 3

    def test_a_429_is_waited_out(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        gemini.order_fault("create_batch", FaultKind.RATE_LIMITED_BARE, count=2)
        ticket = queue.batch(asked(2), model=MODEL)
        assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.succeeded == 2

    def test_a_message_that_comes_three_times(
        self, queue: UploadQueue, gemini: LocalGemini, celery_setup_app: Celery, tmp_path: Path
    ) -> None:
        ticket = queue.batch(write(tmp_path / "in.jsonl", 5), model=MODEL)
        for _ in range(2):
            messages.create_batch_signature(celery_setup_app, ticket).apply_async()
        assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.succeeded == 5
        wait_until(lambda: nothing_left(gemini), "nothing left")
        assert counted(gemini, "create_batch") == 1

    def test_a_ticket_of_the_caller_s(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        ticket = uuid.uuid4().hex
        for _ in range(2):
            assert queue.batch(asked(2), model=MODEL, ticket=ticket) == ticket
        assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.requests == 2
        assert counted(gemini, "create_batch") == 1


class TestSweep:
    """What a client sees that submits and sweeps where no worker runs."""

    @pytest.fixture
    def queue(
        self,
        default_redis_broker: RedisProcess,
        default_worker_env: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[UploadQueue]:
        for name, value in default_worker_env.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        with UploadQueue(default_redis_broker.url) as made:
            yield made

    def found(self, queue: UploadQueue, **options: Any) -> list[tuple[Kind, str]]:
        return [(one.kind, one.subject) for one in queue.sweep(quiet_s=0, **options)]

    def test_a_message_that_was_lost(
        self, queue: UploadQueue, gemini: LocalGemini, default_redis_broker: RedisProcess
    ) -> None:
        ticket = queue.batch(asked(1), model=MODEL)
        assert self.found(queue) == []
        key = f"{protocol.KEY_PREFIX}transfer"
        with default_redis_broker.client as raw:
            raw.delete(key)
            assert self.found(queue, dry_run=False) == [(Kind.LOST, ticket)]
            assert f'"id": "{ticket}"' in str(raw.lindex(key, 0))
        assert self.found(queue) == []

    def test_a_row_that_nobody_can_read_stops_nobody(
        self, queue: UploadQueue, gemini: LocalGemini, default_redis_broker: RedisProcess
    ) -> None:
        bad, ticket = (queue.batch(asked(1), model=MODEL) for _ in range(2))
        with default_redis_broker.client as raw:
            raw.hset(f"{protocol.KEY_PREFIX}batch:{bad}", "request", "{}")
            raw.delete(f"{protocol.KEY_PREFIX}transfer")
        assert {*self.found(queue)} == {(Kind.LOST, ticket), (Kind.UNREADABLE, bad)}
        with pytest.raises(UnreadableStateError, match="batch"):
            queue.batch_status(bad)

    def test_jobs_that_nobody_waits_for(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        gemini.batches.order(running_s=3600, count=9)
        ticket = queue.batch(asked(1), model=MODEL)
        queue.batch_cancel(ticket)
        unknown = uuid.uuid4().hex
        with Gemini(profile_at(gemini.url)) as provider:
            names = [
                provider.batches.create(
                    NewJob(MODEL, label, inline=[{"request": {"contents": []}}])
                ).name
                for label in (f"pu-{ticket}-0 mine", f"pu-{unknown}-0", "somebody else's")
            ]
        stray, foreign = (Kind.STRAY, names[0]), (Kind.UNKNOWN, names[1])
        assert {*self.found(queue)} == {stray, foreign}
        self.found(queue, dry_run=False)  # cancelled
        self.found(queue, dry_run=False)  # and deleted
        assert {*self.found(queue)} == {foreign}
        left = {job["name"]: job["state"] for job in gemini.batches.jobs() if not job["deleted"]}
        assert set(left) == {*names[1:]}
        self.found(queue, dry_run=False, unknown=True)
        self.found(queue, dry_run=False, unknown=True)
        assert self.found(queue) == []
        assert [job["name"] for job in gemini.batches.jobs() if not job["deleted"]] == names[2:]

    def test_an_input_on_its_way_is_moved_by_its_batch(
        self, queue: UploadQueue, gemini: LocalGemini, default_redis_broker: RedisProcess
    ) -> None:
        ledger = Ledger(default_redis_broker.url)
        ticket = queue.batch(asked(1), model=MODEL)
        row = Batches(ledger).read(ticket)
        assert row.stage is BatchStage.QUEUED
        ledger.close()


class TestLimits:
    @pytest.fixture
    def policy(self, tmp_path: Path) -> dict[str, str]:
        tiers = tmp_path / "tiers.toml"
        tiers.write_text(
            "[narrow]\ntransfer_concurrency = 8\nbatch_jobs = 2\n"
            f'batch_tokens = {{ "{MODEL}" = 8, "small" = 5 }}\n'
        )
        return {
            **QUICK,
            "PROVIDER_UPLOADS_TIERS_FILE": str(tiers),
            "PROVIDER_UPLOADS_TIER": "narrow",
        }

    def open_jobs(self, gemini: LocalGemini) -> int:
        ended = ("SUCCEEDED", "CANCELLED", "FAILED")
        return sum(not job["state"].endswith(ended) for job in gemini.batches.jobs())

    def test_no_more_jobs_than_the_tier_allows(
        self, queue: UploadQueue, gemini: LocalGemini
    ) -> None:
        """One of them is somebody else's: what counts is what the provider has."""
        with Gemini(profile_at(gemini.url)) as provider:
            gemini.batches.order(running_s=3600)
            foreign = provider.batches.create(
                NewJob(MODEL, "theirs", inline=[{"request": {"contents": []}}])
            )
        gemini.batches.order(running_s=3600, count=3)
        tickets = [queue.batch(asked(1), model=MODEL) for _ in range(3)]
        wait_until(lambda: self.open_jobs(gemini) == 2, "two jobs")

        def said() -> list[str]:
            statuses = [queue.batch_status(ticket) for ticket in tickets]
            return [one.note for one in statuses if one.note and "batch jobs" in one.note]

        wait_until(lambda: len(said()) == 2, "two wait, and say why")
        assert self.open_jobs(gemini) == 2
        done: set[str] = set()
        while len(done) < 3:
            for job in gemini.batches.jobs():
                if job["name"] != foreign.name and job["name"] not in done:
                    gemini.batches.change(job["name"], running_s=0)
                    done.add(job["name"])
            assert self.open_jobs(gemini) <= 2
        for ticket in tickets:
            queue.batch_result(ticket, timeout_s=WAIT_S)

    def test_enqueued_tokens(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        gemini.batches.order(running_s=3600)
        first = queue.batch(asked(2), model=MODEL)
        wait_until(lambda: queue.batch_status(first).stage is BatchStage.RUNNING, "running")
        second = queue.batch(asked(2), model=MODEL)
        wait_until(
            lambda: "enqueued tokens" in (queue.batch_status(second).note or ""), "waits for tokens"
        )
        (job,) = gemini.batches.jobs()
        gemini.batches.change(job["name"], running_s=0)
        assert queue.batch_result(second, timeout_s=WAIT_S).counts.succeeded == 2

    def test_files_count_by_what_the_ledger_knows(
        self, queue: UploadQueue, make_file: Callable[..., Path]
    ) -> None:
        talk = make_file("talk.mp4", 3_000_000)
        ready = queue.submit(make_file("more.mp4", 3_000_000), timeout_s=15, poll_s=0.05)
        parts = [{"text": "What?"}, {"file": str(talk)}, {"file": ready}]
        ticket = queue.batch([{"contents": [{"parts": parts}]}], model="gemini-2.5-pro")
        queue.batch_result(ticket, timeout_s=WAIT_S)
        seconds = 3_000_000 // 125_000  # as the local Gemini says, not as guessed from the size
        assert queue.batch_status(ticket).tokens == 2 + 2 * 263 * seconds

    def test_more_tokens_than_there_ever_are(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        ticket = queue.batch(asked(2), model="small")
        with pytest.raises(ValueError, match="estimated tokens for small"):
            queue.batch_result(ticket, timeout_s=WAIT_S)
        assert counted(gemini, "create_batch") == 0
