"""The fleet's rate limits and cool-downs, in Redis and on Redis's clock.

For each profile and kind of work there is one row of turns, spaced so that no sixty seconds hold
more of them than the rate allows (the generic cell rate algorithm: one number, the time of the
next turn). Whoever asks gets a wait and, unless that is too far ahead, the turn at its end:

    turn = limits.take("default", Work.UPLOAD)
    …                                    # turn.wait_s later
    turn = limits.take("default", Work.UPLOAD, held=turn.mark)
    turn.wait_s == 0.0                   # else a cool-down came in between, or we came late

A 429 puts all of them on hold (``cool``); after that the row is thinned out and fills again
slowly, because a limit that was hit once is lower than we believe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from provider_uploads import contract
from provider_uploads.backoff import Backoff
from provider_uploads.ledger import Ledger
from provider_uploads.tiers import Tier, Work, per_minute

#: What is left unused of a rate: turns are granted here and counted there, and a request that is
#: held up on its way may arrive 1.2 s later (60 s x 2 %) than the one behind it expects.
SPARE: Final = 0.02
#: So much of a rate may go at once after a pause; the steady rate pays for it, so that no minute
#: holds more than the rate.
BURST: Final = 0.02
#: After a 429: this share of the rate that was too much. Three of them find a limit half as high.
BACK_OFF: Final = 0.75
#: How much of the tier's rate comes back a minute: a third in seven.
RECOVERY: Final = 0.05
#: However many 429s there were, this share is tried.
LEAST: Final = 0.02
#: The least waits after a 429: a second, and longer when the next one follows soon.
COOL_DOWNS: Final = Backoff(1.0, 2.0, 60.0)
_KEPT_S: Final = 2 * 24 * 3600

_RATES: Final = f"{contract.KEY_PREFIX}rates"

# KEYS: the row of turns; the rates that were set. ARGV: the profile, the work, the tier's rate a
# minute (0: none). Defines now, row, rate, share, burst, interval (s; 0: no limit), spacing(share).
_STATE = f"""
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local said = redis.call('HMGET', KEYS[1], 'next', 'epoch', 'until', 'share', 'share_at', 'used')
local row = {{next = tonumber(said[1] or '0'), epoch = said[2] or '0'}}
row.on_hold, row.used = tonumber(said[3] or '0'), tonumber(said[6] or '0')
local rate = redis.call('HGET', KEYS[2], ARGV[1] .. ':' .. ARGV[2])
  or redis.call('HGET', KEYS[2], ARGV[2]) or ARGV[3]
rate = tonumber(rate)
local share = 1
if said[4] then
  local recovered = math.max(now - tonumber(said[5]), 0) / 60 * {RECOVERY}
  share = math.min(tonumber(said[4]) + recovered, 1)
end
local burst, interval = 1, 0
if rate > 0 and share == 1 then burst = math.max(math.floor(rate * {BURST}), 1) end
local function spacing(part)
  if rate == 0 then return 0 end
  return 60 / math.max(rate * part * {1 - SPARE} - (burst - 1), rate * {LEAST} / 2)
end
interval = spacing(share)
"""

# ARGV[4]: the mark of a turn that is held, or nothing. ARGV[5]: seconds ahead that a turn may be
# reserved; nothing: any. ARGV[6]: intervals ahead that it may be. Returns the wait, the turn's mark
# ('': none is reserved), the interval, and why all wait if they do.
#
# Turns that come later than SPARE allows for, as those of a worker that was away do, would be a
# burst together with those in time. So they go as far as others left theirs unused ("used" is the
# row of turns that were, in time or late), and the rest take the next one.
_TAKE = (
    _STATE
    + f"""
local epoch, at = string.match(ARGV[4], '^(%d+):(.+)$')
local wait = math.max(row.on_hold - now, 0)
local mark, why = '', ''
if wait > 0 then why = redis.call('HGET', KEYS[1], 'why') or '' end
local late = interval > 0 and now - (tonumber(at) or now) > {60 * SPARE}
if epoch == row.epoch and not (late and row.used > now + {60 * SPARE}) then
  mark, wait = ARGV[4], math.max(wait, tonumber(at) - now)
elseif interval == 0 then
  if wait == 0 then mark = row.epoch .. ':0' end
else
  local begin = math.max(row.next - (burst - 1) * interval, now, row.on_hold)
  wait = begin - now
  local ahead = tonumber(ARGV[5])
  if ahead == nil or wait <= math.max(ahead, tonumber(ARGV[6]) * interval) then
    mark = row.epoch .. ':' .. string.format('%.6f', begin)
    redis.call('HSET', KEYS[1], 'next', string.format('%.6f', math.max(row.next, begin) + interval))
  end
end
if wait <= 0 and interval > 0 then
  redis.call('HSET', KEYS[1], 'used', string.format('%.6f', math.max(row.used, now) + interval))
end
if interval > 0 then redis.call('EXPIRE', KEYS[1], {_KEPT_S}) end
return {{string.format('%.6f', wait), mark, string.format('%.6f', interval), why}}
"""
)

# ARGV[4]: the mark of the turn that was refused. ARGV[5]: seconds that the provider named, or
# nothing. ARGV[6]: waits for when it named none (JSON). ARGV[7]: why. Returns the seconds on hold.
_COOL = (
    _STATE
    + f"""
local epoch = string.match(ARGV[4], '^(%d+):') or row.epoch
local waits = cjson.decode(ARGV[6])
local streak = tonumber(redis.call('HGET', KEYS[1], 'streak') or '0')
-- What was long enough the last time, and was followed by as long without a 429, was enough.
if streak > 0 and now - row.on_hold > waits[math.min(streak, #waits)] then streak = 0 end
-- Those that were on their way already say nothing new, but how long to wait.
local first = epoch == row.epoch
if first then
  streak = streak + 1
  share = math.max(share * {BACK_OFF}, {LEAST})
  redis.call('HSET', KEYS[1], 'share', share, 'streak', streak)
end
-- At least our own wait: a provider that names none, or a past moment, again and again must not
-- be asked again and again.
local own = waits[math.min(math.max(streak, 1), #waits)]
local on_hold = math.max(row.on_hold, now + math.max(tonumber(ARGV[5]) or 0, own))
local text = string.format('%.6f', on_hold)
redis.call('HSET', KEYS[1], 'until', text, 'why', ARGV[7], 'share_at', text)
if first or on_hold > row.on_hold then
  -- What was reserved is void, or all of it would be due in the moment the hold ends; the one that
  -- was refused has had its turn.
  redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  local next = math.max(on_hold, now + spacing(share))
  redis.call('HSET', KEYS[1], 'next', string.format('%.6f', next))
end
redis.call('EXPIRE', KEYS[1], {_KEPT_S})
return string.format('%.6f', on_hold - now)
"""
)

# KEYS: the rates; then rows whose turns begin anew. ARGV: the field, the rate a minute or nothing
# for the tier's own, then fields that no longer count.
_SET = """
local before = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if ARGV[2] == '' then redis.call('HDEL', KEYS[1], ARGV[1])
else redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
local changed = before ~= ARGV[2]
for n = 3, #ARGV do changed = redis.call('HDEL', KEYS[1], ARGV[n]) == 1 or changed end
-- What every worker says once each begins once.
for n = 2, #KEYS do
  local held = redis.call('HMGET', KEYS[n], 'until', 'share')
  if redis.call('EXISTS', KEYS[n]) == 1 and (changed or held[1] or held[2]) then
    redis.call('HINCRBY', KEYS[n], 'epoch', 1)
    redis.call('HDEL', KEYS[n], 'next', 'used', 'until', 'share', 'share_at')
  end
end
"""


#: What each profile's tier allows, as the workers have said: read where no tiers are, by the CLI.
_TIERS: Final = f"{contract.KEY_PREFIX}tiers"


@dataclass(frozen=True, slots=True)
class Ahead:
    """How far ahead a turn may be reserved: so many seconds, or so many turns if that is more."""

    seconds: float
    turns: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """When to go: in ``wait_s`` seconds, 0.0 for now."""

    wait_s: float
    #: What to hold on to until then; empty when no turn was reserved: ask again after the wait.
    mark: str
    #: Seconds between two turns of the fleet; 0.0 without a limit.
    interval_s: float
    #: Why all wait, after a 429.
    why: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a profile stands with one kind of work."""

    profile: str
    work: Work
    #: Requests a minute by the tier, and as they are now; 0 is no limit.
    tier_rate: float
    rate: float
    #: The share of the rate in use, below 1.0 for a while after a 429.
    share: float
    #: Seconds that everybody still waits, and why.
    on_hold_s: float
    why: str


def publish(ledger: Ledger, profile: str, tier: Tier) -> None:
    """Tell everybody which tier a profile is in, and what that allows."""
    with ledger.reached():
        ledger.redis.hset(_TIERS, profile, tier.model_dump_json())


def published(ledger: Ledger) -> dict[str, Tier]:
    """Return the tiers by profile, as the last worker that knew them said."""
    with ledger.reached():
        said = cast("dict[str, str]", ledger.redis.hgetall(_TIERS))
    return {name: Tier.said(tier) for name, tier in sorted(said.items())}


class Limits:
    """The turns of all profiles; thread-safe; raises QueueUnavailableError as the ledger does.

    ``tier_rate(profile, work)`` is the rate that holds unless another was set; ``cool_downs`` are
    the least waits, one after another; a longer one that the provider names holds.
    """

    def __init__(
        self,
        ledger: Ledger,
        tier_rate: Callable[[str, Work], str | None],
        cool_downs: Backoff = COOL_DOWNS,
    ) -> None:
        self._ledger = ledger
        self._tier_rate = tier_rate
        self._waits = json.dumps([round(cool_downs.delay(n), 3) for n in range(12)])
        self._take = ledger.redis.register_script(_TAKE)
        self._cool = ledger.redis.register_script(_COOL)
        self._set = ledger.redis.register_script(_SET)
        self._look = ledger.redis.register_script(
            _STATE + "return {tostring(rate), tostring(share), tostring(row.on_hold - now)}"
        )

    def take(self, profile: str, work: Work, *, held: str = "", ahead: Ahead | None = None) -> Turn:
        """Return the next turn, or the one that is ``held``; one round trip.

        A turn further ahead than ``ahead`` is not reserved; None reserves any. One that is held
        and comes more than 1.2 s late goes as long as others leave theirs unused.
        """
        reach: tuple[float | str, int] = ("", 0) if ahead is None else (ahead.seconds, ahead.turns)
        wait_s, mark, interval_s, why = self._run(self._take, profile, work, held, *reach)
        return Turn(float(wait_s), mark, float(interval_s), why)

    def cool(
        self, profile: str, work: Work, wait_s: float | None, why: str, held: str = ""
    ) -> float:
        """Put everybody's turns on hold after a 429; return for how many seconds.

        ``wait_s`` is what the provider named, and no less than the backoff; ``held`` the turn that
        was refused.
        """
        named = "" if wait_s is None else wait_s
        return float(self._run(self._cool, profile, work, held, named, self._waits, why))

    def set_rate(
        self, work: Work, rate: str | None, *, profile: str | None = None, profiles: Iterable[str]
    ) -> None:
        """Let a rate hold for the fleet from now on, whatever the tier says.

        For one profile, or for all ``profiles`` there are; ``"0"`` is no limit, None the tier's
        rate again. It ends a cool-down. Raises ValueError when it is no rate.
        """
        value = "" if rate is None else repr(per_minute(rate))
        names = list(profiles) if profile is None else [profile]
        field, own = work.value, [f"{name}:{work}" for name in names]
        args = [field, value, *own] if profile is None else [own[0], value]
        with self._ledger.reached():
            self._set(keys=[_RATES, *(_key(name, work) for name in names)], args=args)

    def standing(self, profile: str, work: Work) -> Standing:
        """Return how a profile stands with one kind of work."""
        rate, share, on_hold_s = self._run(self._look, profile, work)
        with self._ledger.reached():
            why = self._ledger.redis.hget(_key(profile, work), "why")
        held = max(float(on_hold_s), 0.0)
        by_tier = per_minute(self._tier_rate(profile, work))
        return Standing(
            profile, work, by_tier, float(rate), float(share), held, str(why or "") if held else ""
        )

    def _run(self, script: Any, profile: str, work: Work, *args: float | str) -> Any:
        by_tier = per_minute(self._tier_rate(profile, work))
        with self._ledger.reached():
            return script(keys=[_key(profile, work), _RATES], args=[profile, work, by_tier, *args])


def _key(profile: str, work: Work) -> str:
    return f"{contract.KEY_PREFIX}turns:{profile}:{work}"
