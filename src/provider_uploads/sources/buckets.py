"""Objects in buckets, by fsspec: ``s3://``, ``gs://``, and whatever else staging may be in.

Credentials, endpoints and regions are those of the process's environment, as s3fs and gcsfs read
it (``AWS_*``, ``GOOGLE_APPLICATION_CREDENTIALS`` …). Reading is by ranges of one version of the
object: two of them are in memory at most, nothing is on disk.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, cast

from provider_uploads.errors import (
    MissingDependencyError,
    ProviderUploadsError,
    SourceChangedError,
    SourceKindError,
    SourceNotFoundError,
    SourceTooLargeError,
    SourceUnavailableError,
    SourceUnreadableError,
)
from provider_uploads.locations import scheme_of
from provider_uploads.protocol import MAX_FILE_BYTES
from provider_uploads.sources.base import Source, Version

#: Bytes asked for at a time: enough that the round trip between two hardly counts.
RANGE_BYTES: Final = 4 * 1024 * 1024

#: The package that fsspec needs for a scheme.
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
#: What an object store says of a version, in the words of s3fs, gcsfs and others.
_MARKS = ("ETag", "VersionId", "etag", "generation", "mtime", "LastModified")
#: What the store refuses, and will refuse again.
_REFUSALS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENAMETOOLONG, errno.EISDIR}
)
#: The same from botocore and google-auth, which have no common base for it.
_REFUSED_BY_NAME = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "ParamValidationError",
        "InvalidRegionError",
        "DefaultCredentialsError",
        "MalformedError",
    }
)


def open_bucket(location: str) -> Source:
    """Open ``s3://bucket/key`` or ``gs://bucket/object`` for reading.

    Raises what ``open_object`` raises, or MissingDependencyError.
    """
    scheme = scheme_of(location) or ""
    # Not fsspec's own parsing: it knows chains such as s3://…::file:///etc/passwd.
    return open_object(file_system(scheme, location), location.split("://", 1)[1], location)


def file_system(scheme: str, shown: str) -> Any:
    """Return this process's file system for ``s3`` or ``gs``."""
    try:
        import fsspec

        with asked(shown):
            # What was listed a minute ago says nothing about now.
            return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError:
        raise MissingDependencyError(_PACKAGES[scheme], "sources") from None


def place(url: str, shown: str) -> tuple[Any, str]:
    """Return the file system and the path of any fsspec URL that an operator has configured."""
    scheme = scheme_of(url) or ""
    try:
        from fsspec.core import url_to_fs

        options = {"use_listings_cache": False} if scheme in _PACKAGES else {}
        with asked(shown):
            return cast("tuple[Any, str]", url_to_fs(url, **options))
    except ImportError:
        raise MissingDependencyError(_PACKAGES.get(scheme, "fsspec"), "sources") from None


def open_object(files: Any, path: str, shown: str) -> Source:
    """Open what a file system has at a path for reading.

    Raises SourceNotFoundError, SourceKindError, SourceUnreadableError (no permission, no
    credentials), SourceTooLargeError, or SourceUnavailableError where another attempt may succeed.
    """

    def current_version() -> Version:
        with asked(shown):
            info = files.info(path)
        if info["type"] != "file":
            raise SourceKindError(shown, "a directory")
        return Version(int(info["size"] or 0), tuple(str(info.get(mark)) for mark in _MARKS))

    version = current_version()
    if version.size_bytes > MAX_FILE_BYTES:
        raise SourceTooLargeError(shown, version.size_bytes, MAX_FILE_BYTES)
    with asked(shown):
        opened = files.open(path, "rb", block_size=RANGE_BYTES, cache_type="readahead")
    stream = _Object(shown, opened, version, current_version)
    source = Source(shown, cast("BinaryIO", stream), version, current_version)
    try:
        return source.unchanged()
    except BaseException:
        stream.close()
        raise


class _Object(io.RawIOBase):
    """An fsspec file with this library's errors."""

    def __init__(
        self, shown: str, opened: Any, version: Version, current_version: Callable[[], Version]
    ) -> None:
        self._shown = shown
        self._opened = opened
        self._version = version
        self._current_version = current_version

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(cast("bytearray", buffer))
        try:
            with asked(self._shown):
                block = self._opened.read(len(view))
        except (SourceUnreadableError, SourceUnavailableError):
            # s3fs asks for each range by ETag: refused halfway, the object may have been replaced.
            now = self._current_version()
            if now != self._version:
                size_bytes = self._version.size_bytes
                raise SourceChangedError(self._shown, size_bytes, now.size_bytes) from None
            raise
        view[: len(block)] = block
        return len(block)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(self._opened.seek(offset, whence))

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()


@contextmanager
def asked(shown: str) -> Iterator[None]:
    """Turn what fsspec and the clients below it raise into this library's errors.

    Their texts may hold URLs and account names, so only the class is named.
    """
    try:
        yield
    except (ProviderUploadsError, ImportError):
        raise
    except FileNotFoundError:
        raise SourceNotFoundError(shown) from None
    except IsADirectoryError:
        raise SourceKindError(shown, "a directory") from None
    except Exception as error:
        if _refused(error):
            raise SourceUnreadableError(shown, _reason(error)) from None
        raise SourceUnavailableError(shown, _reason(error)) from None


def _refused(error: Exception) -> bool:
    if isinstance(error, OSError):
        # gcsfs has no class for a 403, only this word.
        return (
            error.errno in _REFUSALS
            or isinstance(error, PermissionError)
            or (str(error).startswith("Forbidden"))
        )
    if getattr(error, "code", None) in {400, 401, 403}:  # gcsfs's HttpError
        return True
    return isinstance(error, ValueError) or type(error).__name__ in _REFUSED_BY_NAME


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError) or str(error).startswith("Forbidden"):
        return "permission denied"
    said = {"NoCredentialsError": "no credentials", "DefaultCredentialsError": "no credentials"}
    name = type(error).__name__
    return said.get(name) or (
        errno.errorcode.get(error.errno or 0, name) if isinstance(error, OSError) else name
    )
