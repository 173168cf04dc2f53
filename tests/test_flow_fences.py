"""However often a message is delivered, one provider file results and one chain of polls."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pytest_celery import CeleryTestSetup

from provider_uploads import Stage, UploadInactiveError, UploadQueue, messages, protocol
from provider_uploads.backoff import Backoff
from provider_uploads.emulator import EmulatorConfig, LocalGemini
from provider_uploads.fleet.breaker import Breaker
from provider_uploads.fleet.limits import Limits
from provider_uploads.fleet.polls import Polls
from provider_uploads.ledger.state import ClaimResult
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.providers.gemini import Gemini
from provider_uploads.schemas import Copy, PollPolicy, UploadRequest
from provider_uploads.sources.open import open_source
from tests.conftest import KEY, profile_at
from tests.nodes import RedisProcess, wait_until

TICKET = "f" * 32


@pytest.fixture
def rows(default_redis_broker: RedisProcess) -> Any:
    made = Ledger(default_redis_broker.url)
    yield made
    made.close()


def request_for(path: Path, **poll_policy: Any) -> UploadRequest:
    return UploadRequest(
        upload_id=TICKET,
        source=str(path),
        display_name=path.name,
        mime_type="video/mp4",
        size_bytes=path.stat().st_size,
        poll_policy=PollPolicy(jitter_s=0, **poll_policy),
    )


def send_upload(app: Celery, request: UploadRequest) -> None:
    messages.upload_signature(app, request).apply_async()


def send_look(app: Celery, attempt: int) -> None:
    app.send_task(
        protocol.POLL,
        args=(TICKET,),
        task_id=TICKET,
        queue=protocol.CONTROL_QUEUE,
        retries=attempt,
    )


def claim_poll(ledger: Ledger, attempt: int) -> None:
    """Claim a poll for a message that is not there."""
    tag = "a living message's tag"
    limits = Limits(ledger, lambda profile, work: None)
    polls = Polls(ledger, limits, Breaker(ledger, failures=5, probes=Backoff(1.0)))
    assert polls.begin(TICKET, DEFAULT_PROFILE, attempt, tag).claim is ClaimResult.GO


def logged(setup: CeleryTestSetup, task: str, outcome: str, times: int = 1) -> None:
    """Wait until the worker has logged ``task``'s ``outcome`` so many times."""

    def count() -> bool:
        lines = [line for line in setup.worker.logs().splitlines() if f"Task {task}[" in line]
        return sum(outcome in line for line in lines) >= times

    wait_until(count, f"{times} x {task} {outcome}")


def finish_at_provider(ledger: Ledger, gemini: LocalGemini, request: UploadRequest) -> None:
    """Do what an upload does before its worker dies between the ledger and the publication."""
    ledger.open([request])
    row = ledger.read(TICKET)
    with (
        Gemini(profile_at(gemini.url)) as provider,
        open_source(request.source) as source,
    ):
        url = provider.start(row.name, request, source.size_bytes)
        row = ledger.uploading(row, url) or row
        ledger.processing(row, provider.send(url, source, name=row.name))


def test_copies_of_an_upload_send_its_bytes_once(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    default_worker_app: Celery,
    rows: Ledger,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
) -> None:
    """An `ingest` that is delivered twice sends such copies: other messages, same ticket."""
    request = request_for(make_file(size_bytes=3_000_000), poll_s=0.5)
    rows.open([request])
    for _ in range(5):
        send_upload(default_worker_app, request)
    result = queue.result(TICKET, timeout_s=20)
    wait_until(lambda: held_messages(default_worker_app) == 0, "all copies end", 20)
    operations = gemini.counters()["operations"]
    assert operations["start"]["requests"] == 1
    assert operations["upload"]["requests"] == 1
    assert operations["get"]["requests"] == result.polls
    assert len(gemini.files()) == 1


def held_messages(app: Celery) -> int:
    """Messages that are queued, waiting for a countdown, or being worked on."""
    with app.connection_for_read() as connection:
        client: Any = getattr(connection.default_channel, "client")  # noqa: B009 - Redis only
        waiting = client.hlen("unacked")
        return int(waiting) + sum(
            int(client.llen(name)) for name in (protocol.TRANSFER_QUEUE, protocol.CONTROL_QUEUE)
        )


def test_a_second_delivery_comes_back_while_the_lease_is_held(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    default_worker_app: Celery,
    rows: Ledger,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
) -> None:
    request = request_for(make_file(), poll_s=0.1)
    rows.open([request])
    with rows.lease(TICKET, ttl_s=20) as lease:  # as another worker would
        assert lease is not None
        send_upload(default_worker_app, request)
        logged(celery_setup, protocol.UPLOAD, "Retry in 0.3s", times=2)
        assert gemini.counters()["operations"]["start"]["requests"] == 0
        assert queue.status(TICKET).stage is Stage.QUEUED
    assert queue.result(TICKET, timeout_s=10).state == "ACTIVE"


@pytest.fixture
def policy() -> dict[str, str]:
    return {"PROVIDER_UPLOADS_LEASE_HELD_RETRY_S": "0.3"}


def test_the_answer_is_given_again_until_a_look_is_taken(
    queue: UploadQueue,
    default_worker_app: Celery,
    rows: Ledger,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
) -> None:
    """PROCESSING with no poll: the next message may never have been sent."""
    request = request_for(make_file(), poll_s=0.1)
    finish_at_provider(rows, gemini, request)
    gemini.clear_counters()
    send_upload(default_worker_app, request)
    assert queue.result(TICKET, timeout_s=10).polls >= 1
    operations = gemini.counters()["operations"]
    assert operations["start"]["requests"] == operations["upload"]["requests"] == 0


def test_a_stale_upload_ends_quietly_once_a_look_is_taken(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    default_worker_app: Celery,
    rows: Ledger,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
) -> None:
    request = request_for(make_file())
    finish_at_provider(rows, gemini, request)
    claim_poll(rows, 0)
    gemini.clear_counters()
    send_upload(default_worker_app, request)
    logged(celery_setup, protocol.UPLOAD, "ignored")
    assert queue.status(TICKET).stage is Stage.PROCESSING
    assert all(count["requests"] == 0 for count in gemini.counters()["operations"].values())
    assert held_messages(default_worker_app) == 0


def test_stale_polls_end_quietly(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    default_worker_app: Celery,
    rows: Ledger,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
) -> None:
    """A lower number, or the same number in another message, asks the provider nothing."""
    finish_at_provider(rows, gemini, request_for(make_file(), poll_s=0.05))
    claim_poll(rows, 3)
    gemini.clear_counters()
    for attempt in (0, 2, 3):
        send_look(default_worker_app, attempt)
    logged(celery_setup, protocol.POLL, "ignored", times=3)
    assert gemini.counters()["operations"]["get"]["requests"] == 0
    assert queue.status(TICKET).stage is Stage.PROCESSING
    send_look(default_worker_app, 4)
    assert queue.result(TICKET, timeout_s=10).state == "ACTIVE"


class TestAfterTheEnd:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=3600, api_keys=frozenset({KEY}))

    def test_the_same_message_again_repeats_the_deletion(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        default_worker_app: Celery,
        rows: Ledger,
        gemini: LocalGemini,
        default_redis_broker: RedisProcess,
        make_file: Callable[..., Path],
    ) -> None:
        """A worker that died after the ledger's TIMED_OUT and before the deletion was sent."""
        ticket = queue.submit(make_file(), timeout_s=0.6, poll_s=0.6, jitter_s=0)
        with default_redis_broker.client as client:
            unacked = f"{protocol.KEY_PREFIX}unacked"

            def poll() -> str | None:
                waiting = [json.loads(held)[0] for held in client.hvals(unacked)]
                polls = [m for m in waiting if m["headers"]["task"] == protocol.POLL]
                return json.dumps(polls[0]) if polls else None

            message = wait_until(poll, "a poll waiting for its countdown")
            with pytest.raises(UploadInactiveError):
                queue.result(ticket, timeout_s=10)
            wait_until(lambda: gemini.files() == [], "the deletion")
            # Back to the moment before it was sent; the redelivered message has the same tag.
            client.hset(
                f"{protocol.KEY_PREFIX}upload:{ticket}", "copy_at_provider", Copy.PRESENT.value
            )
            gemini.clear_counters()
            client.lpush(f"{protocol.KEY_PREFIX}{protocol.CONTROL_QUEUE}", message)
        wait_until(lambda: queue.status(ticket).copy_at_provider is Copy.DELETED, "deleted again")
        operations = gemini.counters()["operations"]
        assert operations["get"]["requests"] == 0
        assert operations["delete"]["requests"] == 1
        assert queue.status(ticket).stage is Stage.TIMED_OUT


def test_a_withdrawn_upload_is_not_sent(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    default_worker_app: Celery,
    rows: Ledger,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
) -> None:
    """A publication that failed for the client may have arrived all the same."""
    request = request_for(make_file())
    rows.open([request])
    rows.withdrawn([TICKET])
    send_upload(default_worker_app, request)
    logged(celery_setup, protocol.UPLOAD, "raised expected: UploadCancelledError")
    assert gemini.counters()["operations"]["start"]["requests"] == 0
    assert gemini.counters()["operations"]["delete"]["requests"] == 0  # nothing was there
    assert queue.status(TICKET).stage is Stage.CANCELLED
