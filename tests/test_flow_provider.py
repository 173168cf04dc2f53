"""A provider that somebody else wrote: plugged in by its entry point, from submit to sweep."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import CeleryTestSetup

from provider_uploads import Files, Stage, UploadQueue
from provider_uploads.errors import ConfigurationError, UnsupportedOperationError
from provider_uploads.protocol import file_name
from provider_uploads.providers import ENTRY_POINTS, open_provider, provider_of
from provider_uploads.providers.base import Provider
from provider_uploads.schemas import Copy
from provider_uploads.settings import settings
from provider_uploads.sweep import Kind
from tests import folder_provider
from tests.conftest import profile_at
from tests.nodes import wait_until


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """What the provider has."""
    folder = tmp_path / "kept"
    folder.mkdir()
    return folder


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The provider as pip would install it: a module, and metadata that names its entry point."""
    site = tmp_path / "site"
    metadata = site / "folder_provider-1.0.dist-info"
    metadata.mkdir(parents=True)
    shutil.copy(folder_provider.__file__, site / "folder_provider.py")
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: folder-provider\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(
        f"[{ENTRY_POINTS}]\nfolder = folder_provider:Folder\n"
    )
    return site


@pytest.fixture
def policy(
    package: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> dict[str, str]:
    """A worker, and this process too, with the package and a profile for it."""
    profile = {
        "PROVIDER_UPLOADS_PROFILES__ARCHIVE__PROVIDER": "folder",
        "PROVIDER_UPLOADS_PROFILES__ARCHIVE__BASE_URL": str(kept),
        "PROVIDER_UPLOADS_PROFILES__ARCHIVE__API_KEY": "none-is-needed",
    }
    for name, value in profile.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PROVIDER_UPLOADS_ROOTS", str(tmp_path / "files"))
    monkeypatch.syspath_prepend(str(package))
    settings.cache_clear()
    return {**profile, "PYTHONPATH": str(package), "PROVIDER_UPLOADS_SWEEP_QUIET_S": "0.01"}


def test_from_submit_to_active_to_deleted_to_swept(
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    make_file: Callable[..., Path],
    kept: Path,
    quick: dict[str, Any],
) -> None:
    path = make_file("a.txt", 300_000)
    ticket = queue.submit(path, profile="archive", **quick)
    result = queue.result(ticket, timeout_s=60)
    assert (result.provider, result.id, result.state) == ("folder", file_name(ticket, 0), "ACTIVE")
    assert result.polls >= 1  # it was processed first
    assert (kept / file_name(ticket, 0).removeprefix("files/")).read_bytes() == path.read_bytes()
    with Files(profile="archive") as files:
        assert [file.name for file in files.list()] == [result.id]

    assert queue.delete(ticket) is Stage.ACTIVE
    wait_until(lambda: queue.status(ticket).copy_at_provider is Copy.DELETED, "the deletion")
    assert [*kept.iterdir()] == []

    stray = kept / file_name(ticket, 1).removeprefix("files/")
    stray.write_bytes(b"left by a worker that died")
    found = queue.sweep(dry_run=False, quiet_s=0)
    assert [(one.kind, one.profile) for one in found] == [(Kind.STRAY, "archive")]
    assert not stray.exists()


class TestStuck:
    @pytest.fixture
    def policy(self, policy: dict[str, str]) -> dict[str, str]:
        return {**policy, "FOLDER_PROCESSING_S": "3600"}

    def test_an_upload_that_times_out_leaves_nothing(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        make_file: Callable[..., Path],
        kept: Path,
    ) -> None:
        ticket = queue.submit(
            make_file(), profile="archive", timeout_s=0.05, poll_s=0.01, jitter_s=0
        )
        wait_until(lambda: queue.status(ticket).copy_at_provider is Copy.DELETED, "the deletion")
        assert queue.status(ticket).stage is Stage.TIMED_OUT
        assert [*kept.iterdir()] == []


@pytest.mark.usefixtures("policy")
def test_what_it_cannot_do_is_refused(kept: Path) -> None:
    with open_provider("archive") as provider:
        also: Provider = provider  # the protocol, as the type checker reads it
        with pytest.raises(UnsupportedOperationError, match="Use a gemini profile"):
            also.generate("?", [], model="m")


def test_one_that_is_not_installed() -> None:
    with pytest.raises(ConfigurationError, match=r"no provider 'nobody' is installed .*gemini"):
        provider_of(profile_at("http://127.0.0.1:1", provider="nobody"))
