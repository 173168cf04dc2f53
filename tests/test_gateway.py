"""Through a gateway: what arrives, what is found again, and what is refused unasked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provider_uploads import (
    Files,
    UploadInactiveError,
    UploadQueue,
    apreupload_and_wait_active,
    preupload_and_wait_active,
    upload_and_wait_active,
)
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import ConfigurationError, InvalidRequestError, PermanentError
from provider_uploads.errors import UnsupportedOperationError as Unsupported
from tests.conftest import KEY
from tests.nodes import wait_until

MIB = 1024**2

PROVIDERS = ("gemini", "openai", "anthropic", "bedrock")


def variables(base_url: str) -> dict[str, str]:
    """Profiles for all providers behind the gateway there."""
    found: dict[str, str] = {}
    for name in PROVIDERS:
        prefix = f"PROVIDER_UPLOADS_PROFILES__{name.upper()}__"
        found |= {
            f"{prefix}API_KEY": KEY,
            f"{prefix}BASE_URL": f"{base_url}/genai",
            f"{prefix}HEADERS": f'{{"x-model-provider": "{name}"}}',
        }
    return found


def asked(gemini: LocalGemini) -> int:
    """How many requests it got."""
    return sum(counted["requests"] for counted in gemini.counters()["operations"].values())


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    """It takes the first request's body for the whole file."""
    return EmulatorConfig(processing_s=0.2, api_keys=frozenset({KEY}), gateway_finalizes_first=True)


@pytest.fixture
def profiles(gemini: LocalGemini, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables(gemini.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PROVIDER_UPLOADS_DIRECT_RETRY_FIRST_S", "0.01")


@pytest.mark.usefixtures("profiles")
class TestDirect:
    @pytest.mark.parametrize("profile", ["gemini", "openai"])
    def test_20_mib_arrive_whole(
        self,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
        profile: str,
    ) -> None:
        path = make_file("long.mp4", 20 * MIB)
        result = upload_and_wait_active(path, profile=profile, **quick)
        assert result.state == "ACTIVE"
        assert result.size_bytes == 20 * MIB
        assert result.mime_type == "video/mp4"  # which the gateway forgets
        if profile == "openai":
            assert (result.provider, result.uri) == ("openai", "")
            assert result.id.startswith("file-")
        else:
            assert result.provider == "google"
            assert result.uri.endswith(result.id)
            (file,) = gemini.files()
            assert file["sha256"] == result.sha256

    def test_the_id_stands_for_a_uri_that_is_not_given(
        self, make_file: Callable[..., Path], quick: dict[str, Any]
    ) -> None:
        options = {"profile": "openai", **quick}
        assert preupload_and_wait_active(make_file(), **options).startswith("file-")
        found = asyncio.run(apreupload_and_wait_active(make_file(), **options))
        assert found.startswith("file-")

    @pytest.mark.parametrize("profile", ["gemini", "openai"])
    @pytest.mark.parametrize("after_bytes", [0, 300_000])
    def test_a_broken_connection_leaves_one_file(
        self,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
        profile: str,
        after_bytes: int,
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.RESET, after_bytes=after_bytes)
        result = upload_and_wait_active(make_file("a.mp4", MIB), profile=profile, **quick)
        assert result.state == "ACTIVE"
        with Files(profile=profile) as files:
            (file,) = files.list()
        assert (file.name, file.size_bytes) == (result.id, MIB)

    @pytest.mark.parametrize("profile", ["gemini", "openai"])
    def test_cleaned_up_by_the_name_it_was_given(
        self,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
        profile: str,
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_STUCK)
        with pytest.raises(UploadInactiveError, match="is deleted"):
            upload_and_wait_active(
                make_file(), profile=profile, cleanup_on_timeout=True, **{**quick, "timeout_s": 0.3}
            )
        with Files(profile=profile) as files:
            assert [*files.list()] == []

    @pytest.mark.parametrize("profile", ["gemini", "openai"])
    def test_the_users_own_display_name_is_shown(
        self, make_file: Callable[..., Path], quick: dict[str, Any], profile: str
    ) -> None:
        """There ours is put before it, so that an interrupted upload finds its file again."""
        made = upload_and_wait_active(make_file(), profile=profile, display_name="My clip", **quick)
        with Files(profile=profile) as files:
            assert [file.display_name for file in files.list()] == ["My clip"]
            assert files.get(made.id).display_name == made.display_name == "My clip"

    @pytest.mark.parametrize("profile", ["anthropic", "bedrock"])
    def test_no_files_there(
        self, gemini: LocalGemini, make_file: Callable[..., Path], profile: str
    ) -> None:
        calls: list[Callable[[Files], object]] = [
            lambda files: [*files.list()],
            lambda files: files.get("files/x"),
            lambda files: files.delete("files/x"),
        ]
        with Files(profile=profile) as files:
            for call in calls:
                with pytest.raises(Unsupported, match=rf"{profile} cannot \w+ files here. Use "):
                    call(files)
        with pytest.raises(Unsupported, match=f"{profile} cannot upload"):
            upload_and_wait_active(make_file(), profile=profile)
        assert not asked(gemini)

    @pytest.mark.parametrize("profile", PROVIDERS)
    def test_nothing_is_registered_through_a_gateway(
        self, gemini: LocalGemini, profile: str
    ) -> None:
        with Files(profile=profile) as files, pytest.raises(Unsupported, match="without a gateway"):
            files.register(["gs://bucket/a.pdf"])

    def test_an_empty_file_is_refused_unasked(
        self, gemini: LocalGemini, make_file: Callable[..., Path]
    ) -> None:
        with pytest.raises(PermanentError, match="empty"):
            upload_and_wait_active(make_file(size_bytes=0), profile="gemini")
        assert not asked(gemini)


class TestQueue:
    @pytest.fixture
    def default_worker_env(
        self, default_worker_env: dict[str, str], gemini: LocalGemini
    ) -> dict[str, str]:
        return default_worker_env | variables(gemini.url)

    def test_two_accounts_side_by_side(
        self, queue: UploadQueue, make_file: Callable[..., Path], quick: dict[str, Any]
    ) -> None:
        path = make_file("in.jsonl", 12 * MIB)
        tickets = [queue.submit(path, profile=name, **quick) for name in ("default", "openai")]
        here, there = (queue.result(ticket, timeout_s=60) for ticket in tickets)
        assert (here.provider, there.provider) == ("google", "openai")
        assert here.sha256 == there.sha256
        assert there.size_bytes == 12 * MIB
        assert queue.status(tickets[1]).profile == "openai"

    @pytest.mark.usefixtures("profiles")
    def test_what_timed_out_is_deleted(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_STUCK)
        ticket = queue.submit(make_file(), profile="openai", **{**quick, "timeout_s": 0.5})
        with pytest.raises(UploadInactiveError):
            queue.result(ticket, timeout_s=60)
        with Files(profile="openai") as files:
            wait_until(lambda: not [*files.list()], "the deletion")

    def test_what_cannot_be_is_said_by_name(
        self, queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path]
    ) -> None:
        ticket = queue.submit(make_file(), profile="anthropic")
        with pytest.raises(Unsupported, match="anthropic cannot upload files here"):
            queue.result(ticket, timeout_s=60)
        ticket = queue.submit(make_file(), profile="nobody")
        with pytest.raises(ConfigurationError, match="no profile 'nobody' here"):
            queue.result(ticket, timeout_s=60)
        assert not asked(gemini)

    def test_a_key_does_not_travel(
        self, queue: UploadQueue, make_file: Callable[..., Path]
    ) -> None:
        secret: Any = "s3cret"
        with pytest.raises(InvalidRequestError, match="would travel in a message") as one:
            queue.submit(make_file(), api_key=secret)
        with pytest.raises(InvalidRequestError, match="would travel in a message") as many:
            queue.submit_many([make_file()], api_key=secret)
        assert secret not in f"{one.value}{many.value}"
        with pytest.raises(InvalidRequestError, match="profile"):
            queue.submit(make_file(), profile="Not A Name")
