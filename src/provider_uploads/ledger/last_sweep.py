"""When the workers swept last, and what they could not read: for the doctor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, cast

from provider_uploads import protocol
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.schemas import Record

#: The lease of whoever sweeps.
ALONE: Final = "sweep"

_KEY = f"{protocol.KEY_PREFIX}sweep:last"
_KEPT_S = 24 * 3600
#: So many of what cannot be read are named.
_NAMED = 3


class LastSweep(Record):
    """The last sweep of the ledger that came to its end; seconds on Redis's clock."""

    ago_s: float
    every_s: float
    #: Why something could not be read, for the first few of so many.
    unreadable: tuple[str, ...] = ()
    unreadable_count: int = 0


def last_sweep(ledger: Ledger) -> LastSweep | None:
    """Return when the workers swept last; None if they did not within a day."""
    with ledger.reached():
        last = cast("dict[str, str]", ledger.redis.hgetall(_KEY))
    if "at" not in last or "every_s" not in last:
        return None
    return LastSweep(
        ago_s=ledger.now() - float(last["at"]),
        every_s=float(last["every_s"]),
        unreadable=tuple(json.loads(last.get("unreadable", "[]"))),
        unreadable_count=int(last.get("unreadable_count", 0)),
    )


def record_sweep(ledger: Ledger, every_s: float, unreadable: Sequence[str]) -> None:
    """Write down that the ledger was swept, as it is meant to be every so many seconds."""
    written: dict[Any, Any] = {
        "at": ledger.now(),
        "every_s": every_s,
        "unreadable": json.dumps(unreadable[:_NAMED]),
        "unreadable_count": len(unreadable),
    }
    with ledger.reached(), ledger.redis.pipeline() as pipe:
        pipe.hset(_KEY, mapping=written)
        pipe.expire(_KEY, _KEPT_S)
        pipe.execute()


def sweeping(ledger: Ledger) -> bool:
    """Whether a sweep is under way."""
    return ledger.leased(ALONE)
