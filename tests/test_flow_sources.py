"""Remote and staged sources, the whole road: real worker, Redis, S3 and HTTPS servers."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import CeleryTestSetup

from provider_uploads import Stage, UploadInactiveError, UploadQueue, protocol
from provider_uploads.emulator import FaultKind, LocalGemini, Operation
from provider_uploads.errors import (
    SourceAddressError,
    SourceChangedError,
    SourceKindError,
    SourceNotFoundError,
    SourceSchemeError,
    UploadFailedError,
)
from provider_uploads.settings import settings
from tests.google_cloud import key_file
from tests.nodes import RedisProcess, WorkerProcess, wait_until
from tests.origins import S3, Origin, plain, truncated, whole
from tests.test_flow_secrets import traffic

pytestmark = pytest.mark.slow

__all__ = ["traffic"]

CONTENT = random.Random(1).randbytes(9_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIGNED = "X-Signature=only-the-ledger-may-know"


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder


@pytest.fixture
def policy(s3_server: S3, origin: Origin, staging: Path) -> dict[str, str]:
    return {
        **s3_server.env,
        "PROVIDER_UPLOADS_SOURCES": "s3,https",
        "PROVIDER_UPLOADS_HTTPS_NETWORKS": "127.0.0.0/8",
        "PROVIDER_UPLOADS_STAGING": str(staging),
        "SSL_CERT_FILE": str(origin.ca_file),
    }


def test_s3_and_https_become_active_with_equal_hashes(
    queue: UploadQueue,
    gemini: LocalGemini,
    s3_server: S3,
    origin: Origin,
    quick: dict[str, Any],
) -> None:
    origin.answers["/clip.mp4"] = whole(CONTENT, ETag='"1"')
    urls = [s3_server.put("bucket/a ü?#.mp4", CONTENT), f"{origin.url}/clip.mp4"]
    tickets = queue.submit_many(urls, **quick)
    assert queue.status(tickets[0]).size_bytes in {None, len(CONTENT)}
    for ticket, url, name in zip(tickets, urls, ("a ü?#.mp4", "clip.mp4"), strict=True):
        result = queue.result(ticket, timeout_s=60)
        assert (result.sha256, result.size_bytes) == (SHA256, len(CONTENT))
        assert (result.display_name, result.mime_type) == (name, "video/mp4")
        status = queue.status(ticket)
        assert status.source == url
        assert status.size_bytes == status.sent_bytes == len(CONTENT)
    assert {file["sha256"] for file in gemini.files()} == {SHA256}


def test_a_broken_connection_is_tried_again_and_another_version_is_not_mixed_in(
    queue: UploadQueue, gemini: LocalGemini, origin: Origin, quick: dict[str, Any]
) -> None:
    answers = {
        "/clip.mp4": iter([plain(503), truncated(CONTENT, 5_000_000), *[whole(CONTENT)] * 9]),
        "/changed.mp4": iter([truncated(CONTENT, 5_000_000), *[whole(CONTENT[:-1])] * 9]),
    }
    origin.always = lambda to: next(answers[to.path])(to)
    gemini.order_fault(Operation.UPLOAD, FaultKind.RESET, match="clip.mp4", after_bytes=7_000_000)
    clip, changed = queue.submit_many([f"{origin.url}{path}" for path in answers], **quick)
    assert queue.result(clip, timeout_s=60).sha256 == SHA256
    with pytest.raises(SourceChangedError):
        queue.result(changed, timeout_s=60)
    wait_until(lambda: queue.status(changed).copy_at_provider == "deleted", "the clean-up")
    assert len(gemini.files()) == 1


def test_what_is_refused_says_why(
    queue: UploadQueue, gemini: LocalGemini, s3_server: S3, origin: Origin
) -> None:
    origin.answers["/away"] = plain(302, Location="https://10.0.0.1/x")
    refusals = (
        (f"{origin.url}/nothing", SourceNotFoundError, "nothing is there"),
        (f"{origin.url}/away", SourceAddressError, "10.0.0.1 has no public address"),
        ("https://[::1]/x", SourceAddressError, "no public address"),
        ("s3://bucket/none", SourceNotFoundError, "s3://bucket/none: nothing is there"),
        ("gs://bucket/x", SourceSchemeError, "PROVIDER_UPLOADS_SOURCES"),
    )
    tickets = queue.submit_many([url for url, *_ in refusals])
    for ticket, (_, error, said) in zip(tickets, refusals, strict=True):
        with pytest.raises(error, match=said):
            queue.result(ticket, timeout_s=60)
    assert gemini.counters()["operations"]["start"]["requests"] == 0


class TestSecrets:
    @pytest.fixture
    def default_worker_command(self) -> list[str]:
        """The most talkative worker: debug log, events on."""
        command = WorkerProcess.command("--task-events")
        at = command.index("INFO")
        return [*command[:at], "DEBUG", *command[at + 1 :]]

    def test_a_signed_query_stays_in_the_ledger_and_goes_with_the_upload(
        self,
        traffic: list[str],
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        default_redis_broker: RedisProcess,
        s3_server: S3,
        origin: Origin,
        quick: dict[str, Any],
    ) -> None:
        turns = iter([plain(503)])
        full = whole(CONTENT)
        origin.answers["/a.mp4"] = lambda to: next(turns, full)(to)
        secret = origin.url.replace("https://", "https://me:a-pass%20word@")
        good, bad = queue.submit_many(
            [f"{secret}/a.mp4?{SIGNED}", f"{secret}/missing.mp4?{SIGNED}"], **quick
        )
        assert queue.result(good, timeout_s=60).sha256 == SHA256
        with pytest.raises(SourceNotFoundError) as caught:
            queue.result(bad, timeout_s=60)
        queue.result(queue.submit(s3_server.put("bucket/log.txt", b"x")), timeout_s=60)
        assert origin.requests[0][0].endswith(SIGNED)
        assert origin.requests[0][1]["Authorization"].startswith("Basic ")
        wait_until(lambda: any("celery-task-meta" in line for line in traffic), "a result")

        parts = ("only-the-ledger", "a-pass", "me:", "a-secret-only", "AKIAONLY")
        outside = [line for line in traffic if f"{protocol.KEY_PREFIX}upload:" not in line]
        assert any("only-the-ledger" in line for line in traffic)
        log = celery_setup.worker.logs()
        assert "DEBUG" in log
        for text in ("\n".join(outside), log, str(caught.value), repr(caught.value.args)):
            assert not [part for part in parts if part in text.replace("name:", "")]
        for ticket in (good, bad):
            assert "only-the-ledger" not in queue.status(ticket).model_dump_json()
            with default_redis_broker.client as client:
                kept = client.hgetall(f"{protocol.KEY_PREFIX}upload:{ticket}")
            assert "only-the-ledger" not in str(kept)


def test_staged_copies_are_gone_at_every_end(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    gemini: LocalGemini,
    staging: Path,
    quick: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROVIDER_UPLOADS_STAGING", str(staging))
    settings.cache_clear()

    def submit(name: str, **options: Any) -> str:
        return queue.submit_stream(io.BytesIO(CONTENT), filename=name, **{**quick, **options})

    gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_FAILED, match="failed.mp4")
    gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_STUCK, match="stuck.mp4")
    celery_setup.worker.kill("SIGSTOP")
    good, note = submit("../../etc/clip.mp4", display_name="a clip"), submit("note.txt")
    failed, stuck = submit("failed.mp4"), submit("stuck.mp4", timeout_s=0.5)
    changed, gone = submit("changed.mp4"), submit("gone.mp4")
    stuck_there = submit("directory.mp4")
    status = queue.status(good)
    assert (status.source, status.size_bytes) == (f"staged://{good}/clip.mp4", len(CONTENT))
    assert len(list(staging.iterdir())) == 7
    (staging / changed).write_bytes(b"xyz")
    (staging / gone).unlink()
    (staging / stuck_there).unlink()
    (staging / stuck_there).mkdir()
    celery_setup.worker.kill("SIGCONT")

    result = queue.result(good, timeout_s=60)
    assert (result.sha256, result.mime_type) == (SHA256, "video/mp4")
    assert result.display_name == "a clip"
    assert queue.result(note, timeout_s=60).polls == 0
    for ticket, error, stage in (
        (failed, UploadFailedError, Stage.FAILED),
        (stuck, UploadInactiveError, Stage.TIMED_OUT),
        (changed, SourceChangedError, Stage.FAILED),
        (gone, SourceNotFoundError, Stage.FAILED),
        (stuck_there, SourceKindError, Stage.FAILED),
    ):
        with pytest.raises(error):
            queue.result(ticket, timeout_s=60)
        assert queue.status(ticket).stage is stage
    wait_until(lambda: f"{protocol.UNSTAGE}[" in celery_setup.worker.logs(), "a second try")
    (staging / stuck_there).rmdir()
    (staging / stuck_there).write_bytes(b"x")
    wait_until(lambda: not list(staging.iterdir()), "the removals")


class TestStagedInABucket:
    @pytest.fixture
    def policy(self, s3_server: S3) -> dict[str, str]:
        return {**s3_server.env, "PROVIDER_UPLOADS_STAGING": "s3://bucket/staging/"}

    def test_one(
        self,
        queue: UploadQueue,
        s3: S3,
        quick: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("PROVIDER_UPLOADS_STAGING", "s3://bucket/staging")
        settings.cache_clear()
        ticket = queue.submit_stream(io.BytesIO(CONTENT), filename="clip.mp4", **quick)
        assert queue.result(ticket, timeout_s=60).sha256 == SHA256
        wait_until(lambda: not s3.has(f"bucket/staging/{ticket}"), "the removal")


class TestRegistered:
    """A bucket that the service can read by itself: nothing is copied."""

    @pytest.fixture
    def policy(self, tmp_path: Path) -> Iterator[dict[str, str]]:
        with key_file(tmp_path) as path:
            yield {
                "GOOGLE_APPLICATION_CREDENTIALS": str(path),
                "PROVIDER_UPLOADS_SOURCES": "gs",
            }

    def test_gs_is_registered_where_there_are_credentials(
        self, queue: UploadQueue, gemini: LocalGemini, quick: dict[str, Any]
    ) -> None:
        ticket = queue.submit("gs://bucket/folder/clip.mp4", **quick)
        result = queue.result(ticket, timeout_s=60)
        assert (result.state, result.mime_type) == ("ACTIVE", "video/mp4")
        (file,) = gemini.files()
        assert (file["name"], file["source"]) == (result.id, "REGISTERED")
        assert gemini.counters()["bytes_received"] == 0
        assert queue.cancel(ticket) is Stage.ACTIVE

    def test_what_the_service_cannot_read_is_said(
        self, queue: UploadQueue, gemini: LocalGemini, quick: dict[str, Any]
    ) -> None:
        gemini.order_fault(Operation.REGISTER, FaultKind.UNAVAILABLE)
        ticket = queue.submit("gs://bucket/a.mp4", **quick)
        assert queue.result(ticket, timeout_s=60).state == "ACTIVE"
        with pytest.raises(SourceSchemeError):
            queue.result(queue.submit("s3://bucket/a.mp4"), timeout_s=60)
