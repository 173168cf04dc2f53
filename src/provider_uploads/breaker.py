"""A circuit breaker for each profile's Files service, shared by all workers through Redis.

Closed, everybody asks. After ``failures`` failures in a row it is open: one worker at a time asks,
as a probe, at growing intervals, and the others come back later without asking. One success
closes it. Only what a service does that is down counts: 5xx, broken connections, silence.
"""

from __future__ import annotations

from dataclasses import dataclass

from provider_uploads import contract
from provider_uploads.backoff import Backoff
from provider_uploads.ledger import Ledger

#: Failures further apart than this belong to no row.
_FORGOTTEN_AFTER_S = 600

# ARGV: how many failures open it, the seconds to the next probe after each opening (JSON).
_OPENED = """
local function now()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end
local function probe_after(openings)
  local gaps = cjson.decode(ARGV[2])
  local at = now() + gaps[math.min(openings, #gaps)]
  redis.call('HSET', KEYS[1], 'probe_at', string.format('%.6f', at))
end
local most = tonumber(ARGV[1])
"""
# Returns the seconds to wait and the failures so far.
_ASK = (
    _OPENED
    + """
local state = redis.call('HMGET', KEYS[1], 'failures', 'openings', 'probe_at')
local failures = tonumber(state[1] or '0')
if failures < most then return {'0', failures} end
local left = tonumber(state[3] or '0') - now()
if left > 0 then return {string.format('%.3f', left), failures} end
probe_after(tonumber(state[2] or '1'))
return {'0', failures}
"""
)
# ARGV[3]: after so many seconds it forgets; ARGV[4]: whether this was the probe.
_FAILED = (
    _OPENED
    + """
local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
redis.call('EXPIRE', KEYS[1], ARGV[3])
if failures < most then return 0 end
if failures == most then redis.call('HSET', KEYS[1], 'opened_at', now()) end
if failures == most or ARGV[4] == '1' then  -- those asked before it opened say nothing new
  probe_after(redis.call('HINCRBY', KEYS[1], 'openings', 1))
end
return 1
"""
)


@dataclass(frozen=True, slots=True)
class Permit:
    """What the breaker says: ask now, or come back in ``wait_s`` seconds."""

    wait_s: float
    #: Whether there has been trouble, so that a success is worth telling.
    troubled: bool
    #: Whether this is the one request that finds out.
    probe: bool


class Breaker:
    """The breakers in a ledger's Redis; raises QueueUnavailableError as the ledger does."""

    def __init__(self, ledger: Ledger, *, failures: int, probes: Backoff) -> None:
        self._ledger = ledger
        self._failures = failures
        self._gaps = [probes.delay(attempt) for attempt in range(16)]
        self._ask = ledger.redis.register_script(_ASK)
        self._failed = ledger.redis.register_script(_FAILED)

    def ask(self, profile: str) -> Permit:
        """Say whether a profile's Files service may be asked now."""
        with self._ledger.reached():
            wait_s, failures = self._ask(keys=[_key(profile)], args=[self._failures, self._json()])
        probe = int(failures) >= self._failures and float(wait_s) == 0
        return Permit(float(wait_s), int(failures) > 0, probe)

    def failed(self, profile: str, permit: Permit) -> bool:
        """Count a failure; return whether the breaker is open by now."""
        args: list[float | str] = [
            self._failures,
            self._json(),
            _FORGOTTEN_AFTER_S,
            int(permit.probe),
        ]
        with self._ledger.reached():
            return bool(self._failed(keys=[_key(profile)], args=args))

    def worked(self, profile: str, permit: Permit) -> None:
        """Close it, if it had anything to say."""
        if permit.troubled:
            with self._ledger.reached():
                self._ledger.redis.delete(_key(profile))

    def _json(self) -> str:
        return "[" + ",".join(f"{gap:g}" for gap in self._gaps) + "]"


@dataclass(frozen=True, slots=True)
class Outage:
    """An open breaker; seconds on Redis's clock."""

    lasted_s: float
    #: Until somebody may probe; 0 when the next one who asks is the probe.
    next_probe_s: float


def outage(ledger: Ledger, profile: str) -> Outage | None:
    """Return what the workers know of a profile's Files service being down; None if it is not."""
    with ledger.reached():
        opened_at, probe_at = ledger.redis.hmget(_key(profile), "opened_at", "probe_at")
    if opened_at is None:
        return None
    now = ledger.now()
    return Outage(now - float(opened_at), max(float(probe_at or 0) - now, 0.0))


def _key(profile: str) -> str:
    return f"{contract.KEY_PREFIX}breaker:{profile}"
