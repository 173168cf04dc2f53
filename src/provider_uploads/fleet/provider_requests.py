"""A request that is neither an upload's nor a poll's, begun in one round trip.

Whether there is a permit and whether the provider is up: ``request_begin.lua`` asks for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from provider_uploads.fleet.breaker import Breaker, BreakerState, breaker_key
from provider_uploads.fleet.limits import CONSTANTS, Limits, permits_keys
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.connection import Connection
from provider_uploads.ledger.steps import reply
from provider_uploads.lua import LuaScript

_BEGIN: Final = LuaScript(
    "provider_uploads.fleet",
    "limits_functions",
    "breaker_functions",
    "request_begin",
    constants=CONSTANTS,
)


@dataclass(frozen=True, slots=True)
class RequestBeginning:
    """When to send a request: now, if there is neither a wait nor an outage."""

    #: Seconds until its permit.
    wait_s: float
    #: The permit's token; '' in an outage, or where none is reserved: ask again after the wait.
    token: str
    breaker: BreakerState


class ProviderRequests:
    """Begins requests; thread-safe; raises QueueUnavailableError as the ledger does."""

    def __init__(self, ledger: Connection, limits: Limits, breaker: Breaker) -> None:
        self._ledger = ledger
        self._limits = limits
        self._breaker = breaker

    def begin(
        self, profile: str, work: Work, *, permit: str = "", ahead_s: float | None = None
    ) -> RequestBeginning:
        """Take the next permit, or the one with this token; nothing in an outage.

        A permit further ahead than ``ahead_s`` seconds is not reserved; None reserves any.
        """
        keys = [*permits_keys(profile, work), breaker_key(profile)]
        command = _BEGIN.command(
            keys,
            [
                *(profile, work, self._limits.tier_rate(profile, work), permit),
                *("" if ahead_s is None else ahead_s, self._breaker.failures, self._breaker.gaps),
            ],
        )
        wait_s, token, outage_s, failures = self._ledger.run(reply(command))
        state = self._breaker.state(float(outage_s), int(failures))
        return RequestBeginning(float(wait_s), token, state)
