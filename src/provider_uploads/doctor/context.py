"""What the checks examine: settings, Redis and the workers, each asked once, concurrently."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoPermissionError

from provider_uploads.background import begin
from provider_uploads.doctor import fleet
from provider_uploads.doctor.clock import Skew
from provider_uploads.doctor.fleet import Fleet
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.settings import Settings


@dataclass(frozen=True, slots=True)
class CheckContext:
    """What the checks examine; a future's result raises what the call raised."""

    settings: Settings
    ledger: Ledger
    #: What Redis says about itself; empty where our user may not ask.
    info: Future[dict[str, Any]]
    #: How far Redis's clock is ahead of this machine's.
    skew: Future[Skew]
    fleet: Future[Fleet]

    @classmethod
    def of(cls, settings: Settings) -> CheckContext:
        """Begin to ask; workers are asked once Redis has answered."""
        ledger = Ledger(settings.redis_url, timeout_s=settings.redis_timeout_s)
        info = begin(lambda: _info(ledger))

        def ask_workers() -> Fleet:
            info.result()
            return fleet.ask(settings)

        return cls(settings, ledger, info, begin(lambda: _skew(ledger)), begin(ask_workers))


def _info(ledger: Ledger) -> dict[str, Any]:
    with ledger.reached():
        try:
            said: dict[str, Any] = ledger.redis.info()
        except NoPermissionError:
            ledger.redis.ping()
            return {}
    return said


def _skew(ledger: Ledger) -> Skew:
    with ledger.reached():
        ledger.redis.ping()  # the first call would connect as well
        asked = time.time()
        seconds, micros = ledger.redis.time()
    return Skew.measured(asked, seconds + micros / 1e6, time.time())
