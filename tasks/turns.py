"""Turns under the fleet's rate limits: waited for in a transfer slot, or by a countdown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from celery import Task

from config.policy import policy
from config.tiers import tier_of
from provider_uploads import contract
from provider_uploads.backoff import Backoff
from provider_uploads.errors import RateLimitedError
from provider_uploads.lanes import waiting
from provider_uploads.limits import Limits, Turn
from provider_uploads.tiers import Work
from provider_uploads.transfer import Ended, Interrupted, Lease
from tasks.context import ledger, log, stopping
from tasks.waiting import come_back

#: Between two looks at what may end a wait in a slot.
_STEP_S = 0.5
#: How far ahead one of many may reserve its turn: a single upload waits behind no more than that.
_BULK_AHEAD_S = 1.0
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
    wanted: Callable[[], bool] = lambda: True,
    note: Callable[[str], object] = lambda text: None,
) -> str:
    """Wait for a turn here: the backlog stays in the queue. Returns the turn's mark.

    ``note`` gets what the status may say about a longer wait. Raises Interrupted when the worker
    stops or the lease is lost, Ended when the work is not ``wanted`` any more.
    """
    queue = _queue_of(task)
    ahead_s = _BULK_AHEAD_S if contract.is_bulk(queue) else None
    turn = limits().take(profile, work, ahead_s=ahead_s)
    noted_at = 0.0
    with waiting.of(queue) as waiter:
        while turn.wait_s > 0:
            waiter.waits_for(turn)
            if turn.wait_s > _NOTED_S and time.monotonic() > noted_at + _NOTED_AGAIN_S:
                noted_at = time.monotonic()
                note(_waits_for(work, turn.wait_s))
            _pause(turn, ahead_s, lease)
            if not wanted():
                raise Ended
            turn = limits().take(profile, work, held=turn.mark, ahead_s=ahead_s)
    return turn.mark


def pause_in_slot(task: Task[Any, Any], turn: Turn, lease: Lease) -> None:
    """Wait here as long as ``turn`` says; raises Interrupted as ``wait_in_slot`` does."""
    until = time.monotonic() + turn.wait_s
    with waiting.of(_queue_of(task)) as waiter:
        waiter.waits_for(turn)
        while (left_s := until - time.monotonic()) > 0:
            _pause(Turn(left_s, "", 0.0), None, lease)


def _queue_of(task: Task[Any, Any]) -> str:
    return str((task.request.delivery_info or {}).get("routing_key"))


def _pause(turn: Turn, ahead_s: float | None, lease: Lease) -> None:
    wait_s = turn.wait_s
    if not turn.mark and ahead_s is not None:  # until one may be reserved
        wait_s = max(wait_s - ahead_s, turn.interval_s / 2)
        wait_s = Backoff(wait_s, jitter_s=wait_s / 5).delay(0)  # not all at the same moment
    if stopping.wait(min(max(wait_s, 0.001), _STEP_S)):
        raise Interrupted("the worker is stopping")
    if lease.lost:
        raise Interrupted("the lease could not be renewed")


def _waits_for(work: Work, wait_s: float) -> str:
    until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() + wait_s))
    return f"waits for its turn to {work} under the rate limit, not before {until}"


def turn_or_come_back(
    task: Task[Any, Any],
    work: Work,
    profile: str,
    held: str,
    note: Callable[[str], object] = lambda text: None,
) -> str:
    """Return the mark of our turn if it is now; else come back for it, with ``turn`` set to it.

    ``note`` is as in ``wait_in_slot``.
    """
    turn = limits().take(profile, work, held=held)
    if turn.wait_s > 0:
        if turn.wait_s > _NOTED_S:
            note(_waits_for(work, turn.wait_s))
        come_back(task, turn.wait_s, turn=turn.mark)
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
