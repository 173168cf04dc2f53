"""Objects in buckets, against a real S3 server and against none."""

from __future__ import annotations

import json
import random
import tracemalloc
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from provider_uploads.errors import (
    SourceChangedError,
    SourceKindError,
    SourceNotFoundError,
    SourceUnavailableError,
    SourceUnreadableError,
)
from provider_uploads.sources.base import Source, SourcePolicy
from provider_uploads.sources.buckets import RANGE_BYTES
from provider_uploads.sources.open import open_source
from tests.nodes import free_port
from tests.origins import S3, Answer, Origin, plain, whole

REACH = SourcePolicy(schemes=frozenset({"s3", "gs"}))
CONTENT = random.Random(3).randbytes(3 * RANGE_BYTES + 17)


pytestmark = pytest.mark.usefixtures("s3")


def drain(source: Source) -> bytes:
    return b"".join(iter(lambda: source.stream.read(256 * 1024), b""))


def test_read_as_a_stream_from_the_first_byte_twice(s3: S3) -> None:
    with open_source(s3.put("bucket/twice.mp4", CONTENT), REACH) as source:
        assert (source.path, source.size_bytes) == ("s3://bucket/twice.mp4", len(CONTENT))
        for _ in range(2):
            source.stream.seek(0)
            assert drain(source) == CONTENT
        source.unchanged(len(CONTENT))
        with pytest.raises(SourceChangedError):
            source.unchanged(1)
    assert source.stream.closed


def test_memory_is_bounded(s3: S3) -> None:
    url = s3.put("bucket/large.mp4", bytes(12 * RANGE_BYTES))
    with open_source(url, REACH) as source:
        tracemalloc.start()
        while source.stream.read(256 * 1024):
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 5 * RANGE_BYTES


def test_an_empty_one(s3: S3) -> None:
    with open_source(s3.put("bucket/empty.txt"), REACH) as source:
        assert (source.size_bytes, source.stream.read(10)) == (0, b"")


@pytest.mark.parametrize("content", [CONTENT[::-1], b"short"])
def test_replaced_while_it_is_read(s3: S3, content: bytes) -> None:
    with open_source(s3.put("bucket/new.mp4", CONTENT), REACH) as source:
        source.stream.read(1000)
        s3.put("bucket/new.mp4", content)
        with pytest.raises(SourceChangedError):
            source.unchanged()
        with pytest.raises(SourceChangedError):
            drain(source)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("s3://bucket/none.mp4", SourceNotFoundError),
        ("s3://no-such-bucket/x", SourceNotFoundError),
        ("s3://bucket/folder", SourceKindError),
        ("s3://BUCKET:!/x", SourceUnreadableError),
    ],
)
def test_what_is_no_object(s3: S3, url: str, error: type[Exception]) -> None:
    s3.put("bucket/folder/x", b"x")
    with pytest.raises(error):
        open_source(url, REACH)


@pytest.mark.parametrize(
    ("code", "error"), [(403, SourceUnreadableError), (503, SourceUnavailableError)]
)
def test_a_store_that_refuses(
    code: int, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Origin(tmp_path, tls=False) as store:
        store.always = plain(code)
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        with pytest.raises(error) as caught:
            open_source("s3://bucket/x.mp4", REACH)
    assert "127.0.0.1" not in str(caught.value)


def test_no_store_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(SourceUnavailableError):
        open_source("s3://bucket/x.mp4", REACH)


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SourceUnreadableError, match="no credentials"):
        open_source("s3://bucket/x.mp4", REACH)


def google(content: bytes) -> Answer:
    """Answer as Google Cloud Storage's JSON API does, for any object but those denied."""

    def answer(to: BaseHTTPRequestHandler) -> None:
        begin, _, end = (to.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")
        about = {"name": "clip.mp4", "bucket": "bucket", "size": len(content), "generation": "1"}
        if "denied" in to.path:
            return plain(403)(to)
        if "alt=media" not in to.path:
            return whole(json.dumps(about).encode(), Content_Type="application/json")(to)
        part = content[int(begin) : int(end) + 1]
        to.send_response(206)
        to.send_header("Content-Length", str(len(part)))
        to.end_headers()
        to.wfile.write(part)
        return None

    return answer


def test_google_s_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with Origin(tmp_path, tls=False) as store:
        store.always = google(CONTENT)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.url)
        with open_source("gs://bucket/clip.mp4", REACH) as source:
            assert drain(source) == CONTENT
            source.unchanged(len(CONTENT))
        with pytest.raises(SourceUnreadableError, match="permission denied"):
            open_source("gs://bucket/denied.mp4", REACH)
