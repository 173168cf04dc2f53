"""What a source is, and which sources may be read.

A source scheme is one module with one function that opens a location; ``sources.open`` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import BinaryIO, Self

from provider_uploads import locations
from provider_uploads.errors import SourceChangedError, SourceSchemeError
from provider_uploads.settings import Settings


@dataclass(frozen=True, slots=True)
class Version:
    """What tells one content from another without reading it: size, and whatever else there is."""

    size_bytes: int
    fingerprint: object


@dataclass(frozen=True, slots=True)
class Source:
    """An open source. Close it, or use it as a context manager.

    ``path`` is what may be shown. ``stream`` is read from its first byte to its last and may be
    sent back to 0; nothing of it is kept. ``current_version`` says what is there now.
    """

    path: str
    stream: BinaryIO
    version: Version
    current_version: Callable[[], Version]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    @property
    def size_bytes(self) -> int:
        """The size at opening."""
        return self.version.size_bytes

    @property
    def fingerprint(self) -> str:
        """What a later attempt must find again: the version, but for its size, as text."""
        return str(self.version.fingerprint)

    def unchanged(self, size_bytes: int | None = None) -> Self:
        """Return itself if it still is what it was; else raise SourceChangedError.

        Compared are the size, with ``size_bytes`` or the one at opening, and what else the place
        says of a version: a file's time of change, an object's ETag or generation.
        """
        expected = self.size_bytes if size_bytes is None else size_bytes
        now = self.current_version()
        if now.size_bytes != expected or now.fingerprint != self.version.fingerprint:
            raise SourceChangedError(self.path, expected, now.size_bytes)
        return self


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """What a process may read; by default any local file, and nothing else.

    ``roots`` are resolved folders (None: anywhere); ``schemes`` are those switched on;
    ``https_timeout_s`` bounds one reading from the first byte to the last, ``https_answer_s`` its
    headers, ``https_least_bytes_s`` is the least rate; ``https_networks`` are let in though they
    are not public; ``staging`` is where staged copies are.
    """

    roots: tuple[Path, ...] | None = None
    schemes: frozenset[str] = frozenset()
    https_timeout_s: float = 1800.0
    https_answer_s: float = 60.0
    https_least_bytes_s: float = 16_000.0
    https_slow_for_s: float = 30.0
    https_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    staging: str | None = None

    @classmethod
    def of(cls, given: Settings) -> Self:
        """Return what a worker with these settings may read."""
        return cls(
            given.readable_roots,
            given.sources,
            given.https_timeout_s,
            given.https_answer_s,
            given.https_least_bytes_s,
            given.https_slow_for_s,
            given.https_networks,
            given.staging,
        )


def check_scheme(location: str, scheme: str, schemes: frozenset[str]) -> None:
    """Raise SourceSchemeError if ``scheme`` is not among those switched on."""
    if scheme not in schemes:
        raise SourceSchemeError(locations.shown(location), scheme)
