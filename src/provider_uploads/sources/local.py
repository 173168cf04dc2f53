"""Local files, inside the folders that may be read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from provider_uploads.errors import (
    SourceError,
    SourceKindError,
    SourceNotAllowedError,
    SourceNotFoundError,
    SourceTooLargeError,
    SourceUnreadableError,
)
from provider_uploads.protocol import MAX_FILE_BYTES
from provider_uploads.sources.base import Source, Version


def open_file(path: str, roots: tuple[Path, ...] | None, name: str | None = None) -> Source:
    """Open a regular local file, shown as ``name``; it must be in a root after resolving links."""
    shown = path if name is None else name
    if "\0" in path:
        raise SourceUnreadableError(shown.replace("\0", "\\0"), "null character in the name")
    try:
        resolved = Path(os.path.realpath(path))
        _check_roots(shown, resolved, roots)
        # Not blocking: opening a FIFO without a writer would wait for ever. Not following: a link
        # put in place after the check leads nowhere.
        descriptor = os.open(resolved, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SourceNotFoundError(shown) from None
    except OSError as error:
        raise _refused(path, shown, error) from None
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

        def current_version() -> Version:
            now = os.fstat(stream.fileno())
            return Version(now.st_size, now.st_mtime_ns)

        return Source(shown, stream, Version(found.st_size, found.st_mtime_ns), current_version)
    except BaseException:
        os.close(descriptor)
        raise


def _check_roots(shown: str, resolved: Path, roots: tuple[Path, ...] | None) -> None:
    if roots is not None and not any(resolved.is_relative_to(root) for root in roots):
        raise SourceNotAllowedError(shown, str(resolved), os.pathsep.join(map(str, roots)))


def _refused(path: str, shown: str, error: OSError) -> SourceError:
    """Sockets and some devices cannot even be opened: say what they are, not only that."""
    try:
        mode = Path(path).stat().st_mode
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
