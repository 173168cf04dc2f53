"""A poll, begun in one round trip.

Whether the message is the one to make it, what a watcher has seen of the file, whether the provider
is up, whether there is a permit: one script (``poll_begin.lua``) asks for all of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from provider_uploads.errors import UnknownTicketError
from provider_uploads.fleet.breaker import Breaker, BreakerState, breaker_key
from provider_uploads.fleet.limits import CONSTANTS, Limits, permits_keys
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.parked import seen_key
from provider_uploads.ledger.state import ClaimResult, UploadState
from provider_uploads.ledger.steps import reply
from provider_uploads.ledger.upload_steps import row_key
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.lua import LuaScript
from provider_uploads.schemas import ProviderFile

#: The script; tests kill workers before and after it.
BEGIN: Final = LuaScript(
    "provider_uploads.fleet",
    "limits_functions",
    "breaker_functions",
    "poll_begin",
    constants=CONSTANTS,
)

_PERMIT: Final = "permit"
_OUTAGE: Final = "outage"


@dataclass(frozen=True, slots=True)
class PollBeginning:
    """What a message may do; where that is to ask the provider, perhaps later."""

    #: GO also in an outage; None: the poll waits for its permit, unclaimed.
    claim: ClaimResult | None
    #: Seconds until that permit, or until somebody may ask.
    wait_s: float
    #: The permit's token ('': none), and why everybody waits for one.
    token: str
    why: str
    #: On Redis's clock, in seconds since 1970.
    now: float
    breaker: BreakerState
    #: The file as a watcher has just seen it: nobody is to be asked.
    seen: ProviderFile | None
    #: As it is now.
    row: UploadState

    @property
    def left_s(self) -> float:
        """Seconds to the deadline: the poll after it is the last."""
        return (self.row.deadline_at or 0.0) - self.now


class Polls:
    """Begins polls; thread-safe; raises QueueUnavailableError as the ledger does."""

    def __init__(self, ledger: Ledger, limits: Limits, breaker: Breaker) -> None:
        self._ledger = ledger
        self._limits = limits
        self._breaker = breaker

    def begin(
        self,
        ticket: str,
        profile: str,
        attempt: int,
        delivery_tag: str,
        *,
        permit: str = "",
        watched: bool = False,
        soon_s: float = 0.0,
    ) -> PollBeginning:
        """Begin the poll number ``attempt`` for the message with this delivery tag.

        ``permit`` is the token of one that was reserved; one that is as near as ``soon_s`` is
        reserved in any case, one further ahead only up to the deadline. ``watched`` says that the
        poll was parked. Raises UnknownTicketError, and what ``UploadState.of`` raises.
        """
        wanted = {
            "attempt": attempt,
            "tag": delivery_tag,
            "seen": watched,
            "profile": profile,
            "work": Work.POLL,
            "rate": self._limits.tier_rate(profile, Work.POLL),
            "permit": permit,
            "soon_s": soon_s,
            "failures": self._breaker.failures,
            "gaps": self._breaker.gaps,
        }
        permits = permits_keys(profile, Work.POLL)
        keys = [row_key(ticket), seen_key(ticket), breaker_key(profile), *permits]
        said = self._ledger.run(reply(BEGIN.command(keys, [json.dumps(wanted)])))
        word, wait, now, token, why, failures, seen, flat = said
        if not flat:
            raise UnknownTicketError(ticket)
        outage_s = 0.0 if word == _PERMIT else float(wait)
        return PollBeginning(
            None if word == _PERMIT else ClaimResult.GO if word == _OUTAGE else ClaimResult(word),
            float(wait),
            token,
            why,
            float(now),
            self._breaker.state(outage_s, int(failures)),
            ProviderFile.model_validate_json(seen) if seen else None,
            UploadState.of(ticket, dict(zip(flat[::2], flat[1::2], strict=True))),
        )
