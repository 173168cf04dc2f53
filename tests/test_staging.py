"""Staging: whatever happens, what is copied is whole, in its place, and not left behind."""

from __future__ import annotations

import io
import os
import random
import resource
from pathlib import Path

import pytest

from provider_uploads import UploadQueue
from provider_uploads.errors import (
    ConfigurationError,
    InvalidRequestError,
    QueueUnavailableError,
    SourceNotAllowedError,
    SourceNotFoundError,
    SourceTooLargeError,
    SourceUnavailableError,
)
from provider_uploads.settings import settings
from provider_uploads.sources.base import SourcePolicy
from provider_uploads.sources.open import open_source
from provider_uploads.sources.staging import Staging, staging_at
from tests.nodes import free_port
from tests.origins import S3

ID = "0123456789abcdef" * 2
CONTENT = random.Random(4).randbytes(1_000_000)


class Breaking(io.BytesIO):
    """Gives some bytes and then an error of the web app's own."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 500_000:
            raise ConnectionResetError("the browser went away")
        return super().read(size)


@pytest.fixture(params=["folder", "s3://", "file://"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3://":
        request.getfixturevalue("s3")
        return f"s3://bucket/{tmp_path.name}"
    folder = tmp_path / "staging"
    folder.mkdir()
    return f"file://{folder}" if request.param == "file://" else str(folder)


@pytest.fixture
def staging(place: str) -> Staging:
    return staging_at(place)


def is_there(staging: Staging) -> bool:
    try:
        staging.open(f"staged://{ID}/x").stream.close()
    except SourceNotFoundError:
        return False
    return True


class TestEveryPlace:
    def test_what_is_there_and_since_when(self, staging: Staging) -> None:
        assert staging.upload_ids() == []
        staging.put(ID, "clip.mp4", io.BytesIO(CONTENT))
        assert staging.upload_ids() == [ID]
        assert staging.quiet(ID, -5)  # seconds in the future: clocks may differ
        assert not staging.quiet(ID, 60)
        staging.remove(ID)
        assert staging.upload_ids() == []
        assert not staging.quiet(ID, -5)

    def test_in_out_and_away_more_than_once(self, staging: Staging, place: str) -> None:
        stream = io.BytesIO(b"skipped" + CONTENT)
        stream.seek(7)
        assert staging.put(ID, "clip.mp4", stream) == len(CONTENT)
        assert not stream.closed
        with open_source(f"staged://{ID}/clip.mp4", SourcePolicy(staging=place)) as source:
            assert source.path == f"staged://{ID}/clip.mp4"
            assert source.stream.read() == CONTENT
            source.unchanged(len(CONTENT))
        for _ in range(2):
            staging.remove(ID)
            assert not is_there(staging)

    def test_an_empty_stream(self, staging: Staging) -> None:
        assert staging.put(ID, "empty", io.BytesIO()) == 0
        with staging.open(f"staged://{ID}/empty") as source:
            assert source.size_bytes == 0

    def test_a_stream_that_breaks(self, staging: Staging) -> None:
        with pytest.raises(ConnectionResetError, match="browser"):
            staging.put(ID, "clip.mp4", Breaking(CONTENT))
        assert not is_there(staging)

    def test_one_that_is_too_large(self, staging: Staging) -> None:
        with pytest.raises(SourceTooLargeError) as caught:
            staging.put(ID, "clip.mp4", io.BytesIO(CONTENT), limit_bytes=999_999)
        assert caught.value.path == "clip.mp4"
        assert not is_there(staging)
        assert staging.put(ID, "clip.mp4", io.BytesIO(CONTENT), limit_bytes=10**6) == 10**6

    @pytest.mark.parametrize("stream", [io.StringIO("text"), object(), None])
    def test_no_bytes(self, staging: Staging, stream: io.BytesIO) -> None:
        with pytest.raises(InvalidRequestError, match="binary mode"):
            staging.put(ID, "clip.mp4", stream)
        assert not is_there(staging)


class TestOnlyThere:
    @pytest.mark.parametrize(
        "source",
        [
            *("staged:///etc/passwd", "staged://../x", "staged://", f"staged://{ID.upper()}/x"),
            *(f"staged://../{ID}/x", f"staged://{ID}x/y", f"staged://{ID}%2f../x"),
        ],
    )
    def test_what_is_no_upload_s(self, tmp_path: Path, source: str) -> None:
        with pytest.raises(SourceNotFoundError):
            open_source(source, SourcePolicy(staging=str(tmp_path)))

    @pytest.mark.parametrize("name", ["../secret", "secret", "", f"{ID}/..", ID + "\n"])
    def test_no_other_name_is_written_or_removed(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "staging").mkdir()
        (tmp_path / "secret").write_text("kept")
        for folder in (tmp_path, tmp_path / "staging"):
            with pytest.raises(InvalidRequestError):
                staging_at(str(folder)).remove(name)
            with pytest.raises(InvalidRequestError):
                staging_at(str(folder)).put(name, "x", io.BytesIO(b"x"))
        assert (tmp_path / "secret").read_text() == "kept"

    def test_a_link_out_of_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "staging"
        folder.mkdir()
        (tmp_path / "secret").write_text("not for upload")
        (folder / ID).symlink_to(tmp_path / "secret")
        with pytest.raises(SourceNotAllowedError):
            open_source(f"staged://{ID}/x", SourcePolicy(staging=str(folder)))
        with pytest.raises(SourceUnavailableError, match="exists"):
            staging_at(str(folder)).put(ID, "x", io.BytesIO(b"overwritten"))
        assert (tmp_path / "secret").read_text() == "not for upload"

    def test_the_folder_s_other_files_are_no_paths(self, tmp_path: Path) -> None:
        reach = SourcePolicy(roots=(tmp_path / "files",), staging=str(tmp_path))
        staging_at(str(tmp_path)).put(ID, "x", io.BytesIO(b"x"))
        with pytest.raises(SourceNotAllowedError):
            open_source(tmp_path / ID, reach)


class TestPlaces:
    def test_none(self) -> None:
        with pytest.raises(ConfigurationError, match=r"Set it, for web apps and workers alike"):
            staging_at(None)

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"is no folder\. Make it"):
            staging_at(str(tmp_path / "none")).put(ID, "x", io.BytesIO(b"x"))

    def test_a_disk_that_takes_no_more(self, tmp_path: Path) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
        try:
            with pytest.raises(SourceUnavailableError, match="staging: File too large"):
                staging_at(str(tmp_path)).put(ID, "x", io.BytesIO(CONTENT))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(tmp_path.iterdir()) == []

    def test_an_s3_that_is_away(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        with pytest.raises(SourceUnavailableError):
            staging_at("s3://bucket/x").put(ID, "clip.mp4", io.BytesIO(CONTENT))


class TestSubmitStream:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "staging"
        folder.mkdir()
        monkeypatch.setenv("PROVIDER_UPLOADS_STAGING", str(folder))
        settings.cache_clear()
        return folder

    @pytest.mark.parametrize(
        ("filename", "name"),
        [
            ("clip.mp4", "clip.mp4"),
            ("../../etc/clip.mp4", "clip.mp4"),
            ("/abs/clip.mp4", "clip.mp4"),
            (r"C:\Users\me\clip.mp4", "clip.mp4"),
            ("Fluß 映画 🏞.mp4", "Fluß 映画 🏞.mp4"),
        ],
    )
    def test_names(self, redis_url: str, folder: Path, filename: str, name: str) -> None:
        with UploadQueue(redis_url) as queue:
            ticket = queue.submit_stream(io.BytesIO(CONTENT), filename=filename)
            status = queue.status(ticket)
        assert (status.display_name, status.mime_type) == (name, "video/mp4")
        assert status.source == f"staged://{ticket}/{name}"
        assert os.listdir(folder) == [ticket]  # noqa: PTH208

    @pytest.mark.parametrize("filename", ["", "..", "/", "a/..", ".", "a\0b", "\udcff.mp4"])
    def test_no_names(self, redis_url: str, folder: Path, filename: str) -> None:
        with UploadQueue(redis_url) as queue, pytest.raises(InvalidRequestError):
            queue.submit_stream(io.BytesIO(CONTENT), filename=filename)
        assert list(folder.iterdir()) == []

    def test_a_name_that_is_too_long_for_the_provider(self, redis_url: str, folder: Path) -> None:
        with UploadQueue(redis_url) as queue:
            name = "Fluß " * 200 + ".mp4"
            status = queue.status(queue.submit_stream(io.BytesIO(CONTENT), filename=name))
        assert len(status.display_name) == 512
        assert status.display_name.startswith("Fluß Fluß")
        assert status.display_name.endswith("….mp4")
        assert status.mime_type == "video/mp4"

    def test_without_a_name_the_stream_s_own_counts(
        self, redis_url: str, folder: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "clip.mp4"
        path.write_bytes(CONTENT)
        with UploadQueue(redis_url) as queue, path.open("rb") as file:
            named = queue.status(queue.submit_stream(file))
            unnamed = queue.status(queue.submit_stream(io.BytesIO(CONTENT)))
        assert (named.display_name, named.mime_type) == ("clip.mp4", "video/mp4")
        assert (unnamed.display_name, unnamed.mime_type) == ("upload", "application/octet-stream")

    def test_what_browsers_say_of_what_they_do_not_know(self, redis_url: str, folder: Path) -> None:
        with UploadQueue(redis_url) as queue:
            types = [
                queue.status(
                    queue.submit_stream(io.BytesIO(b"x"), filename="main.ts", mime_type=said)
                ).mime_type
                for said in ("application/octet-stream", "video/mp2t")
            ]
        assert types == ["text/plain", "video/mp2t"]

    @pytest.mark.parametrize("max_bytes", [0, -1])
    def test_limits_that_are_none(self, redis_url: str, folder: Path, max_bytes: int) -> None:
        with UploadQueue(redis_url) as queue, pytest.raises(InvalidRequestError, match="positive"):
            queue.submit_stream(io.BytesIO(CONTENT), max_bytes=max_bytes)

    def test_more_bytes_than_the_caller_allows(self, redis_url: str, folder: Path) -> None:
        with UploadQueue(redis_url) as queue:
            with pytest.raises(SourceTooLargeError, match="999,999"):
                queue.submit_stream(io.BytesIO(CONTENT), max_bytes=len(CONTENT) - 1)
            assert list(folder.iterdir()) == []
            assert queue.submit_stream(io.BytesIO(CONTENT), max_bytes=len(CONTENT))

    def test_nothing_stays_when_it_cannot_be_queued(self, folder: Path) -> None:
        with (
            UploadQueue(f"redis://127.0.0.1:{free_port()}/0") as queue,
            pytest.raises(QueueUnavailableError),
        ):
            queue.submit_stream(io.BytesIO(CONTENT), filename="clip.mp4")
        assert list(folder.iterdir()) == []

    def test_without_a_place(self, redis_url: str) -> None:
        with UploadQueue(redis_url) as queue, pytest.raises(ConfigurationError):
            queue.submit_stream(io.BytesIO(CONTENT), filename="clip.mp4")
