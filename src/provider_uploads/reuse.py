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

from provider_uploads import contract
from provider_uploads.errors import SourceChangedError
from provider_uploads.ledger import ROW_KEPT_S, Ledger
from provider_uploads.records import KEPT_S, ProviderFile, Stage
from provider_uploads.rows import Row
from provider_uploads.sources import Source

_BLOCK_BYTES = 1024**2

# KEYS: the claim. ARGV: who claims; whose claim is void, or ''; seconds to keep it.
# Returns whose it is now.
_CLAIM = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] and owner ~= ARGV[2] then return owner end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return ARGV[1]
"""

# KEYS: the users of a file; the claim. ARGV: who leaves. Returns how many still use it. One of
# them inherits the claim, so that the next of the same bytes finds the file.
_LEAVE = """
redis.call('SREM', KEYS[1], ARGV[1])
if redis.call('GET', KEYS[2]) == ARGV[1] then
  local heir = redis.call('SRANDMEMBER', KEYS[1])
  if heir then redis.call('SET', KEYS[2], heir, 'KEEPTTL') else redis.call('DEL', KEYS[2]) end
end
return redis.call('SCARD', KEYS[1])
"""


class Standing(StrEnum):
    """What the owner of a claim means for others with the same bytes."""

    #: It is on its way: wait for it.
    LIVING = "living"
    #: Its file can be had, if the provider says so too.
    ACTIVE = "active"
    #: Nothing will come of it, or not for long enough: take its claim.
    VOID = "void"


class Reuse:
    """The claims in a ledger's Redis; raises QueueUnavailableError as the ledger does."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._claim = ledger.redis.register_script(_CLAIM)
        self._leave = ledger.redis.register_script(_LEAVE)

    def claim(self, row: Row, *, over: str = "") -> str:
        """Claim an upload's bytes, also from ``over``; return the ticket that has the claim now."""
        with self._ledger.reached():
            owner = self._claim(
                keys=[claim_key(row)], args=[row.request.upload_id, over, ROW_KEPT_S]
            )
        return str(owner)

    def leave(self, row: Row) -> int:
        """Let go of an upload's file; return how many others use it. Twice is once."""
        if row.file is None or row.content is None:
            return 0  # it never had a file that others could take
        keys = [users_key(row.request.profile, row.file.name), claim_key(row)]
        with self._ledger.reached():
            return int(self._leave(keys=keys, args=[row.request.upload_id]))

    def shared(self, profile: str, name: str) -> bool:
        """Whether some upload still uses this file, that was taken by more than one."""
        with self._ledger.reached():
            return bool(self._ledger.redis.exists(users_key(profile, name)))


def standing(owner: Row, content: str | None, spare_s: float) -> Standing:
    """Say what the owner of a claim on these bytes is good for, as far as its row knows."""
    if owner.content != content:
        return Standing.VOID  # its source changed before it was sent
    if not owner.stage.ended:
        return Standing.LIVING
    if owner.stage is not Stage.ACTIVE or owner.let_go_at is not None or owner.file is None:
        return Standing.VOID
    return Standing.ACTIVE if usable(owner.file, owner, spare_s) else Standing.VOID


def usable(file: ProviderFile, owner: Row, spare_s: float) -> bool:
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


def claim_key(row: Row) -> str:
    """Return the key of the claim on an upload's bytes, which must have been read."""
    request = row.request
    return (
        f"{contract.KEY_PREFIX}reuse:{request.profile}:{request.mime_type}:"
        f"{row.expected_bytes}:{row.content}"
    )


def users_key(profile: str, name: str) -> str:
    """Return the key of the set of those who share a file."""
    return f"{contract.KEY_PREFIX}users:{profile}:{name}"
