"""Where bytes come from: what may be read, how large it is, whether it is still the same."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import BinaryIO, Self

from provider_uploads import locations
from provider_uploads.errors import (
    SourceChangedError,
    SourceError,
    SourceKindError,
    SourceNotAllowedError,
    SourceNotFoundError,
    SourceSchemeError,
    SourceTooLargeError,
    SourceUnreadableError,
)
from provider_uploads.records import MAX_FILE_BYTES
from provider_uploads.settings import Settings


@dataclass(frozen=True, slots=True)
class Version:
    """What tells one content from another without reading it: size, and whatever else there is."""

    size_bytes: int
    mark: object


@dataclass(frozen=True, slots=True)
class Source:
    """An open source. Close it, or use it as a context manager.

    ``path`` is what may be shown. ``stream`` is read from its first byte to its last and may be
    sent back to 0; nothing of it is kept. ``look`` says what is there now.
    """

    path: str
    stream: BinaryIO
    version: Version
    look: Callable[[], Version]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    @property
    def size_bytes(self) -> int:
        """The size at opening."""
        return self.version.size_bytes

    @property
    def mark(self) -> str:
        """What a later attempt must find again: the version, but for its size, as text."""
        return str(self.version.mark)

    def unchanged(self, size_bytes: int | None = None) -> Self:
        """Return itself if it still is what it was; else raise SourceChangedError.

        Compared are the size, with ``size_bytes`` or the one at opening, and what else the place
        says of a version: a file's time of change, an object's ETag or generation.
        """
        expected = self.size_bytes if size_bytes is None else size_bytes
        now = self.look()
        if now.size_bytes != expected or now.mark != self.version.mark:
            raise SourceChangedError(self.path, expected, now.size_bytes)
        return self


@dataclass(frozen=True, slots=True)
class Reach:
    """What a process may read; by default any local file, and nothing else.

    ``roots`` are resolved folders (None: anywhere); ``schemes`` are those switched on;
    ``https_timeout_s`` bounds one reading from the first byte to the last, ``https_networks`` are
    let in though they are not public; ``staging`` is where staged copies are.
    """

    roots: tuple[Path, ...] | None = None
    schemes: frozenset[str] = frozenset()
    https_timeout_s: float = 1800.0
    https_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    staging: str | None = None

    @classmethod
    def of(cls, given: Settings) -> Self:
        """Return what a worker with these settings may read."""
        return cls(
            given.readable_roots,
            given.sources,
            given.https_timeout_s,
            given.https_networks,
            given.staging,
        )


def open_source(location: str | os.PathLike[str], reach: Reach | None = None) -> Source:
    """Open a path or a URL for reading, within ``reach``.

    Raises a SourceError that names what is wrong, or a SourceUnavailableError where another
    attempt may succeed; never waits on a FIFO.
    """
    reach = reach or Reach()
    text = os.fspath(location)
    scheme = locations.scheme_of(text)
    if scheme is None:
        return open_file(text, reach.roots)
    if scheme == locations.STAGED:
        from provider_uploads.staging import staging_at

        return staging_at(reach.staging).open(text)
    check_scheme(text, locations.check(text), reach.schemes)
    if scheme == "https":
        from provider_uploads.public_https import open_https

        return open_https(text, reach)
    from provider_uploads.buckets import open_bucket

    return open_bucket(text)


def check_scheme(location: str, scheme: str, schemes: frozenset[str]) -> None:
    """Raise SourceSchemeError if ``scheme`` is not among those switched on."""
    if scheme not in schemes:
        raise SourceSchemeError(locations.shown(location), scheme)


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

        def look() -> Version:
            now = os.fstat(stream.fileno())
            return Version(now.st_size, now.st_mtime_ns)

        return Source(shown, stream, Version(found.st_size, found.st_mtime_ns), look)
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
