"""Whether what the provider has is what was sent: size and sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from provider_uploads.errors import (
    ProviderUploadsError,
    SourceChangedError,
    SourceUnreadableError,
    VerificationError,
)
from provider_uploads.providers.base import Progress
from provider_uploads.schemas import ProviderFile
from provider_uploads.sources.base import Source

#: Bytes read, hashed and written at a time, and all that one upload holds in memory.
BLOCK_BYTES: Final = 256 * 1024


@dataclass(slots=True)
class Digest:
    """SHA-256 of the source from its first byte, whatever part of it is sent."""

    hash: Any = field(default_factory=hashlib.sha256)
    read_bytes: int = 0

    def blocks(self, source: Source, end: int) -> Iterator[bytes]:
        """Yield the source's next blocks up to ``end``, hashing them."""
        while self.read_bytes < end:
            try:
                block = source.stream.read(min(BLOCK_BYTES, end - self.read_bytes))
            except ProviderUploadsError:
                raise  # some of ours are OSErrors too
            except OSError as error:
                raise SourceUnreadableError(source.path, str(error.strerror)) from None
            if not block:
                raise SourceChangedError(source.path, end, self.read_bytes)
            self.hash.update(block)
            self.read_bytes += len(block)
            yield block

    def hexdigest(self) -> str:
        """Return the hash of what was read so far, in lowercase hex."""
        return str(self.hash.hexdigest())


def verified(file: ProviderFile, size_bytes: int, sha256: str) -> ProviderFile:
    """Return ``file`` if it is the one that was sent; else raise VerificationError."""
    if file.size_bytes != size_bytes:
        raise VerificationError(file.name, "size", str(size_bytes), str(file.size_bytes))
    if file.sha256 is not None and file.sha256 != sha256:
        raise VerificationError(file.name, "sha256", sha256, file.sha256)
    return file.model_copy(update={"sha256": sha256})


def verify(
    file: ProviderFile, source: Source, on_progress: Progress = lambda sent_bytes: None
) -> ProviderFile:
    """Read the whole source and return ``file`` if it is its copy; else raise VerificationError.

    What ``on_progress`` raises stops the reading.
    """
    digest = Digest()
    source.stream.seek(0)
    for _ in digest.blocks(source, source.size_bytes):
        on_progress(source.size_bytes)
    source.unchanged()
    return verified(file, source.size_bytes, digest.hexdigest())
