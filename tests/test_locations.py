"""What names a source, and how much of it may be shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from provider_uploads import locations
from provider_uploads.errors import (
    ConfigurationError,
    InvalidRequestError,
    SourceNotFoundError,
    SourceSchemeError,
)
from provider_uploads.requests import request_for
from provider_uploads.settings import settings
from provider_uploads.sources.open import open_source


@pytest.mark.parametrize(
    "path",
    ["a:b", "C:\\clip.mp4", "c:/clip.mp4", "./https://x", "/https://x", "https:/x", "://", "s3:"],
)
def test_paths(path: str) -> None:
    assert locations.scheme_of(path) is None
    with pytest.raises(SourceNotFoundError):
        request_for(path)


def test_a_file_of_an_odd_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:b").write_text("x")
    assert request_for("a:b").source == str(tmp_path / "a:b")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/p", "https://h/p"),
        ("HTTPS://me:pw@h:1/p?q#f", "https://h:1/p"),
        ("https://me@h?q", "https://h"),
        ("https://h/p@x/y?z@w", "https://h/p@x/y"),
        ("ftp://me:p@ss@h/p", "ftp://h/p"),
        ("s3://b/k?#@", "s3://b/k?#@"),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    assert locations.shown(url) == shown
    assert locations.credential(url) == (None if url == shown else url)


@pytest.mark.parametrize(
    ("url", "name", "mime_type"),
    [
        ("https://h/a/clip.mp4?x=/y.txt", "clip.mp4", "video/mp4"),
        ("https://h/a%20b%2Fc.pdf", "c.pdf", "application/pdf"),
        ("https://h/", "file", "application/octet-stream"),
        ("https://h", "file", "application/octet-stream"),
        ("s3://b/k/a%20b?.png", "a%20b?.png", "image/png"),
        ("gs://b/ü/notes.txt", "notes.txt", "text/plain"),
    ],
)
def test_names_and_types(url: str, name: str, mime_type: str) -> None:
    request = request_for(url)
    assert (request.display_name, request.mime_type) == (name, mime_type)
    assert request.size_bytes is None
    given = request_for(url, display_name="mine", mime_type="audio/wav")
    assert (given.display_name, given.mime_type) == ("mine", "audio/wav")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://me:pw@h/p?secret", r"http://h/p is not read: http:// is not encrypted"),
        ("ftp://me:pw@h/p?secret", r"ftp:// is not known here\. Use a path, or s3://"),
        ("file:///etc/passwd", "not known here"),
        ("staged://" + "a" * 32 + "/x", "not known here"),
    ],
)
def test_schemes_that_no_worker_reads(url: str, said: str) -> None:
    with pytest.raises(SourceSchemeError, match=said) as caught:
        request_for(url)
    assert "secret" not in repr(caught.value) + str(caught.value)
    assert "pw" not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://", "https:///p", "https://h:0/", "https://me:secret", "https://h/ x", "s3://b",
            "s3://b/", "s3:///k", "gs://me:secret@b/k", "https://h\\@secret/"]
)  # fmt: skip
def test_urls_that_cannot_be_meant(url: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        request_for(url)
    assert "secret" not in repr(caught.value)


def test_the_client_s_own_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with roots: without any the worker decides."""
    assert request_for("s3://b/k").source == "s3://b/k"
    monkeypatch.setenv("PROVIDER_UPLOADS_SOURCES", "gs, https")
    settings.cache_clear()
    with pytest.raises(SourceSchemeError, match="Set PROVIDER_UPLOADS_SOURCES"):
        request_for("s3://b/k")
    assert request_for("gs://b/k").source == "gs://b/k"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SOURCES", "s3,ftp", "SOURCES: 'ftp' is none of s3, gs, https"),
        ("HTTPS_NETWORKS", "10.0.0.0/33", "HTTPS_NETWORKS"),
        ("HTTPS_TIMEOUT_S", "0", "HTTPS_TIMEOUT_S"),
    ],
)
def test_settings_that_are_wrong(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"PROVIDER_UPLOADS_{name}", value)
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match=said):
        settings()


def test_nothing_remote_is_opened_unless_switched_on() -> None:
    for url in ("s3://b/k", "gs://b/k", "https://h/p"):
        with pytest.raises(SourceSchemeError, match="not switched on"):
            open_source(url)
