"""A circuit breaker for each profile's Files service, shared by all workers through Redis.

Closed, everybody sends requests. After ``failures`` consecutive failures it is open: one worker at
a time sends a request, as a probe, at growing intervals, and the others retry later. One success
closes it. Only an outage counts: 5xx, broken connections, timeouts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from redis.commands.core import Script

from provider_uploads import protocol
from provider_uploads.backoff import Backoff
from provider_uploads.ledger.connection import Connection
from provider_uploads.lua import read_script

#: Failures further apart than this are not consecutive.
_FORGOTTEN_AFTER_S = 600


@dataclass(frozen=True, slots=True)
class BreakerState:
    """Whether to send a request now (``wait_s`` is 0), or in ``wait_s`` seconds."""

    wait_s: float
    #: Whether there were failures, so that a success is to be recorded.
    failing: bool
    #: Whether this request is the probe.
    probe: bool


class Breaker:
    """The breakers in a ledger's Redis; raises QueueUnavailableError as the ledger does."""

    def __init__(self, ledger: Connection, *, failures: int, probes: Backoff) -> None:
        self._ledger = ledger
        self.failures = failures
        #: Seconds to the next probe after each opening (JSON).
        self.gaps = json.dumps([round(probes.delay(attempt), 3) for attempt in range(16)])
        self._check = _script(ledger, "breaker_check")
        self._record = _script(ledger, "breaker_failure")

    def check(self, profile: str) -> BreakerState:
        """Return whether a profile's Files service may be asked now."""
        with self._ledger.reached():
            wait_s, failures = self._check(
                keys=[breaker_key(profile)], args=[self.failures, self.gaps]
            )
        return self.state(float(wait_s), int(failures))

    def state(self, wait_s: float, failures: int) -> BreakerState:
        """Return what so many consecutive failures, and a wait for the next probe, mean."""
        probe = failures >= self.failures and wait_s == 0
        return BreakerState(wait_s, failures > 0, probe)

    def record_failure(self, profile: str, state: BreakerState) -> bool:
        """Count a failure; return whether the breaker is open now."""
        args: list[float | str] = [
            self.failures,
            self.gaps,
            _FORGOTTEN_AFTER_S,
            int(state.probe),
        ]
        with self._ledger.reached():
            return bool(self._record(keys=[breaker_key(profile)], args=args))

    def record_success(self, profile: str, state: BreakerState) -> None:
        """Close it, if there were failures."""
        if state.failing:
            with self._ledger.reached():
                self._ledger.redis.delete(breaker_key(profile))


@dataclass(frozen=True, slots=True)
class Outage:
    """An open breaker; seconds on Redis's clock."""

    lasted_s: float
    #: Until somebody may probe; 0 when the next one who asks is the probe.
    next_probe_s: float


def outage(ledger: Connection, profile: str) -> Outage | None:
    """Return what the workers know of a profile's Files service being down; None if it is not."""
    with ledger.reached():
        opened_at, probe_at = ledger.redis.hmget(breaker_key(profile), "opened_at", "probe_at")
    if opened_at is None:
        return None
    now = ledger.now()
    return Outage(now - float(opened_at), max(float(probe_at or 0) - now, 0.0))


def _script(ledger: Connection, name: str) -> Script:
    script = read_script("provider_uploads.fleet", "breaker_functions", name)
    return ledger.redis.register_script(script)


def breaker_key(profile: str) -> str:
    """Return the key of a profile's breaker."""
    return f"{protocol.KEY_PREFIX}breaker:{profile}"
