"""The files a key holds: the quickstart's verbs, as Python calls and as commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.oauth2.credentials import Credentials

from provider_uploads import Files, MissingCredentialsError, upload_and_wait_active
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import (
    FileGoneError,
    InvalidCredentialsError,
    InvalidRequestError,
    ProviderUnavailableError,
)
from provider_uploads.files import file_name
from provider_uploads.settings import settings
from tests.conftest import KEY


@pytest.fixture(autouse=True)
def here(gemini: LocalGemini, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_UPLOADS_BASE_URL", gemini.url)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    settings.cache_clear()


@pytest.fixture
def files() -> Iterator[Files]:
    with Files() as made:
        yield made


def test_get_by_name_by_id_and_by_uri(files: Files, make_file: Callable[..., Path]) -> None:
    sent = upload_and_wait_active(make_file("clip.mp4"), poll_s=0.05)
    for name in (sent.id, sent.id.removeprefix("files/"), sent.uri):
        found = files.get(name)
        assert (found.name, found.state, found.size_bytes) == (sent.id, "ACTIVE", 1000)
        assert found.sha256 == sent.sha256
        assert found.expires_at == sent.expires_at
        assert found.created_at
        assert found.expires_at
        assert 47 * 3600 < (found.expires_at - found.created_at).total_seconds() <= 48 * 3600
        assert found.source == "UPLOADED"
        assert found.video
        assert set(found.video) == {"videoDuration"}


def test_list_asks_for_pages_as_they_are_needed(
    files: Files, gemini: LocalGemini, make_file: Callable[..., Path]
) -> None:
    names = {upload_and_wait_active(make_file(f"{n}.txt")).id for n in range(7)}
    assert {file.name for file in files.list(page_size=3)} == names

    def asked() -> int:
        return int(gemini.counters()["operations"]["list"]["requests"])

    assert asked() == 3
    gemini.clear_counters()
    some = files.list(page_size=3)
    assert asked() == 0
    next(some)
    assert asked() == 1
    assert [*files.list(page_size=100)]


def test_an_empty_list(files: Files) -> None:
    assert [*files.list()] == []


@pytest.mark.parametrize("page_size", [0, -1, 101])
def test_a_page_that_cannot_be(files: Files, page_size: int) -> None:
    with pytest.raises(InvalidRequestError, match="between 1 and 100"):
        files.list(page_size)


def test_delete(files: Files, gemini: LocalGemini, make_file: Callable[..., Path]) -> None:
    sent = upload_and_wait_active(make_file("a.txt"))
    assert files.delete(sent.uri) is True
    assert gemini.files() == []
    assert files.delete(sent.id) is False  # gone is success
    with pytest.raises(FileGoneError, match="delete: the file is not there"):
        files.delete(sent.id, missing_ok=False)
    with pytest.raises(FileGoneError):
        files.get(sent.id)


def test_another_key_sees_nothing_of_it(make_file: Callable[..., Path]) -> None:
    with Files(api_key="another") as others, pytest.raises(InvalidCredentialsError):
        [*others.list()]


def test_trouble_on_a_later_page(
    files: Files, gemini: LocalGemini, make_file: Callable[..., Path]
) -> None:
    for n in range(3):
        upload_and_wait_active(make_file(f"{n}.txt"))
    gemini.order_fault(Operation.LIST, FaultKind.INTERNAL, nth=2)
    listed = files.list(page_size=2)
    assert [next(listed), next(listed)]
    with pytest.raises(ProviderUnavailableError):
        next(listed)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("files/abc-1", "files/abc-1"),
        ("abc", "files/abc"),
        ("https://generativelanguage.googleapis.com/v1beta/files/a-b", "files/a-b"),
        ("http://127.0.0.1:8080/genai/v1beta/files/file-x_1", "files/file-x_1"),
    ],
)
def test_names(given: str, name: str) -> None:
    assert file_name(given) == name


@pytest.mark.parametrize("given", ["", "files/", "a/b", "files/../x", "x?key=1", "gs://b/o", "a b"])
def test_names_that_are_none(files: Files, gemini: LocalGemini, given: str) -> None:
    for call in (files.get, files.delete):
        with pytest.raises(InvalidRequestError, match="write it as files/<id>"):
            call(given)
    assert all(count["requests"] == 0 for count in gemini.counters()["operations"].values())


class TestRegister:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig()

    def test_files_of_a_bucket(self, files: Files) -> None:
        uris = ["gs://bucket/report.pdf", "gs://bucket/clip.mp4"]
        found = files.register(uris, Credentials(token="a-token"))  # type: ignore[no-untyped-call]
        assert [file.uri for file in found] == uris
        assert {(file.state, file.source) for file in found} == {("ACTIVE", "REGISTERED")}
        assert files.get(found[0].name).uri == uris[0]

    @pytest.mark.parametrize("uri", ["s3://b/o", "gs://b", "gs://b/", "report.pdf", ""])
    def test_what_is_no_object_of_a_bucket(self, files: Files, uri: str) -> None:
        with pytest.raises(InvalidRequestError, match="gs://bucket/object"):
            files.register(["gs://b/o", uri])

    def test_credentials_that_are_of_no_use(self, files: Files) -> None:
        with pytest.raises(MissingCredentialsError, match="gcloud auth application-default login"):
            files.register(["gs://b/o"], AnonymousCredentials())  # type: ignore[no-untyped-call]

    def test_no_credentials(
        self, files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        with pytest.raises(MissingCredentialsError, match="Google Cloud"):
            files.register(["gs://b/o"])


def test_the_commands(gemini: LocalGemini, make_file: Callable[..., Path]) -> None:
    sent = upload_and_wait_active(make_file("clip.mp4"), poll_s=0.05)

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "provider_uploads", "files", *arguments],
            env={**os.environ, "COLUMNS": "160"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    code, said = run("list")
    assert code == 0
    assert said.splitlines()[0].split() == [
        *("Name", "Display", "name", "State", "Size", "MIME", "type", "Expires"),
    ]
    assert sent.id in said
    assert "clip.mp4" in said
    code, said = run("get", "--json", sent.uri)
    assert (code, json.loads(said)["sha256"]) == (0, sent.sha256)
    assert run("delete", sent.id) == (0, f"{sent.id}: deleted\n")
    assert run("delete", sent.id) == (0, f"{sent.id}: was not there\n")
    code, said = run("delete", "--must-exist", sent.id)
    assert (code, "the file is not there" in said) == (2, True)
    assert run("list", "--json") == (0, "")
    assert run("register", "s3://b/o")[0] == 2
