"""The same bytes once: who sends them, who has them, and who still uses the file.

    provider_uploads:reuse:<profile>:<MIME type>:<size>:<sha256>   a claim: the ticket of the one
                                        upload that sends these bytes, or whose file has them
    provider_uploads:users:<profile>:<file's name>   the tickets that share a file; one that
                                        nobody else took has no such set

A claim holds a ticket and not a time: whether its owner is at work, has a file or is gone, the
owner's row says. So a killed worker's claim is found again under the same ticket, and the claim of
an upload that ended badly, or let its file go, is anybody's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from provider_uploads import protocol
from provider_uploads.errors import SourceChangedError
from provider_uploads.ledger.connection import ROW_KEPT_S
from provider_uploads.ledger.state import UploadState
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.protocol import KEPT_S
from provider_uploads.schemas import ProviderFile, Stage
from provider_uploads.sources.base import Source

_BLOCK_BYTES = 1024**2


class ClaimState(StrEnum):
    """What the owner of a claim means for others with the same bytes."""

    #: It is on its way: wait for it.
    LIVING = "living"
    #: Its file can be had, if the provider says so too.
    ACTIVE = "active"
    #: Nothing will come of it, or not for long enough: take its claim.
    VOID = "void"


class Deduplication:
    """The claims in a ledger's Redis; raises QueueUnavailableError as the ledger does."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._claim = ledger.script("claim_content")
        self._release = ledger.script("release_content")

    def claim(self, row: UploadState, *, over: str = "") -> str:
        """Claim an upload's bytes, also from ``over``; return the ticket that has the claim now."""
        with self._ledger.reached():
            owner = self._claim(
                keys=[claim_key(row)], args=[row.request.upload_id, over, ROW_KEPT_S]
            )
        return str(owner)

    def release(self, row: UploadState) -> int:
        """Release an upload's file; return how many others use it. Twice is once."""
        if row.file is None or row.content is None:
            return 0  # it never had a file that others could take
        keys = [users_key(row.request.profile, row.file.name), claim_key(row)]
        with self._ledger.reached():
            return int(self._release(keys=keys, args=[row.request.upload_id]))

    def shared(self, profile: str, name: str) -> bool:
        """Whether some upload still uses this file, that was taken by more than one."""
        with self._ledger.reached():
            return bool(self._ledger.redis.exists(users_key(profile, name)))


def claim_state(owner: UploadState, content: str | None, spare_s: float) -> ClaimState:
    """Say what the owner of a claim on these bytes is good for, as far as its row knows."""
    if owner.content != content:
        return ClaimState.VOID  # its source changed before it was sent
    if not owner.stage.ended:
        return ClaimState.LIVING
    if owner.stage is not Stage.ACTIVE or owner.released_at is not None or owner.file is None:
        return ClaimState.VOID
    return ClaimState.ACTIVE if usable(owner.file, owner, spare_s) else ClaimState.VOID


def usable(file: ProviderFile, owner: UploadState, spare_s: float) -> bool:
    """Whether a file has the bytes its owner claimed, and ``spare_s`` seconds left to live."""
    sent_at = datetime.fromtimestamp(owner.processing_at or owner.queued_at, UTC)
    expires_at = file.expires_at or sent_at + timedelta(seconds=KEPT_S)
    return (
        file.state == Stage.ACTIVE
        and file.sha256 == owner.content
        and expires_at > datetime.now(UTC) + timedelta(seconds=spare_s)
    )


def content_of(source: Source, watch: Callable[[int], None]) -> str:
    """Return the sha256 of a source, in hex; ``watch`` is told the bytes read, and may raise.

    Raises SourceChangedError if it is not read as it was opened.
    """
    digest, read_bytes = hashlib.sha256(), 0
    while block := source.stream.read(_BLOCK_BYTES):
        digest.update(block)
        read_bytes += len(block)
        watch(read_bytes)
    if read_bytes != source.size_bytes:
        raise SourceChangedError(source.path, source.size_bytes, read_bytes)
    source.unchanged()
    return digest.hexdigest()


def claim_key(row: UploadState) -> str:
    """Return the key of the claim on an upload's bytes, which must have been read."""
    request = row.request
    return (
        f"{protocol.KEY_PREFIX}reuse:{request.profile}:{request.mime_type}:"
        f"{row.expected_bytes}:{row.content}"
    )


def users_key(profile: str, name: str) -> str:
    """Return the key of the set of those who share a file."""
    return f"{protocol.KEY_PREFIX}users:{profile}:{name}"
