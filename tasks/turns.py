"""Turns under the fleet's rate limits: waited for in a transfer slot, or by a countdown."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

from celery import Task

from config.policy import policy
from config.tiers import tier_of
from provider_uploads.backoff import SHORTEST_S, Backoff
from provider_uploads.contract import Lane
from provider_uploads.errors import RateLimitedError
from provider_uploads.lanes import waiting
from provider_uploads.limits import Ahead, Limits, Turn
from provider_uploads.tiers import Work
from provider_uploads.transfer import Ended, Interrupted, Lease
from tasks.context import ledger, log, stopping
from tasks.waiting import come_back

#: Between two looks at what may end a wait in a slot.
_STEP_S = 0.5
#: A turn so near is reserved without a look at what else there is.
_SOON_S = 2.0
#: Waits shorter than this are not worth a note in the status.
_NOTED_S = 2.0
_NOTED_AGAIN_S = 10.0


@cache
def limits() -> Limits:
    """Return this process's limits: the tiers' numbers, or those that were set."""
    return Limits(ledger(), lambda profile, work: tier_of(profile).rate(work), policy.cool_downs)


def wait_in_slot(
    task: Task[Any, Any],
    work: Work,
    profile: str,
    *,
    lease: Lease,
    upload_id: str | None = None,
) -> str:
    """Wait for a turn here: the backlog stays in the queue. Returns the turn's mark.

    Where enough others of the lane, or of all lanes, wait for long already, the message comes back
    later and its slot is somebody else's. An upload's status says what it waits for. Raises
    Interrupted when the worker stops or the lease is lost, Ended when the upload has ended.
    """
    queue = _queue_of(task)
    bulk = queue.endswith(Lane.BULK)
    begun = time.monotonic()
    noted_at = 0.0
    mark = ""
    with waiting.of(queue) as waiter:
        while True:
            patient = bulk and time.monotonic() - begun < policy.bulk_patience_s
            stays = waiter.may_stay()
            reach = None if stays else Ahead(policy.in_slot_least_s)
            if patient:
                reach = Ahead(policy.bulk_ahead_s, turns=2)
            turn = limits().take(profile, work, held=mark, ahead=reach)
            if turn.wait_s <= 0:
                return turn.mark
            mark = turn.mark
            if upload_id and time.monotonic() > noted_at + _NOTED_AGAIN_S:
                noted_at = _note(upload_id, work, turn)
            if not (stays or turn.mark) and turn.wait_s > _in_slot_s(turn):
                waiting.close(queue, policy.away_s)
                come_back(task, policy.away_s)
            waiter.waits_for(turn)
            _pause(turn, reach, lease)
            if upload_id and not ledger().living(upload_id):
                raise Ended


def _in_slot_s(turn: Turn) -> float:
    all_slots_s = (waiting.slots or 0) * turn.interval_s
    return min(max(all_slots_s, policy.in_slot_least_s), policy.in_slot_most_s)


def leave_slot(task: Task[Any, Any], seconds: float) -> NoReturn:
    """Come back after ``seconds``, for what takes no turn; many of a lane close it meanwhile."""
    waiting.away(_queue_of(task), seconds)
    come_back(task, seconds)


def _queue_of(task: Task[Any, Any]) -> str:
    return str((task.request.delivery_info or {}).get("routing_key"))


def _pause(turn: Turn, reach: Ahead | None, lease: Lease) -> None:
    wait_s = turn.wait_s
    if not turn.mark and reach is not None:  # until one may be reserved
        wait_s = max(wait_s - reach.seconds, turn.interval_s / 2)
        wait_s = Backoff(wait_s, jitter_s=wait_s / 5).delay(0)  # not all at the same moment
    if stopping.wait(min(max(wait_s, 0.001), _STEP_S)):
        raise Interrupted("the worker is stopping")
    if lease.lost:
        raise Interrupted("the lease could not be renewed")


def _note(upload_id: str, work: Work, turn: Turn) -> float:
    """Let the status say what an upload waits for, if it is for long; return when it was said."""
    if turn.wait_s > _NOTED_S:
        ledger().note(upload_id, _waits_for(work, turn))
        return time.monotonic()
    return 0.0


def _waits_for(work: Work, turn: Turn) -> str:
    until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() + turn.wait_s))
    why = f": {turn.why}" if turn.why else ""
    return f"waits for its turn to {work} under the rate limit, not before {until}{why}"


def turn_or_come_back(
    task: Task[Any, Any],
    work: Work,
    profile: str,
    held: str,
    upload_id: str | None = None,
    left_s: Callable[[], float] = lambda: math.inf,
) -> str:
    """Return the mark of our turn if it is now; else come back for it, with ``turn`` set to it.

    An upload's status says what it waits for. When no more than ``left_s()`` seconds are left and
    our turn is not among them, come at their end; when none is, go all the same.
    """
    left = math.inf
    turn = limits().take(profile, work, held=held, ahead=Ahead(_SOON_S))
    if turn.wait_s > 0 and not turn.mark:
        left = max(left_s(), 0.0)
        turn = limits().take(profile, work, ahead=None if left == math.inf else Ahead(left))
    if turn.wait_s > 0 and left > 0:
        if upload_id:
            _note(upload_id, work, turn)
        come_back(task, min(turn.wait_s, left + SHORTEST_S), turn=turn.mark)
    return turn.mark


@contextmanager
def limited(work: Work, profile: str, turn: str) -> Iterator[None]:
    """Put everybody's turns on hold when the provider answers 429; that error is raised on.

    It then holds how long.
    """
    try:
        yield
    except RateLimitedError as error:
        held_s = limits().cool(profile, work, error.retry_after_s, error.reason, turn)
        log.warning("profile %s: %s on hold for %.1f s: %s", profile, work, held_s, error)
        raise RateLimitedError(error.operation, error.reason, 429, held_s) from None
