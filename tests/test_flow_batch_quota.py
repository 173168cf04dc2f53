"""The account's enqueued tokens are full: the service takes a job, and fails it with code 8."""

from __future__ import annotations

import pytest

from provider_uploads import UploadQueue, errors
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini
from provider_uploads.providers.base import NewJob
from provider_uploads.providers.gemini import Gemini
from provider_uploads.schemas import BatchStage
from tests.batching import MODEL, QUICK, WAIT_S, asked, counted, local_gemini, nothing_left, write
from tests.conftest import profile_at
from tests.nodes import wait_until

pytestmark = pytest.mark.slow

#: A question of ``asked`` counts three tokens.
ROOM = 20


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return local_gemini(max_enqueued_tokens=ROOM)


def note(queue: UploadQueue, ticket: str) -> str:
    return queue.batch_status(ticket).note or ""


def theirs(gemini: LocalGemini) -> str:
    """Let a job that nobody here knows of take all the room, until it is told to end."""
    gemini.batches.order(running_s=3600)
    with Gemini(profile_at(gemini.url)) as provider:
        inline = [{"request": {"contents": [{"parts": [{"text": "x" * 4 * ROOM}]}]}}]
        name = provider.batches.create(NewJob(MODEL, "theirs", inline=inline)).name
    wait_until(lambda: gemini.batches.jobs()[0]["phase"] == "running", "theirs runs")
    return name


class TestWaits:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        """Only the end of a job of ours can end the wait."""
        return {**QUICK, "PROVIDER_UPLOADS_BATCH_FULL_FIRST_S": "3600"}

    def test_until_a_job_of_ours_has_ended(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        gemini.batches.order(running_s=3600)
        first = queue.batch(asked(5), model=MODEL)
        wait_until(lambda: queue.batch_status(first).state == "RUNNING", "the first runs")
        second = queue.batch(asked(5), model=MODEL)
        wait_until(lambda: "has no room for tokens" in note(queue, second), "the second waits")
        status = queue.batch_status(second)
        assert (status.stage, status.state, status.running_s) == (BatchStage.QUEUED, None, 0)
        assert f"{ROOM} enqueued tokens of models/{MODEL}" in note(queue, second)

        other = queue.batch(asked(5), model="gemini-2.5-pro")  # whose tokens are its own
        assert queue.batch_result(other, timeout_s=WAIT_S).counts.succeeded == 5
        third = queue.batch(asked(5), model=MODEL)  # knows it from the second, and creates nothing
        wait_until(lambda: "has no room for tokens" in note(queue, third), "the third waits")
        assert counted(gemini, "create_batch") == 3

        gemini.batches.change(queue.batch_status(first).jobs[0], running_s=0)
        for ticket in (first, second, third):
            assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.succeeded == 5
        wait_until(lambda: nothing_left(gemini), "nothing left")


class TestTriesAgain:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        first, most = "PROVIDER_UPLOADS_BATCH_FULL_FIRST_S", "PROVIDER_UPLOADS_BATCH_FULL_MAX_S"
        return {**QUICK, first: "0.2", most: "0.5"}

    @pytest.mark.parametrize("by_file", [False, True])
    def test_until_there_is_room(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        tmp_path_factory: pytest.TempPathFactory,
        by_file: bool,
    ) -> None:
        """Its input is sent once, and no more than one job of it is ever there."""
        foreign = theirs(gemini)
        given = write(tmp_path_factory.mktemp("in") / "in.jsonl", 5) if by_file else asked(5)
        ticket = queue.batch(given, model=MODEL)
        wait_until(lambda: counted(gemini, "create_batch") >= 5, "it tries again and again")
        left = [job["name"] for job in gemini.batches.jobs() if not job["deleted"]]
        assert foreign in left
        assert len(left) <= 3  # the one that was refused last, and the one that is tried now
        gemini.batches.change(foreign, running_s=0)
        result = queue.batch_result(ticket, timeout_s=WAIT_S)
        assert (result.state, result.counts.succeeded) == ("SUCCEEDED", 5)
        assert [one.key for one in queue.batch_answers(ticket)] == [f"k{n}" for n in range(5)]
        assert counted(gemini, "upload") == by_file

    def test_another_failure_is_none_that_passes(
        self, queue: UploadQueue, gemini: LocalGemini
    ) -> None:
        error = {"code": 9, "message": "billing is off"}
        gemini.batches.order(state="BATCH_STATE_FAILED", error=error)
        ticket = queue.batch(asked(1), model=MODEL)
        with pytest.raises(errors.BatchFailedError, match="billing is off"):
            queue.batch_result(ticket, timeout_s=WAIT_S)
        assert counted(gemini, "create_batch") == 1


class TestGivesUp:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {
            **QUICK,
            "PROVIDER_UPLOADS_BATCH_FULL_FIRST_S": "0.2",
            "PROVIDER_UPLOADS_BATCH_WAIT_S": "2",
        }

    def test_after_the_longest_wait(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        foreign = theirs(gemini)
        ticket = queue.batch(asked(5), model=MODEL)
        with pytest.raises(errors.BatchFailedError, match="enqueued tokens") as caught:
            queue.batch_result(ticket, timeout_s=WAIT_S)
        assert (caught.value.details or {})["code"] == 8
        gemini.batches.change(foreign, running_s=0)


class TestAskedToComeBackMuchLater:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {**QUICK, "PROVIDER_UPLOADS_PROVIDER_RETRY_AFTER_MAX_S": "0.3"}

    @pytest.mark.parametrize("operation", ["create_batch", "list_batches", "delete_batch"])
    def test_no_longer_than_a_provider_may_ask_for(
        self, queue: UploadQueue, gemini: LocalGemini, operation: str
    ) -> None:
        gemini.order_fault(operation, FaultKind.RATE_LIMITED, retry_delay_s=86_400.0)
        ticket = queue.batch(asked(2), model=MODEL)
        assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.succeeded == 2
        wait_until(lambda: nothing_left(gemini), "nothing left", WAIT_S)
