"""Revoked by Celery or in Flower: the upload is cancelled, at every stage, and nothing stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from pytest_celery import CeleryTestSetup

from provider_uploads import Stage, UploadQueue
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import UploadCancelledError
from provider_uploads.schemas import Copy
from tests.conftest import KEY
from tests.nodes import WorkerProcess, wait_until
from tests.test_sweep import swept

pytestmark = pytest.mark.slow

MIB = 1024**2


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    """Processing that never ends."""
    return EmulatorConfig(processing_s=3600, api_keys=frozenset({KEY}))


@pytest.fixture
def policy() -> dict[str, str]:
    return {"PROVIDER_UPLOADS_SWEEP_QUIET_S": "0.01"}


def nothing_left(queue: UploadQueue, gemini: LocalGemini, ticket: str) -> bool:
    return (
        queue.status(ticket).copy_at_provider is not Copy.PRESENT
        and gemini.files() == []
        and gemini.counters()["sessions_open"] == 0
    )


def cancelled(queue: UploadQueue, gemini: LocalGemini, ticket: str) -> None:
    """Wait until the upload is cancelled and nothing of it is left, nor found by a sweep."""
    with pytest.raises(UploadCancelledError):
        queue.result(ticket, timeout_s=10)
    wait_until(lambda: nothing_left(queue, gemini, ticket), "the deletion")


def test_while_it_waits_for_active(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
    more_workers: Callable[..., WorkerProcess],
) -> None:
    """Two workers get the command; one of them holds the poll."""
    more_workers()
    ticket = queue.submit(make_file("clip.mp4"), poll_s=0.3, jitter_s=0)
    wait_until(lambda: queue.status(ticket).polls > 0, "a poll")
    celery_setup.app.control.revoke(ticket)
    cancelled(queue, gemini, ticket)
    swept(celery_setup.app)
    assert queue.status(ticket).stage is Stage.CANCELLED
    assert gemini.counters()["operations"]["upload"]["requests"] == 1
    # A poll under way meanwhile may ask for the deletion once more; there is one file to delete.
    assert gemini.counters()["operations"]["delete"]["by_status"]["200"] == 1


def test_while_bytes_move(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
) -> None:
    gemini.order_fault(Operation.UPLOAD, FaultKind.STALL, after_bytes=MIB, stall_s=2)
    ticket = queue.submit(make_file("long.mp4", 20 * MIB))
    wait_until(lambda: queue.status(ticket).stage is Stage.UPLOADING, "bytes moving")
    celery_setup.app.control.revoke(ticket)
    wait_until(lambda: queue.status(ticket).stage is Stage.CANCELLED, "the cancellation")
    cancelled(queue, gemini, ticket)


def test_while_it_is_queued(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
    more_workers: Callable[..., WorkerProcess],
) -> None:
    """A worker that knew before discards the message."""
    celery_setup.app.control.cancel_consumer("transfer", reply=True, timeout=5)
    ticket = queue.submit(make_file("clip.mp4"))
    celery_setup.app.control.revoke(ticket)
    cancelled(queue, gemini, ticket)
    celery_setup.app.control.add_consumer("transfer", reply=True, timeout=5)
    other = queue.submit(make_file("other.txt"))
    assert queue.result(other, timeout_s=20).state == "ACTIVE"  # it serves on
    assert gemini.counters()["operations"]["upload"]["requests"] == 1


def test_in_flower(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    flower: httpx2.Client,
    make_file: Callable[..., Path],
) -> None:
    ticket = queue.submit(make_file("clip.mp4"), poll_s=0.2, jitter_s=0)
    wait_until(lambda: queue.status(ticket).polls > 0, "a poll")
    assert flower.post(f"/api/task/revoke/{ticket}").status_code == 200
    cancelled(queue, gemini, ticket)


def test_a_question(
    queue: UploadQueue, celery_setup: CeleryTestSetup, make_file: Callable[..., Path]
) -> None:
    """It waits for a file that is never ACTIVE."""
    ticket = queue.ask("What is it?", [make_file("clip.mp4")])
    wait_until(lambda: queue.question(ticket).uploads, "the question")
    upload = queue.question(ticket).uploads[0]
    wait_until(lambda: queue.status(upload).stage is Stage.PROCESSING, "its file")
    celery_setup.app.control.revoke(ticket)
    with pytest.raises(UploadCancelledError):
        queue.answer(ticket, timeout_s=10)


def test_a_question_while_the_model_answers(
    queue: UploadQueue, celery_setup: CeleryTestSetup, gemini: LocalGemini
) -> None:
    """The answer comes too late: nobody gets it."""
    gemini.order_fault(Operation.GENERATE, FaultKind.STALL, stall_s=2)
    ticket = queue.ask("What is it?")
    asked = gemini.counters
    wait_until(lambda: asked()["operations"]["generate"]["requests"] == 1, "the request")
    celery_setup.app.control.revoke(ticket)
    result = celery_setup.app.AsyncResult(ticket)
    wait_until(result.ready, "the end of its task")
    assert result.failed()
    with pytest.raises(UploadCancelledError):
        queue.answer(ticket, timeout_s=10)


def test_what_has_ended_or_is_not_ours_stays(
    queue: UploadQueue, celery_setup: CeleryTestSetup, make_file: Callable[..., Path]
) -> None:
    ticket = queue.submit(make_file("notes.txt"))
    assert queue.result(ticket, timeout_s=20).state == "ACTIVE"
    replies = celery_setup.app.control.revoke([ticket, "somebody-elses"], reply=True, timeout=5)
    assert all("ok" in answer for reply in replies for answer in reply.values())
    assert queue.status(ticket).stage is Stage.ACTIVE
    assert queue.status(ticket).copy_at_provider is Copy.PRESENT
