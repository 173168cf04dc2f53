"""Uploads that do not end well: the error reaches the client whole, and nothing stays behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult
from pytest_celery import CeleryTestSetup

from provider_uploads import (
    ResultTimeoutError,
    Stage,
    UploadFailedError,
    UploadInactiveError,
    UploadQueue,
    protocol,
)
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import (
    InvalidCredentialsError,
    InvalidRequestError,
    MissingCredentialsError,
    NewerPayloadError,
    ProviderUnavailableError,
    SourceChangedError,
    SourceNotAllowedError,
    SourceNotFoundError,
)
from provider_uploads.schemas import Copy
from tests.conftest import KEY
from tests.nodes import RedisProcess, wait_until


def deleted(queue: UploadQueue, ticket: str) -> bool:
    return queue.status(ticket).copy_at_provider is Copy.DELETED


class TestTimeout:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=3600, api_keys=frozenset({KEY}))

    def test_the_error_says_all_and_the_file_is_deleted(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        default_worker_app: Celery,
        make_file: Callable[..., Path],
    ) -> None:
        begun = time.monotonic()
        ticket = queue.submit(make_file(), timeout_s=1.5, poll_s=0.1, max_poll_s=0.2, jitter_s=0)
        with pytest.raises(UploadInactiveError) as caught:
            queue.result(ticket, timeout_s=15)
        assert time.monotonic() - begun >= 1.5
        error = caught.value
        assert (error.name, error.state, error.waited_s) == (
            f"files/pu-{ticket}-0",
            "PROCESSING",
            1.5,
        )
        assert error.polls == gemini.counters()["operations"]["get"]["requests"] >= 3
        assert "larger timeout_s" in str(error)
        assert "being deleted" in str(error)
        assert queue.status(ticket).stage is Stage.TIMED_OUT
        wait_until(lambda: deleted(queue, ticket), "deletion")
        assert gemini.files() == []
        # The same class, with its data, for whoever reads Celery's own result.
        stored: AsyncResult[Any] = AsyncResult(ticket, app=default_worker_app)
        with pytest.raises(UploadInactiveError) as again:
            stored.get(timeout=5)
        assert again.value.args == error.args

    def test_the_deletion_is_tried_until_it_works(
        self, queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path]
    ) -> None:
        gemini.order_fault(Operation.DELETE, FaultKind.UNAVAILABLE, count=5)
        ticket = queue.submit(make_file(), timeout_s=0.1, poll_s=0.05)
        with pytest.raises(UploadInactiveError):
            queue.result(ticket, timeout_s=15)
        wait_until(lambda: deleted(queue, ticket), "deletion after five refusals")
        assert gemini.files() == []
        assert gemini.counters()["operations"]["delete"]["requests"] == 6

    def test_a_file_that_is_gone_already_is_deleted(
        self, queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path]
    ) -> None:
        gemini.order_fault(Operation.DELETE, FaultKind.UNAVAILABLE, count=1)
        ticket = queue.submit(make_file(), timeout_s=0.1, poll_s=0.05)
        with pytest.raises(UploadInactiveError):
            queue.result(ticket, timeout_s=15)
        gemini.reset()  # as if somebody else had deleted it
        wait_until(lambda: deleted(queue, ticket), "deletion of nothing")

    def test_cleanup_can_be_declined(
        self, queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path]
    ) -> None:
        ticket = queue.submit(make_file(), timeout_s=0.1, poll_s=0.05, cleanup_on_timeout=False)
        with pytest.raises(UploadInactiveError, match="is kept"):
            queue.result(ticket, timeout_s=15)
        other = queue.submit(make_file("other.mp4"), timeout_s=0.1, poll_s=0.05)
        wait_until(lambda: deleted(queue, other), "deletion of the other")
        assert [file["name"] for file in gemini.files()] == [f"files/pu-{ticket}-0"]
        assert queue.status(ticket).copy_at_provider is Copy.PRESENT

    def test_waiting_for_a_result_can_end_before_the_upload(
        self, queue: UploadQueue, make_file: Callable[..., Path]
    ) -> None:
        ticket = queue.submit(make_file(), timeout_s=60)
        with pytest.raises(ResultTimeoutError) as caught:
            queue.result(ticket, timeout_s=0.3)
        assert caught.value.ticket == ticket
        assert not queue.status(ticket).stage.ended


def test_one_last_look_at_the_deadline_finds_active(
    queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path]
) -> None:
    """The next poll would come after the deadline: it is moved to it, and ACTIVE wins."""
    gemini.order_fault(Operation.GET, FaultKind.UNAVAILABLE)  # the first poll sees nothing
    ticket = queue.submit(
        make_file(), timeout_s=0.8, poll_s=0.05, backoff_factor=100, max_poll_s=None, jitter_s=0
    )
    result = queue.result(ticket, timeout_s=15)
    assert result.polls == 2
    assert 0.8 <= result.processing_s < 5


def test_a_late_worker_still_finds_active(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    make_file: Callable[..., Path],
) -> None:
    """Nobody polled before the deadline; the one late poll sees ACTIVE, and that counts."""
    ticket = queue.submit(make_file(), timeout_s=0.5, poll_s=0.4, jitter_s=0)
    wait_until(lambda: queue.status(ticket).stage is Stage.PROCESSING, "PROCESSING")
    celery_setup.worker.kill("SIGSTOP")
    time.sleep(1.0)  # the deadline passes while nobody works
    celery_setup.worker.kill("SIGCONT")
    assert queue.result(ticket, timeout_s=15).polls == 1


def test_a_failed_file_is_named_and_deleted(
    queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path], quick: dict[str, Any]
) -> None:
    gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_FAILED)
    ticket = queue.submit(make_file(), **quick)
    with pytest.raises(UploadFailedError) as caught:
        queue.result(ticket, timeout_s=15)
    assert caught.value.state == "FAILED"
    assert caught.value.details
    assert caught.value.details["code"]
    assert caught.value.details["message"] in str(caught.value)
    assert queue.status(ticket).stage is Stage.FAILED
    wait_until(lambda: deleted(queue, ticket), "deletion")
    assert gemini.files() == []


@pytest.mark.parametrize("operation", [Operation.START, Operation.UPLOAD, Operation.GET])
def test_trouble_that_passes_is_passed_through(
    operation: Operation,
    queue: UploadQueue,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
    quick: dict[str, Any],
) -> None:
    tickets = []
    for kind in (
        FaultKind.INTERNAL,
        FaultKind.UNAVAILABLE,
        FaultKind.RESET,
        FaultKind.RATE_LIMITED,
    ):
        delay_s = 0.2 if kind is FaultKind.RATE_LIMITED else None
        gemini.order_fault(operation, kind, count=2, match=f"{kind}.mp4", retry_delay_s=delay_s)
        tickets.append(queue.submit(make_file(f"{kind}.mp4", 700_000), **quick))
    results = [queue.result(ticket, timeout_s=20) for ticket in tickets]
    at_provider = sorted(file["sha256"] for file in gemini.files())
    assert at_provider == sorted(result.sha256 or "" for result in results)
    assert len(at_provider) == 4
    assert gemini.counters()["sessions_open"] == 0
    assert [fault["applied"] for fault in gemini.faults()] == [2, 2, 2, 2]


def test_a_reset_midway_goes_on_where_the_server_stands(
    queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path], quick: dict[str, Any]
) -> None:
    size = 8 * 1024 * 1024
    gemini.order_fault(Operation.UPLOAD, FaultKind.RESET, after_bytes=size // 2)
    result = queue.result(queue.submit(make_file(size_bytes=size), **quick), timeout_s=20)
    assert [file["sha256"] for file in gemini.files()] == [result.sha256]
    counters = gemini.counters()
    assert counters["operations"]["start"]["requests"] == 1
    assert counters["operations"]["query"]["requests"] == 1
    # Half of it, then the other half: what was in flight when the connection broke may come twice.
    assert counters["bytes_received"] < size + 2 * 1024 * 1024


class TestSlowTries:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {
            "PROVIDER_UPLOADS_UPLOAD_RETRY_FIRST_S": "0.7",
            "PROVIDER_UPLOADS_UPLOAD_RETRY_JITTER": "0",
        }

    def test_the_status_says_what_it_waits_for(
        self, queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path]
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.INTERNAL)
        ticket = queue.submit(make_file("a.txt"))
        note = wait_until(lambda: queue.status(ticket).note, "a note about the tries")
        assert (note or "").startswith("attempt 1 of 10 failed, next in 0.7 s: upload: ")
        assert queue.result(ticket, timeout_s=15).state == "ACTIVE"
        assert queue.status(ticket).note is None


class TestFewTries:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {"PROVIDER_UPLOADS_UPLOAD_TRIES": "2"}

    def test_a_rate_limit_is_waited_out_however_often(
        self, queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path]
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.RATE_LIMITED, count=5, retry_delay_s=0.3)
        begun = time.monotonic()
        assert queue.result(queue.submit(make_file()), timeout_s=15).state == "ACTIVE"
        assert time.monotonic() - begun >= 5 * 0.3
        assert gemini.counters()["operations"]["upload"]["requests"] == 6

    def test_the_last_try_ends_the_upload_with_its_reason(
        self, queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path]
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.INTERNAL, count=1000)
        ticket = queue.submit(make_file())
        with pytest.raises(ProviderUnavailableError) as caught:
            queue.result(ticket, timeout_s=15)
        assert caught.value.operation == "upload"
        assert caught.value.http_status == 500
        # The session it had opened does not stay open.
        wait_until(lambda: gemini.sessions() == [], "the session is cancelled")


class TestAWrongKey:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {"GEMINI_API_KEY": "a-key-nobody-knows"}

    def test_it_is_named_and_not_shown(
        self, queue: UploadQueue, celery_setup: CeleryTestSetup, make_file: Callable[..., Path]
    ) -> None:
        with pytest.raises(InvalidCredentialsError, match="Check GEMINI_API_KEY") as caught:
            queue.result(queue.submit(make_file()), timeout_s=15)
        assert caught.value.http_status == 400
        assert "a-key-nobody-knows" not in celery_setup.worker.logs()


class TestNoKey:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {"GEMINI_API_KEY": ""}

    def test_it_says_where_to_set_one(
        self, queue: UploadQueue, make_file: Callable[..., Path]
    ) -> None:
        with pytest.raises(MissingCredentialsError, match="Set GEMINI_API_KEY"):
            queue.result(queue.submit(make_file()), timeout_s=15)


def test_the_workers_roots_decide(
    queue: UploadQueue,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    outside = tmp_path_factory.getbasetemp().parent / f"secret-{os.getpid()}.txt"
    outside.write_text("not for upload")
    link = make_file("harmless.txt").with_name("link.txt")
    link.symlink_to(outside)
    for path in (outside, link):
        with pytest.raises(SourceNotAllowedError, match="PROVIDER_UPLOADS_ROOTS"):
            queue.result(queue.submit(path), timeout_s=15)
    assert gemini.counters()["operations"]["start"]["requests"] == 0


def test_a_source_that_vanished_or_changed(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
) -> None:
    gone, grown = make_file("gone.txt"), make_file("grown.txt")
    celery_setup.worker.kill("SIGSTOP")
    tickets = [queue.submit(gone), queue.submit(grown)]
    gone.unlink()
    grown.write_bytes(b"x" * 1001)
    celery_setup.worker.kill("SIGCONT")
    with pytest.raises(SourceNotFoundError, match=r"gone\.txt: no such file"):
        queue.result(tickets[0], timeout_s=15)
    with pytest.raises(FileNotFoundError):  # it is one of those, too
        queue.result(tickets[0])
    with pytest.raises(SourceChangedError, match="1,000 bytes at first, 1,001 later"):
        queue.result(tickets[1], timeout_s=15)
    assert gemini.files() == []


class TestPayloads:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {"PROVIDER_UPLOADS_NEWER_PAYLOAD_RETRY_S": "0.1"}

    def test_a_newer_payload_waits_for_a_newer_worker(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        default_worker_app: Celery,
        default_redis_broker: RedisProcess,
    ) -> None:
        payload = {"version": 99, "upload_id": "a" * 32, "destination": "somewhere new"}
        for name, args in ((protocol.UPLOAD, (payload,)), (protocol.INGEST, ([payload],))):
            default_worker_app.send_task(name, args=args, queue=protocol.CONTROL_QUEUE)
        row = f"{protocol.KEY_PREFIX}upload:{'a' * 32}"
        with default_redis_broker.client as client:
            client.hset(row, "stage", "QUEUED")  # the newer client wrote more, in its own way
            wait_until(lambda: client.hget(row, "note"), "a note")
            assert "payload version 99" in client.hget(row, "note")
        logs = celery_setup.worker
        wait_until(lambda: logs.logs().count("Retry in 0.1s") >= 4, "both come back again")
        assert "Traceback" not in logs.logs()

    def test_a_newer_payload_is_given_up_after_its_day(
        self,
        celery_setup: CeleryTestSetup,
        default_worker_app: Celery,
    ) -> None:
        sent = default_worker_app.send_task(
            protocol.UPLOAD,
            args=({"version": 99, "upload_id": "b" * 32},),
            queue=protocol.TRANSFER_QUEUE,
            retries=2879,
        )
        with pytest.raises(NewerPayloadError, match="upgrade provider-uploads"):
            sent.get(timeout=15)

    def test_a_payload_with_an_unknown_field_is_refused(
        self, celery_setup: CeleryTestSetup, default_worker_app: Celery
    ) -> None:
        payload = {"version": 1, "upload_id": "c" * 32, "source": "/x", "api_key": "k"}
        sent = default_worker_app.send_task(
            protocol.UPLOAD, args=(payload,), queue=protocol.TRANSFER_QUEUE
        )
        with pytest.raises(InvalidRequestError):
            sent.get(timeout=15)
