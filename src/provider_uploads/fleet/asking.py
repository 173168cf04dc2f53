"""A question's request to the model, begun in one round trip.

Whether its files are ACTIVE, who asks, whether there is a permit: one script
(``question_begin.lua``) asks for all of it, and either all is taken or nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from provider_uploads.errors import UnknownTicketError
from provider_uploads.fleet.attempts import Obstacle
from provider_uploads.fleet.limits import CONSTANTS, Limits, permits_keys
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.connection import Connection
from provider_uploads.ledger.lease import Lease, lease_key
from provider_uploads.ledger.state import UploadState
from provider_uploads.ledger.steps import reply
from provider_uploads.ledger.upload_steps import row_key
from provider_uploads.lua import LuaScript
from provider_uploads.schemas import UploadStatus

_BEGIN: Final = LuaScript(
    "provider_uploads.fleet", "limits_functions", "question_begin", constants=CONSTANTS
)


@dataclass(frozen=True, slots=True)
class QuestionBeginning:
    """What came of it: begun, with all ``uploads`` ACTIVE, or why not."""

    obstacle: Obstacle | None
    #: The permit's token.
    token: str = ""
    #: In the order they were given; where one has ended badly, that one alone.
    uploads: tuple[UploadStatus, ...] = ()


class Asking:
    """Begins to ask; thread-safe; raises QueueUnavailableError as the ledger does."""

    def __init__(self, ledger: Connection, limits: Limits) -> None:
        self._ledger = ledger
        self._limits = limits

    def begin(
        self,
        question_id: str,
        profile: str,
        uploads: Sequence[str],
        lease: Lease,
        *,
        permit: str = "",
    ) -> QuestionBeginning:
        """Take lease and permit if all ``uploads``, tickets, are ACTIVE; all or nothing.

        ``permit`` is the token of one that was taken already. Raises UnknownTicketError for an
        upload that nobody knows, and what ``UploadState.seen`` raises.
        """
        permits = permits_keys(profile, Work.GENERATE)
        keys = [lease_key(question_id), *permits, *(row_key(ticket) for ticket in uploads)]
        rate = self._limits.tier_rate(profile, Work.GENERATE)
        args = [lease.token, int(lease.ttl_s * 1000), profile, Work.GENERATE, rate, permit]
        lease.asking()
        word, number, token, found = self._ledger.run(reply(_BEGIN.command(keys, args)))
        lease.answered(held=not word)
        if word == Obstacle.UNKNOWN:
            raise UnknownTicketError(uploads[int(number)])
        first = int(number) if word == Obstacle.ENDED else 0
        rows = [
            UploadState.seen(ticket, dict(zip(flat[::2], flat[1::2], strict=True)))
            for ticket, flat in zip(uploads[first:], found, strict=False)
        ]
        now = time.time()
        return QuestionBeginning(
            Obstacle(word) if word else None, token, tuple(one.status(now) for one in rows)
        )
