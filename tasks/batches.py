"""What the tasks of a batch share: its ends, its retries, and the way from one to the next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from celery import Task
from celery.exceptions import Reject

from config.policy import policy
from provider_uploads.errors import (
    NewerPayloadError,
    ProviderUploadsError,
    RateLimitedError,
    TransientError,
    UnknownTicketError,
)
from provider_uploads.fleet.queues import Queues
from provider_uploads.ledger.batch_state import BatchState
from provider_uploads.providers.base import BatchCalls, batches_of
from provider_uploads.schemas import BatchStage
from provider_uploads.transfer import Interrupted, Lease
from tasks import canvases
from tasks.connections import batches, ledger, log, provider
from tasks.later import retry_later
from tasks.outcomes import asked_for_s, recording_end


@contextmanager
def one_at_a_time(task: Task[Any, Any], ticket: str) -> Iterator[tuple[BatchState, Lease]]:
    """Yield a batch and the lease on it; retry later while another delivery holds that.

    What the block raises ends the batch, or is retried where another attempt may succeed.
    """
    with recording_end(task, ticket, end_batch), ledger().lease(ticket, policy.lease_s) as lease:
        if lease is None:
            retry_later(task, policy.lease_held_retry_s)
        row = batches().read(ticket)
        try:
            yield row, lease
        except Interrupted as reason:
            log.info("%s goes back to the queue: %s", ticket, reason)
            raise Reject(reason, requeue=True) from None
        except TransientError as error:
            retry_after_failure(task, ticket, error)


def retry_after_failure(task: Task[Any, Any], ticket: str, error: TransientError) -> NoReturn:
    """Retry after the backoff, or after what the provider asked for if that is longer.

    The last of ``policy.upload_tries`` raises ``error`` itself; a 429 is waited out for a week, and
    counts no attempt: the account's jobs may be somebody else's.
    """
    row = batches().read(ticket)
    if isinstance(error, RateLimitedError) and time.time() < row.queued_at + policy.batch_wait_s:
        batches().note(ticket, str(error))
        retry_later(task, max(asked_for_s(error), policy.cool_downs.delay(0)))
    attempts = row.failed_attempts + 1
    if attempts >= policy.upload_tries:
        raise error
    wait_s = max(policy.upload_retry.delay(row.failed_attempts), asked_for_s(error))
    batches().attempt_failed(
        ticket,
        f"attempt {attempts} of {policy.upload_tries} failed, next in {wait_s:.1f} s: {error}",
    )
    retry_later(task, wait_s)


def calls_of(row: BatchState) -> BatchCalls:
    """Return the batch calls of a batch's account."""
    return batches_of(provider(row.request.profile))


def queue_of(row: BatchState) -> str:
    """Return the queue for what moves a batch's bytes."""
    return Queues(ledger()).queue_of(row.request.profile)


def end_batch(ticket: str, error: ProviderUploadsError) -> ProviderUploadsError:
    """Record a bad end, have it cleaned up and tell of it; return the error it ended with."""
    if not batches().failed(ticket, error):
        try:
            row = batches().read(ticket)
        except (UnknownTicketError, NewerPayloadError):
            return error
        if row.error is not None:
            error = row.failure()
    after_end(ticket)
    return error


def result_of(row: BatchState) -> dict[str, Any]:
    """Return an ended batch's result, for the first time or once more, and tell of it."""
    after_end(row.ticket)
    if row.stage is not BatchStage.SUCCEEDED or row.result is None:
        raise row.failure()
    return row.result.model_dump(mode="json")


def after_end(ticket: str) -> None:
    """Send what follows every end: the clean-up, and word to those who wait for it."""
    canvases.clean_up_batch(ticket).apply_async()
    if batches().request_field(ticket, "notify"):
        canvases.notify(ticket).apply_async()


def to_polling(task: Task[Any, Any], row: BatchState) -> NoReturn:
    """Replace the task by the polls, the first after one wait."""
    wait_s = policy.batch_polls.delay(0)
    raise task.replace(canvases.wait_for_batch(row.ticket, 0, wait_s))


def to_collecting(task: Task[Any, Any], row: BatchState) -> NoReturn:
    """Replace the task by the one that collects."""
    raise task.replace(canvases.collect_batch(row.ticket, queue_of(row)))
