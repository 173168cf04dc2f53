"""What a task waits for before it may send a request: storage, a permit, a slot to wait in.

An upload waits for its permit in its slot, which keeps the backlog in the queue; polls and
deletions wait by countdown.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from celery import Task
from celery.exceptions import Ignore

from config.policy import policy
from config.tiers import tier_of
from provider_uploads.backoff import SHORTEST_S, Backoff
from provider_uploads.errors import (
    RateLimitedError,
    ServiceDownError,
    SourceTooLargeError,
    StorageFullError,
    UnknownTicketError,
)
from provider_uploads.fleet.attempts import Beginning, Obstacle, StorageNeed
from provider_uploads.fleet.breaker import BreakerState
from provider_uploads.fleet.limits import Horizon, Permit
from provider_uploads.fleet.polls import PollBeginning
from provider_uploads.fleet.slots import slots
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.lease import Lease as UploadLease
from provider_uploads.ledger.state import ClaimResult, UploadState
from provider_uploads.protocol import PriorityQueue
from provider_uploads.schemas import UploadRequest
from provider_uploads.transfer import Ended, Interrupted, Lease
from tasks import canvases
from tasks.connections import attempts, ledger, limits, log, stopping, storage
from tasks.later import retry_later

# -- all of it -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt that has begun."""

    row: UploadState
    #: The permit's token.
    token: str
    breaker: BreakerState
    #: When, on Redis's clock, and on this process's.
    now: float
    monotonic: float

    def at(self) -> float:
        """Return the time on Redis's clock, as far as it is known without asking."""
        return self.now + time.monotonic() - self.monotonic


def started(task: Task[Any, Any], request: UploadRequest, beginning: Beginning) -> Begun:
    """Return the attempt that has begun; else wait for what does not allow it, or raise that.

    Raises Ended for an upload that has moved on, ServiceDownError, StorageFullError.
    """
    row, profile = beginning.row, request.profile
    match beginning.obstacle:
        case Obstacle.LEASED:
            retry_later(task, policy.lease_held_retry_s)
        case Obstacle.MOVED_ON:
            if row and row.claim_upload() is ClaimResult.STALE:
                raise Ignore
            raise Ended
        case Obstacle.OUTAGE:
            raise ServiceDownError(profile, beginning.amount)
        case Obstacle.STORAGE:
            limit_bytes = tier_of(profile).storage_bytes or 0
            raise StorageFullError(profile, int(beginning.amount), limit_bytes)
    if row is None or beginning.obstacle is not None:
        raise UnknownTicketError(request.upload_id)
    return Begun(row, beginning.token, beginning.breaker, beginning.now, time.monotonic())


def admitted(
    task: Task[Any, Any], request: UploadRequest, lease: UploadLease, need: StorageNeed | None
) -> Begun:
    """Begin an attempt, after waiting for a permit if need be."""
    beginning = attempts().begin(request, lease, storage=need)
    if beginning.obstacle is Obstacle.PERMIT:
        permit = wait_for_permit(
            task, Work.UPLOAD, request.profile, lease=lease, upload_id=request.upload_id
        )
        beginning = attempts().begin(request, lease, storage=need, permit=permit)
    return started(task, request, beginning)


# -- storage ---------------------------------------------------------------------------------------


def storage_need(request: UploadRequest, size_bytes: int) -> StorageNeed | None:
    """Return what an upload takes of its account's storage; None where that has no limit.

    Raises SourceTooLargeError when there never is room for it.
    """
    limit_bytes = tier_of(request.profile).storage_bytes
    if limit_bytes is None:
        return None
    if size_bytes > limit_bytes:
        raise SourceTooLargeError(request.source, size_bytes, limit_bytes)
    return StorageNeed(size_bytes, limit_bytes)


def reserve_storage(request: UploadRequest, size_bytes: int) -> None:
    """Reserve storage for an upload, if its account has a limit.

    Raises StorageFullError when there is none now, SourceTooLargeError when there never is.
    """
    need = storage_need(request, size_bytes)
    if need is None:
        return
    profile, limit_bytes = request.profile, need.limit_bytes
    missing = storage().reserve(profile, request.upload_id, size_bytes, limit_bytes)
    if missing > 0:
        raise StorageFullError(profile, missing, limit_bytes)


def wait_for_storage(task: Task[Any, Any], row: UploadState, full: StorageFullError) -> NoReturn:
    """Retry in a while, and evict files first if that was asked for.

    It occupies no slot: a file that waits for hours delays none that fits.
    """
    ticket = row.request.upload_id
    # What the provider says of its own names no number.
    missing = full.missing_bytes or row.expected_bytes or 1
    if row.request.evict is not None:
        for evicted in storage().evictable(row.request.profile, missing):
            log.warning("%s is evicted for %s", evicted.request.upload_id, ticket)
            ledger().release_copy(evicted.request.upload_id)
            canvases.clean_up(evicted.request.upload_id).apply_async()
    ledger().note(ticket, str(full))
    slots.retried(_queue_of(task), policy.storage_look_s)
    retry_later(task, policy.storage_look_s)


# -- permits ---------------------------------------------------------------------------------------


def wait_for_permit(
    task: Task[Any, Any],
    work: Work,
    profile: str,
    *,
    lease: Lease,
    upload_id: str | None = None,
) -> str:
    """Wait for a permit in this slot; return its token.

    Where enough others of the queue, or of all queues, are waiting in slots already, the message is
    retried later and its slot is free. An upload's status says what it waits for. Raises
    Interrupted when the worker stops or the lease is lost, Ended when the upload has ended.
    """
    queue = _queue_of(task)
    bulk = queue.endswith(PriorityQueue.BULK)
    begun = time.monotonic()
    noted_at = 0.0
    token = ""
    with slots.waiter(queue) as waiter:
        while True:
            yields_to_others = bulk and time.monotonic() - begun < policy.bulk_patience_s
            may_wait = waiter.may_wait()
            horizon = None if may_wait else Horizon(policy.in_slot_least_s)
            if yields_to_others:
                horizon = Horizon(policy.bulk_ahead_s, permits=2)
            permit = limits().acquire(profile, work, held=token, ahead=horizon)
            if permit.wait_s <= 0:
                return permit.token
            token = permit.token
            if upload_id and time.monotonic() > noted_at + policy.note_every_s:
                noted_at = _note(upload_id, work, permit.wait_s, permit.why)
            if not (may_wait or token) and permit.wait_s > _longest_wait_in_slot_s(permit):
                slots.pause(queue, policy.away_s)
                retry_later(task, policy.away_s)
            waiter.waits_for(permit)
            _pause(permit, horizon, lease)
            if upload_id and not ledger().living(upload_id):
                raise Ended


def permit_or_retry(task: Task[Any, Any], work: Work, profile: str, held: str) -> str:
    """Return a permit's token if it is for now; else retry when it is.

    ``held`` is the token of a reservation.
    """
    permit = limits().acquire(profile, work, held=held)
    if permit.wait_s > 0:
        retry_later(task, permit.wait_s, token=permit.token)
    return permit.token


def wait_for_poll_permit(task: Task[Any, Any], begun: PollBeginning) -> NoReturn:
    """Retry when a poll's permit comes, or at its deadline; the upload's status says so."""
    wait_s = begun.wait_s
    if not begun.token:
        wait_s = min(wait_s, max(begun.left_s, 0.0) + SHORTEST_S)
    _note(begun.row.request.upload_id, Work.POLL, begun.wait_s, begun.why)
    retry_later(task, wait_s, token=begun.token)


@contextmanager
def cool_down_on_429(work: Work, profile: str, token: str) -> Iterator[None]:
    """Put everybody's permits on hold when the provider answers 429, and raise that error on.

    Its ``retry_after_s`` is then the seconds on hold.
    """
    try:
        yield
    except RateLimitedError as error:
        asked_s = error.retry_after_s
        if asked_s is not None:
            asked_s = min(asked_s, policy.provider_retry_after_max_s)
        held_s = limits().cool_down(profile, work, asked_s, error.reason, token)
        log.warning("profile %s: %s on hold for %.1f s: %s", profile, work, held_s, error)
        raise RateLimitedError(error.operation, error.reason, 429, held_s) from None


def _queue_of(task: Task[Any, Any]) -> str:
    return str((task.request.delivery_info or {}).get("routing_key"))


def _longest_wait_in_slot_s(permit: Permit) -> float:
    all_slots_s = (slots.count or 0) * permit.interval_s
    return min(max(all_slots_s, policy.in_slot_least_s), policy.in_slot_most_s)


def _pause(permit: Permit, horizon: Horizon | None, lease: Lease) -> None:
    wait_s = permit.wait_s
    if not permit.token and horizon is not None:  # until one may be reserved
        wait_s = max(wait_s - horizon.seconds, permit.interval_s / 2)
        wait_s = Backoff(wait_s, jitter=policy.slot_check_jitter).delay(0)
    if stopping.wait(min(max(wait_s, 0.001), policy.slot_check_s)):
        raise Interrupted("the worker is stopping")
    if lease.lost:
        raise Interrupted("the lease could not be renewed")


def _note(upload_id: str, work: Work, wait_s: float, why: str) -> float:
    """Record a long wait in the status; return when it was recorded, or 0."""
    if wait_s <= policy.note_after_s:
        return 0.0
    if why == "paused":
        text = f"{work} is paused; provider-uploads tier set {work} tier ends that"
    else:
        at = time.gmtime(time.time() + wait_s)
        until = time.strftime("%Y-%m-%d %H:%M:%S UTC", at)
        text = f"waits for the {work} rate limit, not before {until}{why and f': {why}'}"
    ledger().note(upload_id, text)
    return time.monotonic()
