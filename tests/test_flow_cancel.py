"""Cancelled at every stage: nothing goes on, nothing stays, and saying it twice is harmless."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery.result import AsyncResult
from pytest_celery import CeleryTestSetup

from provider_uploads import Stage, UploadQueue
from provider_uploads.cli import main
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import UnknownTicketError, UploadCancelledError
from provider_uploads.schemas import Copy
from provider_uploads.settings import settings
from tests.conftest import KEY
from tests.nodes import RedisProcess, wait_until

MIB = 1024**2


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    """A megabyte a second, and processing that never ends."""
    return EmulatorConfig(processing_s=3600, bandwidth_mib_s=1.0, api_keys=frozenset({KEY}))


def nothing_left(queue: UploadQueue, gemini: LocalGemini, ticket: str) -> bool:
    status = queue.status(ticket)
    return (
        status.copy_at_provider is Copy.DELETED
        and gemini.files() == []
        and gemini.counters()["sessions_open"] == 0
    )


def test_while_bytes_move(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
) -> None:
    ticket = queue.submit(make_file("long.mp4", 30 * MIB))
    wait_until(lambda: queue.status(ticket).sent_bytes > 0, "bytes moving")
    begun = time.monotonic()
    assert queue.cancel(ticket) is Stage.UPLOADING
    result: AsyncResult[object] = AsyncResult(ticket, app=celery_setup.app)
    with pytest.raises(UploadCancelledError):
        result.get(timeout=10)  # the task has ended
    assert time.monotonic() - begun < 5  # of thirty
    wait_until(lambda: nothing_left(queue, gemini, ticket), "the deletion")
    taken = gemini.counters()["bytes_received"]
    assert queue.cancel(ticket) is Stage.CANCELLED
    with pytest.raises(UploadCancelledError, match="was cancelled"):
        queue.result(ticket)
    assert queue.status(ticket).stage is Stage.CANCELLED
    assert gemini.counters()["bytes_received"] == taken < 10 * MIB


def test_while_it_is_processed(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
) -> None:
    ticket = queue.submit(
        make_file(), timeout_s=600, poll_s=0.3, max_poll_s=0.3, jitter_s=0, cleanup_on_timeout=False
    )
    wait_until(lambda: queue.status(ticket).polls > 0, "a poll")
    assert queue.cancel(ticket) is Stage.PROCESSING
    wait_until(lambda: nothing_left(queue, gemini, ticket), "the deletion")
    result: AsyncResult[object] = AsyncResult(ticket, app=celery_setup.app)
    with pytest.raises(UploadCancelledError):
        result.get(timeout=10)
    polls = queue.status(ticket).polls
    assert gemini.counters()["operations"]["get"]["requests"] == polls


class TestUnderALook:
    """The poll is on its way when the upload is cancelled and its file disappears."""

    def test_the_result_says_cancelled_as_the_ledger_does(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
    ) -> None:
        gemini.order_fault(Operation.GET, FaultKind.STALL, stall_s=1.0)
        ticket = queue.submit(make_file(), timeout_s=600, poll_s=0.1, jitter_s=0)
        wait_until(lambda: queue.status(ticket).polls == 1, "a poll")
        assert queue.cancel(ticket) is Stage.PROCESSING
        gemini.advance_clock(49 * 3600)
        result: AsyncResult[object] = AsyncResult(ticket, app=celery_setup.app)
        with pytest.raises(UploadCancelledError):
            result.get(timeout=10)
        assert gemini.counters()["operations"]["get"]["by_status"]["403"] == 1


def test_before_it_begins(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
) -> None:
    app = celery_setup.app
    app.control.cancel_consumer("transfer", reply=True)
    ticket = queue.submit(make_file())
    assert queue.cancel(ticket) is Stage.QUEUED
    app.control.add_consumer("transfer", reply=True)
    result: AsyncResult[object] = AsyncResult(ticket, app=app)
    with pytest.raises(UploadCancelledError):
        result.get(timeout=10)
    assert queue.status(ticket).copy_at_provider is Copy.NONE
    operations = gemini.counters()["operations"]
    assert operations["start"]["requests"] == operations["delete"]["requests"] == 0


def test_what_has_ended_stays(
    queue: UploadQueue,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
    default_redis_broker: RedisProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ticket = queue.submit(make_file("a.txt"))
    result = queue.result(ticket, timeout_s=20)
    assert queue.cancel(ticket) is Stage.ACTIVE
    assert queue.result(ticket) == result
    assert len(gemini.files()) == 1
    with pytest.raises(UnknownTicketError):
        queue.cancel("0" * 32)

    monkeypatch.setenv("PROVIDER_UPLOADS_REDIS_URL", default_redis_broker.url)
    settings.cache_clear()  # a client was made before
    other = queue.submit(make_file("b.mp4"), timeout_s=600)
    wait_until(lambda: queue.status(other).stage is Stage.PROCESSING, "the bytes")
    with pytest.raises(SystemExit) as end:
        main(["cancel", ticket, other])
    assert end.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{ticket}  had ended: ACTIVE",
        f"{other}  cancelled, was PROCESSING",
    ]
    wait_until(lambda: queue.status(other).copy_at_provider is Copy.DELETED, "the deletion")
