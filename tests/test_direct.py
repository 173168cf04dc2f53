"""One file to ACTIVE without a queue, as code written for the ancestors calls it."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from provider_uploads import (
    MissingCredentialsError,
    UploadFailedError,
    UploadInactiveError,
    UploadResult,
    aupload_and_wait_active,
    preupload_and_wait_active,
    upload_and_wait_active,
)
from provider_uploads.direct import apreupload_and_wait_active
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.emulator.config import GOOGLE_URI
from provider_uploads.errors import (
    InvalidCredentialsError,
    InvalidRequestError,
    ProviderUnavailableError,
    SourceKindError,
    SourceSchemeError,
)
from provider_uploads.settings import settings
from tests.conftest import KEY
from tests.nodes import wait_until
from tests.origins import Origin, plain, truncated, whole

QUICK: dict[str, Any] = {"poll_s": 0.05, "max_poll_s": 0.1, "jitter_s": 0.0, "timeout_s": 10.0}


@pytest.fixture(autouse=True)
def here(gemini: LocalGemini, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_UPLOADS_BASE_URL", gemini.url)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("PROVIDER_UPLOADS_DIRECT_RETRY_FIRST_S", "0.05")
    settings.cache_clear()


def test_the_guides_two_calls(gemini: LocalGemini, make_file: Callable[..., Path]) -> None:
    path = make_file("sample.mp3", 5000)
    uri = preupload_and_wait_active(path, timeout_s=60.0)
    assert uri.startswith(f"{GOOGLE_URI}/v1beta/files/pu-")
    res = upload_and_wait_active(str(path), timeout_s=90.0, cleanup_on_timeout=True)
    assert (res.provider, res.state) == ("google", "ACTIVE")
    assert res.id.startswith("files/pu-")
    assert res.uri.endswith(res.id)
    assert res.uri != uri  # each call is an upload of its own
    assert res.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("function", "returns"),
    [
        (upload_and_wait_active, "UploadResult"),
        (preupload_and_wait_active, "str"),
        (aupload_and_wait_active, "UploadResult"),
        (apreupload_and_wait_active, "str"),
    ],
)
def test_the_guides_signature_with_its_defaults(function: Callable[..., Any], returns: str) -> None:
    signature = inspect.signature(function)
    assert signature.return_annotation == returns
    parameters = signature.parameters
    assert {name: p.default for name, p in parameters.items() if name != "path"} == {
        "provider": "google",
        "display_name": None,  # ours, as is mime_type
        "mime_type": None,
        "timeout_s": 120.0,
        "poll_s": 2.0,
        "max_poll_s": 10.0,
        "backoff_factor": 1.5,
        "jitter_s": 0.2,
        "cleanup_on_timeout": False,
        "api_key": None,
        "profile": "default",  # ours, behind the guide's
    }
    others = [name for name in parameters if name != "path"]
    assert {parameters[name].kind for name in others} == {inspect.Parameter.KEYWORD_ONLY}


def test_a_name_and_a_type_of_ones_own(gemini: LocalGemini, make_file: Callable[..., Path]) -> None:
    made = upload_and_wait_active(
        make_file("notes.bin"), display_name="Notes", mime_type="text/plain", **QUICK
    )
    assert (made.display_name, made.mime_type) == ("Notes", "text/plain")
    (file,) = gemini.files()
    assert (file["display_name"], file["mime_type"]) == ("Notes", "text/plain")


def test_results_and_errors_for_a_test_of_ones_own() -> None:
    """What a user's stand-in for these functions returns and raises."""
    made = UploadResult(id="files/a", uri="https://x/files/a", mime_type="video/mp4")
    assert (made.provider, made.state, made.polls) == ("google", "ACTIVE", 0)
    failed = UploadFailedError("files/a", "FAILED", {"message": "broken"})
    slow = UploadInactiveError("files/a", "PROCESSING", 60.0, 3)
    for error in (failed, slow):  # as the ancestors' are
        assert isinstance(error, RuntimeError)
        assert error.provider == "google"
    assert failed.details == {"message": "broken"}
    assert slow.details == {"waited_s": 60.0, "polls": 3, "last_poll": ""}
    other = UploadFailedError("file-1", "error", None, "openai")
    assert UploadFailedError(*other.args).provider == "openai"
    assert failed.args == ("files/a", "FAILED", {"message": "broken"})  # what older readers know


@pytest.mark.parametrize("timing", ["timeout_s", "poll_s", "max_poll_s"])
@pytest.mark.parametrize("value", [0, -1])
def test_no_time_at_all_is_refused(
    timing: str, value: float, make_file: Callable[..., Path]
) -> None:
    timings: dict[str, Any] = {timing: value}
    with pytest.raises(ValueError, match=timing):
        upload_and_wait_active(make_file(), **timings)


class TestProcessing:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=3600, api_keys=frozenset({KEY}))

    def test_a_video_is_waited_for(
        self, gemini: LocalGemini, make_file: Callable[..., Path]
    ) -> None:
        def looks() -> int:
            return int(gemini.counters()["operations"]["get"]["requests"])

        options = {**QUICK, "timeout_s": 60.0}
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(upload_and_wait_active, make_file("clip.mp4"), **options)
            wait_until(lambda: looks() >= 5, "looks that see PROCESSING")
            gemini.advance_clock(3600)
            result = waiting.result(timeout=30)
        assert result.polls == looks() >= 5
        assert result.processing_s >= 0.3


def test_no_cap_on_the_waits(gemini: LocalGemini, make_file: Callable[..., Path]) -> None:
    options = QUICK | {"max_poll_s": None, "backoff_factor": 1000.0, "timeout_s": 2.0}
    gemini.order_fault(Operation.GET, FaultKind.UNAVAILABLE)  # the first poll sees nothing
    result = upload_and_wait_active(make_file("clip.mp4"), **options)
    assert result.polls == 2  # after 0.05 s, and the last one at the deadline instead of at 50 s
    assert 2.0 <= result.processing_s < 40


class TestKeys:
    def test_the_argument_wins(self, make_file: Callable[..., Path]) -> None:
        with pytest.raises(InvalidCredentialsError):
            upload_and_wait_active(make_file(), api_key="another", **QUICK)

    def test_then_ours_then_the_sdks(
        self, monkeypatch: pytest.MonkeyPatch, make_file: Callable[..., Path]
    ) -> None:
        monkeypatch.setenv("GEMINI_API_KEY", "another")
        settings.cache_clear()
        with pytest.raises(InvalidCredentialsError):
            upload_and_wait_active(make_file(), **QUICK)
        monkeypatch.setenv("PROVIDER_UPLOADS_API_KEY", KEY)
        settings.cache_clear()
        assert upload_and_wait_active(make_file(), **QUICK).state == "ACTIVE"

    @pytest.mark.parametrize("api_key", [None, ""])
    def test_none(
        self,
        monkeypatch: pytest.MonkeyPatch,
        make_file: Callable[..., Path],
        gemini: LocalGemini,
        api_key: str | None,
    ) -> None:
        monkeypatch.setenv("GEMINI_API_KEY", "")
        settings.cache_clear()
        with pytest.raises(MissingCredentialsError):
            upload_and_wait_active(make_file(), api_key=api_key, **QUICK)
        assert gemini.counters()["operations"]["start"]["requests"] == 0


class TestWrongInput:
    def test_a_missing_path(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such file"):
            upload_and_wait_active(tmp_path / "missing.mp3")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SourceKindError, match="is a directory"):
            upload_and_wait_active(tmp_path)

    def test_a_provider_nobody_knows(self, make_file: Callable[..., Path]) -> None:
        with pytest.raises(NotImplementedError, match="provider 'acme' is not known"):
            upload_and_wait_active(make_file(), provider="acme")

    @pytest.mark.parametrize("timeout_s", [0.0, -1.0, math.nan, math.inf])
    def test_a_time_that_is_none(self, make_file: Callable[..., Path], timeout_s: float) -> None:
        with pytest.raises(InvalidRequestError, match=r"patience\.timeout_s"):
            upload_and_wait_active(make_file(), timeout_s=timeout_s)


class TestBadEnds:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=3600, api_keys=frozenset({KEY}))

    @pytest.mark.parametrize("cleanup", [True, False])
    def test_a_timeout(
        self, gemini: LocalGemini, make_file: Callable[..., Path], cleanup: bool
    ) -> None:
        options = QUICK | {"timeout_s": 0.3}
        with pytest.raises(UploadInactiveError) as caught:
            upload_and_wait_active(make_file(), cleanup_on_timeout=cleanup, **options)
        error = caught.value
        assert (error.state, error.waited_s) == ("PROCESSING", 0.3)
        assert error.polls == gemini.counters()["operations"]["get"]["requests"]
        assert len(gemini.files()) == (0 if cleanup else 1)
        assert ("is deleted" if cleanup else "is kept") in str(error)

    def test_polls_that_fail_are_polls_that_saw_nothing(
        self, gemini: LocalGemini, make_file: Callable[..., Path]
    ) -> None:
        gemini.order_fault(Operation.GET, FaultKind.UNAVAILABLE, count=1000)
        with pytest.raises(UploadInactiveError, match="the last poll failed: get: the provider"):
            upload_and_wait_active(make_file(), **QUICK | {"timeout_s": 0.2})


@pytest.mark.parametrize("cleanup", [True, False])
def test_a_file_the_provider_cannot_use(
    gemini: LocalGemini, make_file: Callable[..., Path], cleanup: bool
) -> None:
    gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_FAILED)
    with pytest.raises(UploadFailedError) as caught:
        upload_and_wait_active(make_file(), cleanup_on_timeout=cleanup, **QUICK)
    assert caught.value.state == "FAILED"
    assert caught.value.details
    assert len(gemini.files()) == (0 if cleanup else 1)


def test_a_broken_connection_is_resumed(
    gemini: LocalGemini, make_file: Callable[..., Path]
) -> None:
    size = 8 * 1024 * 1024
    gemini.order_fault(Operation.UPLOAD, FaultKind.RESET, after_bytes=size // 2)
    result = upload_and_wait_active(make_file("clip.mp4", size), **QUICK)
    assert [file["sha256"] for file in gemini.files()] == [result.sha256]
    counters = gemini.counters()
    assert counters["operations"]["start"]["requests"] == 1
    assert counters["bytes_received"] < size + 2 * 1024 * 1024


def test_what_stays_broken_is_raised_and_leaves_no_session(
    gemini: LocalGemini, make_file: Callable[..., Path]
) -> None:
    gemini.order_fault(Operation.UPLOAD, FaultKind.RATE_LIMITED, count=1000, retry_delay_s=0.01)
    begun = time.monotonic()
    with pytest.raises(ProviderUnavailableError):
        upload_and_wait_active(make_file(), **QUICK)
    assert time.monotonic() - begun > 0.05 + 0.1 + 0.2 + 0.4  # between its five tries
    assert gemini.counters()["operations"]["upload"]["requests"] == 5
    assert gemini.sessions() == []


class TestAsync:
    def test_the_loop_is_free_meanwhile(
        self, gemini: LocalGemini, make_file: Callable[..., Path]
    ) -> None:
        paths = [make_file(f"{n}.mp4") for n in range(5)]

        async def many() -> tuple[list[Any], int]:
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.01)
                    ticks += 1

            ticking = asyncio.create_task(tick())
            results = await asyncio.gather(*(aupload_and_wait_active(p, **QUICK) for p in paths))
            ticking.cancel()
            return results, ticks

        results, ticks = asyncio.run(many())
        assert {result.state for result in results} == {"ACTIVE"}
        assert ticks > 10
        assert len(gemini.files()) == 5

    def test_errors_are_the_same(self, make_file: Callable[..., Path], tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            asyncio.run(apreupload_and_wait_active(tmp_path / "missing"))
        with pytest.raises(NotImplementedError):
            asyncio.run(aupload_and_wait_active(make_file(), provider="acme"))
        assert asyncio.run(apreupload_and_wait_active(make_file("a.txt"))).startswith("http")


class TestCancelling:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=3600, bandwidth_mib_s=1, api_keys=frozenset({KEY}))

    def test_while_bytes_move_the_session_is_given_up(
        self, gemini: LocalGemini, make_file: Callable[..., Path]
    ) -> None:
        path = make_file("long.mp4", 20 * 1024 * 1024)

        async def cancel_midway() -> None:
            uploading = asyncio.create_task(aupload_and_wait_active(path, **QUICK))
            await asyncio.to_thread(
                wait_until,
                lambda: any(s["received_bytes"] > 0 for s in gemini.sessions()),
                "bytes moving",
            )
            uploading.cancel()
            await uploading

        begun = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(cancel_midway())
        assert time.monotonic() - begun < 10  # twenty seconds of bytes
        assert gemini.sessions() == []
        assert gemini.files() == []

    def test_while_it_waits(self, make_file: Callable[..., Path]) -> None:
        async def cancel_soon() -> None:
            async with asyncio.timeout(0.5):
                await aupload_and_wait_active(make_file(), **QUICK)

        with pytest.raises(TimeoutError):
            asyncio.run(cancel_soon())


def test_a_url_is_read_by_the_caller_itself(
    gemini: LocalGemini, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{origin.url}/clip.mp4?signature=secret"
    with pytest.raises(SourceSchemeError, match="PROVIDER_UPLOADS_SOURCES") as caught:
        upload_and_wait_active(url, **QUICK)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("PROVIDER_UPLOADS_SOURCES", "https")
    monkeypatch.setenv("PROVIDER_UPLOADS_HTTPS_NETWORKS", "127.0.0.0/8")
    monkeypatch.setenv("SSL_CERT_FILE", str(origin.ca_file))
    settings.cache_clear()
    content = bytes(700_000)
    turns = iter([plain(503), truncated(content, 300_000), whole(content)])
    origin.always = lambda to: next(turns)(to)
    result = upload_and_wait_active(url, **QUICK)
    assert result.sha256 == hashlib.sha256(content).hexdigest()
    assert (result.display_name, result.mime_type) == ("clip.mp4", "video/mp4")
    assert origin.requests[-1][0] == "/clip.mp4?signature=secret"
