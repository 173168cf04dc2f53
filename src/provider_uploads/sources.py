"""Where bytes come from: what may be read, how large it is, what type it has."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from provider_uploads.errors import (
    SourceChangedError,
    SourceError,
    SourceKindError,
    SourceNotAllowedError,
    SourceNotFoundError,
    SourceTooLargeError,
    SourceUnreadableError,
)
from provider_uploads.records import MAX_FILE_BYTES


@dataclass(frozen=True, slots=True)
class Source:
    """An open, regular file. Close it, or use it as a context manager."""

    path: str
    stream: BinaryIO
    size_bytes: int
    mtime_ns: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def unchanged(self, size_bytes: int | None = None) -> Self:
        """Return itself if it still is what it was; else raise SourceChangedError.

        Compared are the size, with ``size_bytes`` or the one at opening, and the time of the last
        change since opening.
        """
        expected = self.size_bytes if size_bytes is None else size_bytes
        now = os.fstat(self.stream.fileno())
        if now.st_size != expected or now.st_mtime_ns != self.mtime_ns:
            raise SourceChangedError(self.path, expected, now.st_size)
        return self


def open_source(path: str | os.PathLike[str], roots: Sequence[Path] | None = None) -> Source:
    """Open a regular file for reading.

    ``roots`` are resolved folders; the path must lead into one of them after links are resolved
    (``None``: anywhere). Raises a SourceError that names what is wrong; never waits on a FIFO.
    """
    shown = os.fspath(path)
    if "\0" in shown:
        raise SourceUnreadableError(shown.replace("\0", "\\0"), "null character in the name")
    try:
        resolved = Path(os.path.realpath(shown))
        _check_roots(shown, resolved, roots)
        # Not blocking: opening a FIFO without a writer would wait for ever. Not following: a link
        # put in place after the check leads nowhere.
        descriptor = os.open(resolved, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SourceNotFoundError(shown) from None
    except OSError as error:
        raise _refused(shown, error) from None
    try:
        opened = Path(f"/proc/self/fd/{descriptor}")
        if roots is not None and opened.is_symlink():
            # A folder on the way may have been exchanged for a link too: see what we really have.
            _check_roots(shown, opened.readlink(), roots)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise SourceKindError(shown, _kind(found.st_mode))
        if found.st_size > MAX_FILE_BYTES:
            raise SourceTooLargeError(shown, found.st_size, MAX_FILE_BYTES)
        stream = os.fdopen(descriptor, "rb", buffering=0)
        return Source(shown, stream, found.st_size, found.st_mtime_ns)
    except BaseException:
        os.close(descriptor)
        raise


def _check_roots(shown: str, resolved: Path, roots: Sequence[Path] | None) -> None:
    if roots is not None and not any(resolved.is_relative_to(root) for root in roots):
        raise SourceNotAllowedError(shown, str(resolved), os.pathsep.join(map(str, roots)))


def _refused(shown: str, error: OSError) -> SourceError:
    """Sockets and some devices cannot even be opened: say what they are, not only that."""
    try:
        mode = Path(shown).stat().st_mode
    except OSError:
        mode = stat.S_IFREG
    if not stat.S_ISREG(mode):
        return SourceKindError(shown, _kind(mode))
    return SourceUnreadableError(shown, error.strerror or str(error))


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "something else")
