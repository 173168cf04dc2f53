"""The fleet's rate limits and cool-downs, in Redis and on Redis's clock.

Each profile and kind of work has its permits, spaced so that no sixty seconds hold more of them
than the rate allows (the generic cell rate algorithm: one number, the time of the next permit).
Whoever asks gets a wait and, unless that is too far ahead, a reservation for its end:

    permit = limits.acquire("default", Work.UPLOAD)
    …                                    # permit.wait_s later
    permit = limits.acquire("default", Work.UPLOAD, held=permit.token)
    permit.wait_s == 0.0                 # else a cool-down came in between, or we came late

A 429 puts all of them on hold (``cool_down``) and lowers the rate by a factor, which recovers
slowly: additive increase, multiplicative decrease. The scripts are the ``limits_*.lua`` files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.commands.core import Script

from provider_uploads import protocol
from provider_uploads.backoff import Backoff
from provider_uploads.fleet.tiers import PAUSED, Tier, Work, per_minute
from provider_uploads.ledger.connection import Connection
from provider_uploads.lua import read_script

#: The part of a rate that stays unused: permits are granted here and counted there, and a delayed
#: request may arrive up to 1.2 s late (60 s x 2 %).
MARGIN: Final = 0.02
#: The part of a rate that may go at once after a pause; the steady rate is lower by as much, so no
#: minute holds more than the rate.
BURST: Final = 0.02
#: A 429 multiplies the factor by this: three of them find a limit half as high.
BACK_OFF: Final = 0.75
#: What the factor gains a minute: a third in seven.
RECOVERY: Final = 0.05
#: The factor never falls below this.
LEAST: Final = 0.02
#: The least waits after a 429, longer when the next one follows soon.
COOL_DOWNS: Final = Backoff(1.0, 2.0, 60.0)
#: How soon those who wait for a pause to end ask again.
PAUSED_S: Final = 10.0
_KEPT_S: Final = 2 * 24 * 3600

_RATES: Final = f"{protocol.KEY_PREFIX}rates"

#: What the scripts take from here.
CONSTANTS: Final = {
    "MARGIN": MARGIN,
    "BURST": BURST,
    "BACK_OFF": BACK_OFF,
    "RECOVERY": RECOVERY,
    "LEAST": LEAST,
    "PAUSED_S": PAUSED_S,
    "KEPT_S": _KEPT_S,
}


#: What each profile's tier allows, as the workers have said: read where no tiers are, by the CLI.
_TIERS: Final = f"{protocol.KEY_PREFIX}tiers"


@dataclass(frozen=True, slots=True)
class Horizon:
    """How far ahead a permit may be reserved: in seconds, or in permits if that is more."""

    seconds: float
    permits: int = 0


@dataclass(frozen=True, slots=True)
class Permit:
    """When to go: in ``wait_s`` seconds, 0.0 for now."""

    wait_s: float
    #: Names the reservation; empty when there is none: ask again after the wait.
    token: str
    #: Seconds between two permits of the fleet; 0.0 without a limit.
    interval_s: float
    #: Why everybody waits: ``paused`` by an operator, or what a 429 said.
    why: str = ""


@dataclass(frozen=True, slots=True)
class RateLimitStatus:
    """The rate limit of one kind of work for one profile, as it is now."""

    profile: str
    work: Work
    #: Requests a minute by the tier, and as they are now; 0 is no limit, PAUSED none at all.
    tier_rate: float
    rate: float
    #: The part of the rate in use, below 1.0 for a while after a 429.
    factor: float
    #: Seconds of the cool-down that are left, and its reason.
    on_hold_s: float
    why: str


def publish(ledger: Connection, profile: str, tier: Tier) -> None:
    """Publish which tier a profile is in, and what that allows."""
    with ledger.reached():
        ledger.redis.hset(_TIERS, profile, tier.model_dump_json())


def published(ledger: Connection) -> dict[str, Tier]:
    """Return the tiers by profile, as the last worker that knew them said."""
    with ledger.reached():
        said = cast("dict[str, str]", ledger.redis.hgetall(_TIERS))
    return {name: Tier.said(tier) for name, tier in sorted(said.items())}


class Limits:
    """The permits of all profiles; thread-safe; raises QueueUnavailableError as the ledger does.

    ``tier_rate(profile, work)`` is the rate unless another was set; ``cool_downs`` are the least
    waits after 429s in a row; a longer one that the provider names holds.
    """

    def __init__(
        self,
        ledger: Connection,
        tier_rate: Callable[[str, Work], str | None],
        cool_downs: Backoff = COOL_DOWNS,
    ) -> None:
        self._ledger = ledger
        self._tier_rate = tier_rate
        self._waits = json.dumps([round(cool_downs.delay(n), 3) for n in range(12)])
        self._acquire = self._script("limits_functions", "limits_acquire")
        self._cool_down = self._script("limits_functions", "limits_cool_down")
        self._set = self._script("limits_set")
        self._status = self._script("limits_functions", "limits_status")

    def _script(self, *names: str) -> Script:
        script = read_script("provider_uploads.fleet", *names, constants=CONSTANTS)
        return self._ledger.redis.register_script(script)

    def acquire(
        self, profile: str, work: Work, *, held: str = "", ahead: Horizon | None = None
    ) -> Permit:
        """Return the next permit, or the one with the token ``held``; one round trip.

        A permit further ahead than ``ahead`` is not reserved; None reserves any. One that is used
        more than 1.2 s late counts only while the rate has unused capacity.
        """
        horizon: tuple[float | str, int] = (
            ("", 0) if ahead is None else (ahead.seconds, ahead.permits)
        )
        wait_s, token, interval_s, why = self._run(self._acquire, profile, work, held, *horizon)
        return Permit(float(wait_s), token, float(interval_s), why)

    def cool_down(
        self, profile: str, work: Work, wait_s: float | None, why: str, held: str = ""
    ) -> float:
        """Put all permits on hold after a 429; return for how many seconds.

        ``wait_s`` is what the provider named, if it did; ``held`` is the token of the permit that
        was refused.
        """
        named = "" if wait_s is None else wait_s
        return float(self._run(self._cool_down, profile, work, held, named, self._waits, why))

    def set_rate(
        self, work: Work, rate: str | None, *, profile: str | None = None, profiles: Iterable[str]
    ) -> None:
        """Set a rate for the fleet, in place of the tier's; it ends a cool-down.

        For one profile, or for all ``profiles``; ``"unlimited"`` is no limit, ``"pause"`` no new
        requests, None the tier's rate again. Raises ValueError when it is no rate.
        """
        named = {None: "", "unlimited": "0", "pause": str(PAUSED)}
        value = named[rate] if rate in named else repr(per_minute(rate))
        names = list(profiles) if profile is None else [profile]
        field, own = work.value, [f"{name}:{work}" for name in names]
        args = [field, value, *own] if profile is None else [own[0], value]
        with self._ledger.reached():
            self._set(keys=[_RATES, *(_key(name, work) for name in names)], args=args)

    def status(self, profile: str, work: Work) -> RateLimitStatus:
        """Return a profile's rate limit for one kind of work."""
        rate, factor, on_hold_s = self._run(self._status, profile, work)
        with self._ledger.reached():
            why = self._ledger.redis.hget(_key(profile, work), "why")
        held = max(float(on_hold_s), 0.0)
        by_tier = self.tier_rate(profile, work)
        return RateLimitStatus(
            profile, work, by_tier, float(rate), float(factor), held, str(why or "") if held else ""
        )

    def tier_rate(self, profile: str, work: Work) -> float:
        """Return what the tier allows, in requests a minute: 0 is no limit, PAUSED none at all."""
        return per_minute(self._tier_rate(profile, work))

    def _run(self, script: Any, profile: str, work: Work, *args: float | str) -> Any:
        by_tier = self.tier_rate(profile, work)
        with self._ledger.reached():
            return script(keys=permits_keys(profile, work), args=[profile, work, by_tier, *args])


def permits_keys(profile: str, work: Work) -> list[str]:
    """Return the keys that ``permits_of`` of limits_functions.lua takes."""
    return [_key(profile, work), _RATES]


def _key(profile: str, work: Work) -> str:
    return f"{protocol.KEY_PREFIX}turns:{profile}:{work}"
