"""The public names, and what importing them costs a web app."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import provider_uploads


def test_the_public_names() -> None:
    assert provider_uploads.__all__ == [
        "UploadQueue",
        "AsyncUploadQueue",
        "upload_and_wait_active",
        "preupload_and_wait_active",
        "aupload_and_wait_active",
        "apreupload_and_wait_active",
        "generate",
        "Files",
        "ProviderFile",
        "UploadResult",
        "UploadStatus",
        "Stage",
        "Answer",
        "ProviderUploadsError",
        "TransientError",
        "PermanentError",
        "QueueUnavailableError",
        "ResultTimeoutError",
        "SourceError",
        "UploadFailedError",
        "UploadInactiveError",
        "MissingCredentialsError",
        "MissingDependencyError",
    ]


@pytest.mark.parametrize("name", provider_uploads.__all__)
def test_each_is_there_and_explained(name: str) -> None:
    assert getattr(provider_uploads, name).__doc__


def test_a_star_import_brings_these_only(tmp_path: Path) -> None:
    code = "before = set(dir()); from provider_uploads import *; print(*set(dir()) - before)"
    assert set(run(code, tmp_path).split()) - {"before"} == set(provider_uploads.__all__)


def test_a_client_loads_nothing_that_only_workers_need(tmp_path: Path) -> None:
    loaded = run(
        "import sys, provider_uploads; provider_uploads.UploadQueue(); print(*sys.modules)",
        tmp_path,
    ).split()
    heavy = ("google.genai", "google", "httpx2", "httpx", "starlette", "uvicorn", "flower")
    ours = (
        "provider_uploads.emulator",
        "provider_uploads.providers.gemini",
        "provider_uploads.cli",
    )
    assert [name for name in (*heavy, *ours, "tasks", "config", "rich") if name in loaded] == []


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
