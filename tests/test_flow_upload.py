"""The whole road: a client, a real Redis, a real worker, the local Gemini over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from pytest_celery import CeleryTestSetup

from provider_uploads import Stage, UploadQueue, UploadResult, protocol
from provider_uploads.emulator import LocalGemini
from provider_uploads.emulator.config import GOOGLE_URI
from tests.nodes import RedisProcess, wait_until


def test_text_is_active_at_once_and_video_after_polls(
    queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path], quick: dict[str, Any]
) -> None:
    text, video = make_file("notes.txt", 5000), make_file("clip.mp4", 3_000_000)
    tickets = [queue.submit(text, **quick), queue.submit(video, **quick)]
    note, clip = (queue.result(ticket, timeout_s=60) for ticket in tickets)

    assert note.polls == 0
    assert clip.polls >= 1
    assert clip.processing_s > 0
    for result, path, ticket in ((note, text, tickets[0]), (clip, video, tickets[1])):
        assert result.state == "ACTIVE"
        assert result.ticket == ticket
        assert result.id == f"files/pu-{ticket}-0"
        assert result.uri == f"{GOOGLE_URI}/v1beta/{result.id}"
        assert result.display_name == path.name
        assert result.size_bytes == path.stat().st_size
        assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    at_provider = {file["name"]: file["sha256"] for file in gemini.files()}
    assert at_provider == {note.id: note.sha256, clip.id: clip.sha256}
    operations = gemini.counters()["operations"]
    assert operations["start"]["requests"] == 1  # the other one is small
    assert operations["upload"]["requests"] == 2
    assert operations["get"]["requests"] == clip.polls


def test_status_walks_through_the_stages(
    queue: UploadQueue, make_file: Callable[..., Path], quick: dict[str, Any]
) -> None:
    ticket = queue.submit(make_file("clip.mp4"), **quick)
    seen = []

    def ended() -> bool:
        status = queue.status(ticket)
        if status.stage not in seen:
            seen.append(status.stage)
        return status.stage.ended

    wait_until(ended, "the end")
    assert seen[-1] is Stage.ACTIVE
    assert Stage.PROCESSING in seen
    order = list(Stage)
    assert seen == sorted(seen, key=order.index)
    status = queue.status(ticket)
    assert status.sent_bytes == status.size_bytes == 1000
    assert status.copy_at_provider == "present"


def test_many_files_in_one_message(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
    quick: dict[str, Any],
) -> None:
    paths = [make_file(f"{n}.txt", n) for n in range(30)]
    tickets = queue.submit_many(paths, **quick)
    results = [queue.result(ticket, timeout_s=60) for ticket in tickets]
    assert [result.display_name for result in results] == [path.name for path in paths]
    assert [result.size_bytes for result in results] == list(range(30))  # 0: an empty file works
    assert len(gemini.files()) == 30
    assert celery_setup.worker.logs().count(protocol.INGEST + "[") == 2  # received, succeeded


def test_the_result_is_in_celerys_backend_too(
    queue: UploadQueue,
    default_worker_app: Celery,
    default_redis_broker: RedisProcess,
    make_file: Callable[..., Path],
    quick: dict[str, Any],
) -> None:
    """Other applications fetch results by ticket, as long as the provider keeps the files."""
    ticket = queue.submit(make_file("clip.mp4"), **quick)
    stored: AsyncResult[Any] = AsyncResult(ticket, app=default_worker_app)
    assert UploadResult.model_validate(stored.get(timeout=20)) == queue.result(ticket)
    with default_redis_broker.client as redis:
        lifetime_s = redis.ttl(f"celery-task-meta-{ticket}")
    assert 48 * 3600 - 60 < lifetime_s <= 48 * 3600


def test_a_message_from_another_application_is_served(
    queue: UploadQueue, default_worker_app: Celery, make_file: Callable[..., Path]
) -> None:
    """The payload is the interface: a client in any language can send it, without a ledger row."""
    path, ticket = make_file("clip.mp4"), "0" * 31 + "7"
    payload = {
        "version": 1,
        "upload_id": ticket,
        "source": str(path),
        "display_name": "from elsewhere",
        "mime_type": "video/mp4",
        "size_bytes": 1000,
        "patience": {"poll_s": 0.1},
    }
    default_worker_app.send_task(
        protocol.UPLOAD, args=(payload,), task_id=ticket, queue=protocol.TRANSFER_QUEUE
    )
    wait_until(lambda: gemini_has(queue, ticket), "a row for the foreign message")
    assert queue.result(ticket, timeout_s=60).display_name == "from elsewhere"


def gemini_has(queue: UploadQueue, ticket: str) -> bool:
    try:
        return bool(queue.status(ticket))
    except LookupError:
        return False
