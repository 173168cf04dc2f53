"""One slow or odd party does not hold the others: real workers beside servers that misbehave."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from provider_uploads import Stage, UploadInactiveError, UploadQueue
from provider_uploads.doctor.fleet import ask
from provider_uploads.doctor.workers import agreement_in
from provider_uploads.emulator import EmulatorConfig, LocalGemini
from provider_uploads.errors import FileGoneError, InvalidRequestError, SourceUnavailableError
from provider_uploads.fleet.api_keys import fingerprint
from provider_uploads.fleet.breaker import outage
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.settings import Settings
from tests.conftest import KEY
from tests.nodes import RedisProcess, WorkerProcess, wait_until
from tests.origins import Answer, Origin, plain, whole

pytestmark = pytest.mark.slow

OTHER_KEY = "another-key-of-the-same-profile"
SLOTS = 8


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return EmulatorConfig(processing_s=3600, api_keys=frozenset({KEY, OTHER_KEY}))


@pytest.fixture
def policy(origin: Origin) -> dict[str, str]:
    return {
        "PROVIDER_UPLOADS_SOURCES": "https",
        "PROVIDER_UPLOADS_HTTPS_NETWORKS": "127.0.0.0/8",
        "PROVIDER_UPLOADS_REMOTE_RETRY_S": "0.1",
        "PROVIDER_UPLOADS_HTTPS_SLOW_FOR_S": "60",
        "PROVIDER_UPLOADS_SOURCE_RETRY_AFTER_MAX_S": "0.2",
        "PROVIDER_UPLOADS_BREAKER_FAILURES": "3",
        "SSL_CERT_FILE": str(origin.ca_file),
    }


def trickling(origin: Origin) -> Answer:
    """Announce a megabyte and send a byte at a time, until the test is over."""

    def answer(to: BaseHTTPRequestHandler) -> None:
        to.send_response(200)
        to.send_header("Content-Length", "1000000")
        to.end_headers()
        while not origin.ended.wait(0.02):
            to.wfile.write(b"x")

    return answer


class TestSlowSources:
    def test_they_leave_slots_for_local_files_and_do_not_count_for_the_provider(
        self,
        queue: UploadQueue,
        origin: Origin,
        gemini: LocalGemini,
        default_redis_broker: RedisProcess,
        make_file: Callable[..., Path],
    ) -> None:
        origin.answers["/slow.txt"] = trickling(origin)
        slow = queue.submit_many([f"{origin.url}/slow.txt"] * 40)
        wait_until(lambda: len(gemini.sessions()) >= SLOTS, "half of the slots send slowly", 30)
        for _ in range(3):
            local = queue.submit(make_file("a.txt"))
            assert queue.result(local, timeout_s=10).state == "ACTIVE"
        assert {queue.status(ticket).stage for ticket in slow} <= {Stage.QUEUED, Stage.UPLOADING}
        sending = [t for t in slow if queue.status(t).stage is Stage.UPLOADING]
        for ticket in slow:
            queue.cancel(ticket)
        wait_until(lambda: not gemini.sessions(), "sessions given up", 30)
        assert len(sending) >= SLOTS
        assert outage(Ledger(default_redis_broker.url), "default") is None
        local = queue.submit(make_file("a.txt"))
        assert queue.result(local, timeout_s=10).state == "ACTIVE"

    def test_what_a_server_asks_for_is_capped(
        self, queue: UploadQueue, origin: Origin, quick: dict[str, Any]
    ) -> None:
        answers = [plain(503, Retry_After="99999"), whole(b"x" * 100)]
        origin.answers["/a.txt"] = lambda to: answers.pop(0)(to)
        ticket = queue.submit(f"{origin.url}/a.txt", **quick)
        assert queue.result(ticket, timeout_s=15).state == "ACTIVE"


class TestTooSlow:
    @pytest.fixture
    def policy(self, policy: dict[str, str]) -> dict[str, str]:
        return policy | {
            "PROVIDER_UPLOADS_HTTPS_SLOW_FOR_S": "0.3",
            "PROVIDER_UPLOADS_UPLOAD_TRIES": "2",
        }

    def test_a_source_below_the_least_rate_is_given_up(
        self, queue: UploadQueue, origin: Origin
    ) -> None:
        origin.answers["/slow.txt"] = trickling(origin)
        with pytest.raises(SourceUnavailableError, match="bytes a second, less than 16,000"):
            queue.result(queue.submit(f"{origin.url}/slow.txt"), timeout_s=20)


@pytest.mark.parametrize("poll_s", [40.0, 86_400.0])
def test_the_deadline_bounds_the_first_poll_too(
    queue: UploadQueue, make_file: Callable[..., Path], poll_s: float
) -> None:
    begun = time.monotonic()
    ticket = queue.submit(make_file("a.mp4"), poll_s=poll_s, max_poll_s=None, timeout_s=1)
    with pytest.raises(UploadInactiveError):
        queue.result(ticket, timeout_s=20)
    assert time.monotonic() - begun < 10


def test_waits_of_ages_are_refused(queue: UploadQueue, make_file: Callable[..., Path]) -> None:
    for field in ("poll_s", "timeout_s", "jitter_s", "max_poll_s"):
        options: Any = {field: 1e300}
        with pytest.raises(InvalidRequestError, match="at most 30 days"):
            queue.submit(make_file("a.txt"), **options)


def test_workers_with_different_keys_are_told_of(
    queue: UploadQueue,
    more_workers: Callable[..., WorkerProcess],
    default_redis_broker: RedisProcess,
    make_file: Callable[..., Path],
    celery_setup: Any,
) -> None:
    """A file of one key is not there for the other."""
    ticket = queue.submit(make_file("a.mp4"), poll_s=3, jitter_s=0)
    wait_until(lambda: queue.status(ticket).stage is Stage.PROCESSING, "PROCESSING")
    more_workers("-Q", "control", GEMINI_API_KEY=OTHER_KEY)
    celery_setup.worker.kill()
    with pytest.raises(FileGoneError, match="Workers have different keys for profile default"):
        queue.result(ticket, timeout_s=60)
    more_workers("-Q", "transfer")
    told = ask(Settings(redis_url=default_redis_broker.url))
    problems = [check.says for check in agreement_in(told, Settings())]
    both = sorted(map(fingerprint, (KEY, OTHER_KEY)))
    assert any(
        "different keys for profile default" in said and all(one in said for one in both)
        for said in problems
    ), problems


@pytest.mark.parametrize("model", ["../../v1beta/files", "a/../b", "..", ".x", "a b", "x" * 300])
def test_a_model_is_a_name(queue: UploadQueue, model: str) -> None:
    with pytest.raises(InvalidRequestError, match="model"):
        queue.ask("What?", model=model)


def test_what_the_sdk_refuses_before_it_sends_is_the_caller_s_error(queue: UploadQueue) -> None:
    """An option that only Vertex AI has: google-genai raises a ValueError."""
    asked = queue.ask("What?", config={"audio_timestamp": True})
    with pytest.raises(InvalidRequestError, match="google-genai refuses it: ValueError"):
        queue.answer(asked, timeout_s=15)
