"""An attempt to send an upload, begun in one round trip.

Who sends, in which state the upload is, whether the provider is up, whether there is storage and a
permit: one script (``attempt_begin.lua``) asks for all of it, and either all is taken or nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from provider_uploads.fleet.breaker import Breaker, BreakerState, breaker_key
from provider_uploads.fleet.limits import CONSTANTS, Limits, permits_keys
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.lease import Lease, lease_key
from provider_uploads.ledger.state import UploadState
from provider_uploads.ledger.storage import storage_keys
from provider_uploads.ledger.upload_steps import OPEN_KEY, row_key
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.lua import read_script
from provider_uploads.protocol import KEPT_S
from provider_uploads.schemas import UploadRequest


class Obstacle(StrEnum):
    """What does not allow an attempt, or a question, now."""

    #: The ledger knows no such upload.
    UNKNOWN = "unknown"
    #: Its bytes are at the provider, or it has ended.
    MOVED_ON = "moved_on"
    #: Another delivery is at it.
    LEASED = "leased"
    #: The provider's service is down: for so many seconds, nobody asks it.
    OUTAGE = "outage"
    #: So many bytes of storage are missing.
    STORAGE = "storage"
    #: The rate limit allows none for so many seconds.
    PERMIT = "permit"
    #: A question's files are not ACTIVE yet.
    FILES = "files"
    #: One of them ended without a file.
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class StorageNeed:
    """What an upload takes of its account's storage; all in bytes."""

    size_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Beginning:
    """What came of it: begun, or why not and a number about that (seconds or bytes)."""

    obstacle: Obstacle | None
    amount: float
    #: On Redis's clock, in seconds since 1970.
    now: float
    #: The permit's token.
    token: str
    breaker: BreakerState
    #: As it was before; None for an unknown one.
    row: UploadState | None


class Attempts:
    """Begins attempts; thread-safe; raises QueueUnavailableError as the ledger does."""

    def __init__(self, ledger: Ledger, limits: Limits, breaker: Breaker) -> None:
        self._ledger = ledger
        self._limits = limits
        self._breaker = breaker
        of_ledger = ("upload_functions", "storage_functions")
        of_fleet = ("limits_functions", "breaker_functions", "attempt_begin")
        text = read_script("provider_uploads.fleet", *of_fleet, constants=CONSTANTS)
        text = read_script("provider_uploads.ledger", *of_ledger) + "\n" + text
        self._begin = ledger.redis.register_script(text)

    def hold(self, request: UploadRequest, lease: Lease) -> Beginning:
        """Take the lease and read the row: what is needed to find out what to ask for."""
        return self._run(request, lease, None, "")

    def begin(
        self,
        request: UploadRequest,
        lease: Lease,
        *,
        permit: str = "",
        storage: StorageNeed | None = None,
        change: str = "",
    ) -> Beginning:
        """Take lease, storage and permit; all or nothing.

        ``permit`` is the token of one that was taken already; ``change``, as
        ``upload_steps.change`` makes it, is written with them.
        """
        profile = request.profile
        admission = {
            "profile": profile,
            "work": Work.UPLOAD,
            "rate": self._limits.tier_rate(profile, Work.UPLOAD),
            "permit": permit,
            "failures": self._breaker.failures,
            "gaps": self._breaker.gaps,
            "storage": storage
            and {
                "bytes": storage.size_bytes,
                "limit": storage.limit_bytes,
                "kept_s": KEPT_S,
            },
        }
        return self._run(request, lease, admission, change)

    def _run(
        self,
        request: UploadRequest,
        lease: Lease,
        admission: Mapping[str, Any] | None,
        change: str,
    ) -> Beginning:
        ticket, profile = request.upload_id, request.profile
        wanted = {
            "ticket": ticket,
            "lease": lease.token,
            "lease_ms": int(lease.ttl_s * 1000),
            "admission": admission,
        }
        keys = [
            *(row_key(ticket), OPEN_KEY, lease_key(ticket), breaker_key(profile)),
            *permits_keys(profile, Work.UPLOAD),
            *storage_keys(profile),
        ]
        args = [json.dumps(wanted), change]
        lease.asking()
        with self._ledger.reached():
            said = self._begin(keys=keys, args=args)
        if said[0] == Obstacle.UNKNOWN:  # its client wrote no row
            self._ledger.open([request])
            with self._ledger.reached():
                said = self._begin(keys=keys, args=args)
        word, amount, now, token, failures, flat = said
        lease.answered(held=not word)
        return Beginning(
            Obstacle(word) if word else None,
            float(amount),
            float(now),
            token,
            self._breaker.state(float(amount) if word == Obstacle.OUTAGE else 0.0, int(failures)),
            UploadState.of(ticket, dict(zip(flat[::2], flat[1::2], strict=True))) if flat else None,
        )
