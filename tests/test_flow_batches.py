"""Batches through a real worker, a real Redis and the local Gemini, from submit to results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from provider_uploads import UploadQueue, errors, protocol
from provider_uploads.emulator import EmulatorConfig, LocalGemini
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.schemas import BatchStage
from tests.batching import (
    MODEL,
    QUICK,
    WAIT_S,
    asked,
    counted,
    local_gemini,
    nothing_left,
    write,
)
from tests.nodes import RedisProcess, wait_until


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return local_gemini()


@pytest.fixture
def policy() -> dict[str, str]:
    return QUICK


class TestToTheEnd:
    def test_inline(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        config = {"temperature": 0, "system_instruction": "Be brief"}
        ticket = queue.batch(asked(3, config=config), model=MODEL, display_name="mine")
        result = queue.batch_result(ticket, timeout_s=WAIT_S)
        assert (result.state, result.counts.requests, result.counts.failed) == ("SUCCEEDED", 3, 0)
        answers = list(queue.batch_answers(ticket))
        assert [answer.key for answer in answers] == ["k0", "k1", "k2"]
        assert all(answer.response and answer.error is None for answer in answers)
        wait_until(lambda: nothing_left(gemini), "job deleted")
        wait_until(lambda: queue.batch_status(ticket).at_provider == "deleted", "said so")

    def test_from_a_file(self, queue: UploadQueue, gemini: LocalGemini, tmp_path: Path) -> None:
        gemini.batches.order(failed_keys=["k7"], shuffled=True)
        ticket = queue.batch(write(tmp_path / "in.jsonl", 500), model=MODEL)
        result = queue.batch_result(ticket, timeout_s=WAIT_S)
        assert result.failed_keys == ("k7",)
        assert (result.counts.requests, result.counts.failed) == (500, 1)
        answers = list(queue.batch_answers(ticket))
        assert [answer.key for answer in answers] == [f"k{n}" for n in range(500)]
        assert answers[7].error
        wait_until(lambda: nothing_left(gemini), "job, input and output deleted")

    @pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
    def test_results_in_a_place(self, queue: UploadQueue, tmp_path: Path, name: str) -> None:
        place = tmp_path / name
        ticket = queue.batch(asked(2), model=MODEL, results=place)
        assert queue.batch_result(ticket, timeout_s=WAIT_S).place == str(place)
        assert [answer.key for answer in queue.batch_answers(ticket)] == ["k0", "k1"]

    def test_files_in_requests(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        ready = queue.submit(make_file("ready.mp4"), **quick)
        path = make_file("talk.mp4")
        requests = [
            {"contents": [{"parts": [{"text": "What?"}, {"file": one}]}]}
            for one in (str(path), ready, str(path))
        ]
        ticket = queue.batch(requests, model=MODEL)
        result = queue.batch_result(ticket, timeout_s=WAIT_S)
        assert result.counts.failed == 0
        texts = [json.dumps(answer.response) for answer in queue.batch_answers(ticket)]
        assert "talk.mp4" in texts[0]
        assert "ready.mp4" in texts[1]
        # What was uploaded for the batch goes with it; what its user uploaded stays.
        wait_until(
            lambda: [f["display_name"] for f in gemini.files()] == ["ready.mp4"], "its own deleted"
        )

    def test_kept_until_it_is_deleted(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        ticket = queue.batch(asked(1), model=MODEL, cleanup=False)
        queue.batch_result(ticket, timeout_s=WAIT_S)
        wait_until(lambda: queue.batch_status(ticket).at_provider == "kept", "kept")
        assert not any(job["deleted"] for job in gemini.batches.jobs())
        queue.batch_delete(ticket)
        wait_until(lambda: nothing_left(gemini), "deleted")


class TestFilesThatExpire:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {**QUICK, "PROVIDER_UPLOADS_BATCH_SPARE_S": str(24 * 3600)}

    def test_sent_again_before_the_job_is_created(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
        default_redis_broker: RedisProcess,
    ) -> None:
        """Its row says that it has an hour left."""
        ready = queue.submit(make_file("talk.mp4"), **quick)
        old = queue.result(ready, timeout_s=WAIT_S)
        key = f"{protocol.KEY_PREFIX}upload:{ready}"
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        with default_redis_broker.client as client:
            file = json.loads(str(client.hget(key, "file")))
            client.hset(key, "file", json.dumps({**file, "expires_at": soon}))
        parts = [{"text": "What?"}, {"file": ready}]
        ticket = queue.batch([{"contents": [{"parts": parts}]}], model=MODEL)
        assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.succeeded == 1
        (answer,) = queue.batch_answers(ticket)
        said = json.dumps(answer.response)
        assert "talk.mp4" in said
        assert old.id not in said
        wait_until(lambda: [f["name"] for f in gemini.files()] == [old.id], "its own deleted")


class TestAnswersThatFindNoPlace:
    """They have been paid for."""

    @pytest.fixture
    def policy(self) -> dict[str, str]:
        kept, tries = "PROVIDER_UPLOADS_BATCH_KEPT_BYTES", "PROVIDER_UPLOADS_UPLOAD_TRIES"
        return {**QUICK, kept: "100", tries: "2"}

    @pytest.mark.parametrize("by_file", [False, True])
    def test_they_stay_at_the_provider(
        self, queue: UploadQueue, gemini: LocalGemini, tmp_path: Path, by_file: bool
    ) -> None:
        given: Any = write(tmp_path / "in.jsonl", 5) if by_file else asked(5)
        ticket = queue.batch(given, model=MODEL)
        with pytest.raises(errors.InvalidRequestError, match="stay at the provider") as caught:
            queue.batch_result(ticket, timeout_s=WAIT_S)
        wait_until(lambda: queue.batch_status(ticket).at_provider == "kept", "kept")
        assert queue.sweep(dry_run=False, quiet_s=0) == []
        (job,) = gemini.batches.jobs()
        assert not job["deleted"]
        held = f"files/{job['output_file']}" if by_file else job["name"]
        assert held in str(caught.value)
        queue.batch_delete(ticket)
        wait_until(lambda: nothing_left(gemini), "deleted")

    def test_a_place_that_cannot_be_written(
        self, queue: UploadQueue, gemini: LocalGemini, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        ticket = queue.batch(asked(2), model=MODEL, results=tmp_path / "file" / "out.jsonl")
        with pytest.raises(errors.SourceUnavailableError):
            queue.batch_result(ticket, timeout_s=WAIT_S)
        wait_until(lambda: queue.batch_status(ticket).at_provider == "kept", "kept")
        assert not any(job["deleted"] for job in gemini.batches.jobs())

    def test_a_place_that_may_not_be_written(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        ticket = queue.batch(asked(2), model=MODEL, results="/nowhere/out.jsonl")
        with pytest.raises(errors.SourceNotAllowedError):
            queue.batch_result(ticket, timeout_s=WAIT_S)
        assert counted(gemini, "create_batch") == 0


class TestBadEnds:
    def test_the_service_s_own_error(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        error = {"code": 13, "message": "it broke", "details": [{"@type": "x"}]}
        gemini.batches.order(state="BATCH_STATE_FAILED", error=error)
        ticket = queue.batch(asked(1), model=MODEL)
        with pytest.raises(errors.BatchFailedError, match="it broke") as caught:
            queue.batch_result(ticket, timeout_s=WAIT_S)
        assert caught.value.details == error
        assert queue.batch_status(ticket).stage is BatchStage.FAILED
        wait_until(lambda: nothing_left(gemini), "deleted")

    def test_an_inline_error_with_details(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        bad = {"code": 3, "message": "no", "details": [{"@type": "x", "n": 1}]}
        gemini.batches.order(failed_keys=["k0"], line_error=bad)
        ticket = queue.batch(asked(2), model=MODEL)
        queue.batch_result(ticket, timeout_s=WAIT_S)
        first, second = queue.batch_answers(ticket)
        assert first.error == bad
        assert second.response

    def test_lines_are_checked_before_anything_is_sent(
        self, queue: UploadQueue, gemini: LocalGemini, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "in.jsonl", 3)
        with path.open("a") as file:
            file.write('{"key": "k0", "request": {"contents": "x"}}\n')
        with pytest.raises(errors.BatchInputError) as caught:
            queue.batch(path, model=MODEL)
        assert caught.value.line == 4
        ticket = queue.batch(path, model=MODEL, check=False)
        with pytest.raises(errors.BatchInputError, match="used before"):
            queue.batch_result(ticket, timeout_s=WAIT_S)
        assert gemini.counters()["operations"].get("start", {}).get("requests", 0) == 0
        assert gemini.batches.jobs() == []

    def test_cancelled(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        gemini.batches.order(running_s=3600)
        ticket = queue.batch(asked(1), model=MODEL)
        wait_until(lambda: queue.batch_status(ticket).stage is BatchStage.RUNNING, "running")
        assert queue.batch_cancel(ticket) is BatchStage.RUNNING
        with pytest.raises(errors.BatchCancelledError):
            queue.batch_result(ticket, timeout_s=WAIT_S)
        wait_until(lambda: nothing_left(gemini), "cancelled and deleted")
        assert counted(gemini, "create_batch") == counted(gemini, "delete_batch") == 1

    def test_one_message_at_a_time_cleans_up(
        self, queue: UploadQueue, gemini: LocalGemini, default_redis_broker: RedisProcess
    ) -> None:
        gemini.batches.order(running_s=3600)
        ticket = queue.batch(asked(1), model=MODEL)
        wait_until(lambda: queue.batch_status(ticket).stage is BatchStage.RUNNING, "running")
        ledger = Ledger(default_redis_broker.url)
        with ledger.lease(f"clean-up:{ticket}", 60) as lease:
            assert lease
            queue.batch_cancel(ticket)
            with pytest.raises(errors.BatchCancelledError):
                queue.batch_result(ticket, timeout_s=WAIT_S)
            time.sleep(1)  # ten times the wait between two tries
            assert not counted(gemini, "cancel_batch")
            assert not counted(gemini, "delete_batch")
        wait_until(lambda: nothing_left(gemini), "cancelled and deleted")
        assert counted(gemini, "delete_batch") == 1


class TestDeadlines:
    def test_sent_again_in_parts(
        self, queue: UploadQueue, gemini: LocalGemini, tmp_path: Path
    ) -> None:
        gemini.batches.order(stuck="running")
        ticket = queue.batch(
            write(tmp_path / "in.jsonl", 10),
            model=MODEL,
            deadline_s=0.5,
            on_deadline="resubmit",
            parts=3,
        )
        result = queue.batch_result(ticket, timeout_s=WAIT_S)
        assert (result.counts.requests, result.counts.failed) == (10, 0)
        assert len(result.jobs) == 4
        assert [a.key for a in queue.batch_answers(ticket)] == [f"k{n}" for n in range(10)]
        wait_until(lambda: nothing_left(gemini), "all four deleted")

    def test_cancelled_at_the_deadline(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        gemini.batches.order(stuck="pending")
        ticket = queue.batch(asked(1), model=MODEL, deadline_s=0.3, on_deadline="cancel")
        with pytest.raises(errors.BatchExpiredError):
            queue.batch_result(ticket, timeout_s=WAIT_S)
        assert queue.batch_status(ticket).stage is BatchStage.TIMED_OUT
        wait_until(lambda: nothing_left(gemini), "deleted")

    def test_expired_at_the_service(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        gemini.batches.order(state="BATCH_STATE_EXPIRED", count=2)
        ticket = queue.batch(asked(1), model=MODEL)
        with pytest.raises(errors.BatchExpiredError):
            queue.batch_result(ticket, timeout_s=WAIT_S)
        again = queue.batch(asked(4), model=MODEL, on_deadline="resubmit")
        assert queue.batch_result(again, timeout_s=WAIT_S).counts.succeeded == 4


class TestTrouble:
    def test_polls_through_faults(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        for kind in ("unavailable", "rate_limited_bare", "reset", "bad_json", "internal"):
            gemini.order_fault("get_batch", kind)
        ticket = queue.batch(asked(2), model=MODEL)
        assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.succeeded == 2

    def test_a_download_that_breaks(
        self, queue: UploadQueue, gemini: LocalGemini, tmp_path: Path
    ) -> None:
        gemini.order_fault("download", "unavailable")
        gemini.order_fault("download", "reset")
        ticket = queue.batch(write(tmp_path / "in.jsonl", 200), model=MODEL)
        assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.succeeded == 200


class TestStates:
    @pytest.mark.parametrize(
        ("running", "state"),
        [
            ("JOB_STATE_QUEUED", "JOB_STATE_PARTIALLY_SUCCEEDED"),
            ("BATCH_STATE_ODD", "BATCH_STATE_X"),
        ],
    )
    def test_words_that_are_not_known_survive(
        self, queue: UploadQueue, gemini: LocalGemini, running: str, state: str
    ) -> None:
        gemini.batches.order(running_state=running, running_s=3600, state=state)
        ticket = queue.batch(asked(2), model=MODEL)
        word = running.rpartition("STATE_")[2]
        wait_until(lambda: queue.batch_status(ticket).state == word, word)
        (job,) = gemini.batches.jobs()
        gemini.batches.change(job["name"], running_s=0)
        assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.succeeded == 2

    def test_events_tell_of_batches_and_uploads_alike(
        self, queue: UploadQueue, make_file: Callable[..., Path]
    ) -> None:
        upload, ticket = queue.submit(make_file("a.txt")), queue.batch(asked(1), model=MODEL)
        with queue.events([upload, ticket], timeout_s=WAIT_S) as changes:
            seen = [(one.ticket, one.stage) for one in changes]
        assert (upload, "ACTIVE") in seen
        stages = [stage for one, stage in seen if one == ticket]
        assert stages[-1] == "SUCCEEDED"
        assert stages == sorted(stages, key=[*BatchStage].index)
