"""Streams on their way to a worker: copied to a place that web apps and workers share.

The place is ``PROVIDER_UPLOADS_STAGING``, a folder or an fsspec URL. A copy is named by its
upload's id and nothing else, so neither a file name nor a message can lead anywhere but there;
what a message holds is ``staged://<upload id>/<name to show>``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from provider_uploads import locations
from provider_uploads.errors import (
    ConfigurationError,
    InvalidRequestError,
    SourceNotFoundError,
    SourceTooLargeError,
    SourceUnavailableError,
)
from provider_uploads.protocol import MAX_FILE_BYTES
from provider_uploads.sources import buckets
from provider_uploads.sources.base import Source
from provider_uploads.sources.local import open_file

#: What is read of a stream at once.
BLOCK_BYTES = 256 * 1024


class Readable(Protocol):
    """What can be staged."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""


class Place(Protocol):
    """Where copies are, each under a name."""

    def open(self, name: str, shown: str) -> Source:
        """Open a copy for reading."""

    def create(self, name: str) -> Any:
        """Open a new copy for writing."""

    def discard(self, target: Any, name: str) -> None:
        """Leave nothing of a copy that is being written."""

    def remove(self, name: str) -> None:
        """Remove a copy; raises FileNotFoundError."""

    def names(self) -> list[str]:
        """Return the names of all there is, copies or not."""

    def written_at(self, name: str) -> datetime:
        """Return when a copy was last written to; raises FileNotFoundError."""

    def reached(self, shown: str) -> Any:
        """Return a context that turns the place's errors into ours."""


@dataclass(slots=True)
class NewCopy:
    """A copy that is being written; each call raises what ``Staging.put`` does."""

    place: Place
    target: Any
    upload_id: str
    name: str
    limit_bytes: int
    size_bytes: int = 0

    def write(self, block: bytes) -> None:
        """Add a block."""
        self.size_bytes += len(block)
        if self.size_bytes > self.limit_bytes:
            raise SourceTooLargeError(self.name, self.size_bytes, self.limit_bytes)
        with self.place.reached(self.name):
            self.target.write(block)

    def finish(self) -> int:
        """End it; return its size in bytes."""
        with self.place.reached(self.name):
            self.target.close()
        return self.size_bytes

    def discard(self) -> None:
        """Leave nothing of it."""
        with suppress(Exception):  # the first error is the one to tell
            self.place.discard(self.target, self.upload_id)


@dataclass(frozen=True, slots=True)
class Staging:
    """Staged copies in one place."""

    place: Place

    def put(
        self,
        upload_id: str,
        name: str,
        stream: Readable,
        *,
        limit_bytes: int = MAX_FILE_BYTES,
    ) -> int:
        """Copy ``stream`` from where it stands to its end; return the copy's size in bytes.

        ``name`` is only shown. Raises SourceTooLargeError beyond ``limit_bytes``,
        SourceUnavailableError when the place does not take it, and what ``stream`` raises; nothing
        of the copy stays then.
        """
        copy = self.begin(upload_id, name, limit_bytes=limit_bytes)
        try:
            for block in _blocks(stream):
                copy.write(block)
            return copy.finish()
        except BaseException:
            copy.discard()
            raise

    def begin(self, upload_id: str, name: str, *, limit_bytes: int = MAX_FILE_BYTES) -> NewCopy:
        """Begin a copy, to be finished or discarded; raises SourceUnavailableError."""
        _check(upload_id)
        with self.place.reached(name):
            target = self.place.create(upload_id)
        return NewCopy(self.place, target, upload_id, name, limit_bytes)

    def open(self, source: str) -> Source:
        """Open the copy that a ``staged://`` URL names."""
        upload_id = locations.staged_id(source)
        if upload_id is None:
            raise SourceNotFoundError(source)
        return self.place.open(upload_id, source)

    def remove(self, upload_id: str) -> None:
        """Remove an upload's copy; gone is success. Raises SourceUnavailableError."""
        _check(upload_id)
        with suppress(FileNotFoundError), self.place.reached(locations.staged(upload_id, "")):
            self.place.remove(upload_id)

    def upload_ids(self) -> list[str]:
        """Return whose copies are there, also those that are being written."""
        with self.place.reached("the staging place"):
            return [name for name in self.place.names() if locations.is_upload_id(name)]

    def quiet(self, upload_id: str, seconds: float) -> bool:
        """Whether a copy is there, and nobody has written to it for so long."""
        with suppress(FileNotFoundError), self.place.reached(locations.staged(upload_id, "")):
            return self.place.written_at(upload_id) < datetime.now(UTC) - timedelta(seconds=seconds)
        return False


def staging_at(place: str | None) -> Staging:
    """Return the staging in a folder or at an fsspec URL; raises ConfigurationError without one."""
    if not place:
        raise ConfigurationError(
            "PROVIDER_UPLOADS_STAGING is not set. Set it, for web apps and workers alike, to a "
            "folder that both see, or to an fsspec URL such as s3://bucket/staging."
        )
    if locations.scheme_of(place) is None:
        return Staging(_Folder(Path(place).expanduser().resolve()))
    return Staging(_Remote(place.rstrip("/")))


@dataclass(frozen=True, slots=True)
class _Folder:
    folder: Path

    def open(self, name: str, shown: str) -> Source:
        return open_file(os.fspath(self.folder / name), (self.folder,), shown)

    def create(self, name: str) -> Any:
        return (self.folder / name).open("xb")

    def discard(self, target: Any, name: str) -> None:
        with suppress(OSError):  # what was not written yet may not fit either
            target.close()
        self.remove(name)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    def names(self) -> list[str]:
        return [path.name for path in self.folder.iterdir()]

    def written_at(self, name: str) -> datetime:
        return datetime.fromtimestamp((self.folder / name).stat().st_mtime, UTC)

    @contextmanager
    def reached(self, shown: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self.folder.is_dir():
                raise ConfigurationError(
                    f"PROVIDER_UPLOADS_STAGING: {self.folder} is no folder. Make it, or mount it."
                ) from None
            if isinstance(error, FileNotFoundError):
                raise
            reason = f"staging: {error.strerror or type(error).__name__}"
            raise SourceUnavailableError(shown, reason) from None


@dataclass(frozen=True, slots=True)
class _Remote:
    url: str

    def _at(self, name: str) -> tuple[Any, str]:
        return buckets.place(f"{self.url}/{name}", "the staging place")

    def open(self, name: str, shown: str) -> Source:
        files, path = self._at(name)
        return buckets.open_object(files, path, shown)

    def create(self, name: str) -> Any:
        files, path = self._at(name)
        return files.open(path, "wb", block_size=buckets.RANGE_BYTES * 2)

    def discard(self, target: Any, name: str) -> None:
        # Closing makes an object of what was written; a writer that cannot even do that is told
        # to give its parts up, or the store would keep (and charge for) them.
        try:
            target.close()
        except Exception:
            target.closed = True
            getattr(target, "discard", lambda: None)()
        self.remove(name)

    def remove(self, name: str) -> None:
        files, path = self._at(name)
        files.rm_file(path)

    def names(self) -> list[str]:
        files, path = self._at("")
        try:
            return [entry.rpartition("/")[2] for entry in files.ls(path, detail=False)]
        except FileNotFoundError:  # a bucket has no folders: nothing was staged yet
            return []

    def written_at(self, name: str) -> datetime:
        files, path = self._at(name)
        said: datetime = files.modified(path)
        return said if said.tzinfo else said.replace(tzinfo=UTC)

    def reached(self, shown: str) -> Any:
        return buckets.asked(shown)


def _check(upload_id: str) -> None:
    if not locations.is_upload_id(upload_id):
        raise InvalidRequestError("upload_id", repr(upload_id), "is none, and no file name")


def _blocks(stream: Readable) -> Iterator[bytes]:
    read: Callable[[int], bytes] | None = getattr(stream, "read", None)
    while True:
        block: object = read(BLOCK_BYTES) if read else None
        if not (piece := checked_block(stream, block)):
            return
        yield piece


def checked_block(stream: object, block: object) -> bytes:
    """Return what a stream gave as bytes; raises InvalidRequestError for anything else."""
    if not isinstance(block, bytes | bytearray | memoryview):
        raise InvalidRequestError(
            "fileobj",
            type(stream).__name__,
            "does not read as bytes; open it in binary mode, and one with async reads goes to "
            "AsyncUploadQueue",
        )
    return bytes(block)
