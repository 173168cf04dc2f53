"""How a task may end: with a result, with an error, or with a later delivery of its message."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

from celery import Task
from celery.exceptions import Ignore, Reject, Retry
from kombu.exceptions import OperationalError

from config.policy import policy
from provider_uploads.background import begin
from provider_uploads.backoff import Backoff
from provider_uploads.errors import (
    NewerPayloadError,
    ProviderUploadsError,
    QueueUnavailableError,
    ServiceDownError,
    TransientError,
    UnexpectedError,
    UnknownTicketError,
    UploadCancelledError,
)
from provider_uploads.ledger.state import UploadState
from provider_uploads.schemas import Copy, UploadRequest
from provider_uploads.settings import settings
from provider_uploads.sources.staging import staging_at
from tasks import canvases
from tasks.connections import ledger, log, stopping, storage

T = TypeVar("T")


# -- later ---------------------------------------------------------------------------------------


def retry_later(task: Task[Any, Any], countdown: float, token: str = "") -> NoReturn:
    """Deliver this message again after ``countdown`` seconds, to any worker.

    ``token`` names a permit that is reserved for then; messages carry it as ``turn``.
    """
    kwargs = {**(task.request.kwargs or {}), "turn": token}
    if not token:
        del kwargs["turn"]
    try:
        raise task.retry(countdown=countdown, kwargs=kwargs)
    except Reject as error:  # not published; Celery would drop the message
        raise Reject("its successor could not be sent", requeue=True) from error


def retry_after_failure(task: Task[Any, Any], row: UploadState, error: TransientError) -> NoReturn:
    """Retry after the backoff, or after what the provider asked for if that is longer.

    The last of ``policy.upload_tries`` raises ``error`` itself. During an outage of the service
    attempts are not counted.
    """
    if isinstance(error, ServiceDownError) and not _outlived(row):
        ledger().note(row.request.upload_id, str(error))
        retry_later(task, Backoff(error.retry_after_s, jitter=policy.outage_jitter).delay(0))
    attempts = row.failed_attempts + 1
    if attempts >= policy.upload_tries:
        raise error
    wait_s = max(policy.upload_retry.delay(row.failed_attempts), error.retry_after_s or 0.0)
    ledger().attempt_failed(
        row.request.upload_id,
        f"attempt {attempts} of {policy.upload_tries} failed, next in {wait_s:.1f} s: {error}",
    )
    retry_later(task, wait_s)


def _outlived(row: UploadState) -> bool:
    """Whether an upload has waited as long for the service as an outage may last."""
    return time.time() > row.queued_at + policy.outage_s


def leave_for_newer_worker(
    task: Task[Any, Any], tickets: Sequence[str], error: NewerPayloadError
) -> NoReturn:
    """Leave a message that only a newer worker can read; after a day of that, raise ``error``."""
    if task.request.retries + 1 >= policy.newer_payload_tries:
        raise error
    for ticket in tickets:
        ledger().note(ticket, str(error))
    retry_later(task, policy.newer_payload_retry_s)


@contextmanager
def requeued_if_unreachable(subject: str) -> Iterator[None]:
    """Requeue the message when Redis cannot be reached: it is delivered again."""
    try:
        yield
    except (QueueUnavailableError, OperationalError) as error:
        log.warning("%s goes back to the queue: %s", subject, error)
        raise Reject(error, requeue=True) from error


def unless_stopping(call: Callable[[], T]) -> T:
    """Return what ``call`` returns; if the worker stops meanwhile, requeue the message.

    For a request that cannot be stopped from outside: its thread is left behind.
    """
    done = begin(call)
    while not wait([done], timeout=policy.stop_check_s).done:
        if stopping.is_set():
            raise Reject("the worker is stopping", requeue=True)
    return done.result()


# -- an error --------------------------------------------------------------------------------------


@contextmanager
def recording_end(
    ticket: str, end: Callable[[str, ProviderUploadsError], ProviderUploadsError]
) -> Iterator[None]:
    """End an upload or a question whose task raises: the ledger first, then Celery's result.

    ``end`` records the error and returns the one that counts. A worker that dies in between leaves
    its message behind, and whoever gets that repeats what is missing.
    """
    with requeued_if_unreachable(ticket):
        try:
            yield
        except (Ignore, Reject, Retry, QueueUnavailableError, OperationalError):
            raise
        except ProviderUploadsError as error:
            raise end(ticket, error) from None
        except Exception as error:  # a fault of ours must not leave an upload that never ends
            log.exception("%s failed unexpectedly", ticket)
            unexpected = UnexpectedError(type(error).__name__, str(error))
            raise end(ticket, unexpected) from error


def end_upload(ticket: str, error: ProviderUploadsError) -> ProviderUploadsError:
    """Record the end and, if anything may be left at the provider, have it deleted.

    Returns the error it ended with: another one if it had ended before, as one that was cancelled
    and lost its file during a poll.

    The deletion is sent here and not as an errback: Celery sends errbacks as a group, whose result
    the worker then subscribes to, and a stopping worker waits 20 s for that subscription.
    """
    if not ledger().failed(ticket, error):
        error = _recorded_error(ticket, error)
    if isinstance(error, UploadCancelledError):
        ledger().present_again(ticket)  # this worker may have finished it after the deletion
    if ledger().staged(ticket):
        remove_staged_copy(ticket)
    if ledger().left_behind(ticket):
        canvases.clean_up(ticket).apply_async()
    else:
        _release_storage(ticket)
    return error


def _recorded_error(ticket: str, error: ProviderUploadsError) -> ProviderUploadsError:
    try:
        row = ledger().read(ticket)
    except (UnknownTicketError, NewerPayloadError):
        return error
    return error if row.error is None else row.failure()


def _release_storage(ticket: str) -> None:
    """Release an upload's storage reservation, if nothing of it is at the provider."""
    with suppress(UnknownTicketError, NewerPayloadError):
        row = ledger().read(ticket)
        if row.copy_at_provider is not Copy.PRESENT:
            storage().release(row.request.profile, ticket)


def unstage(request: UploadRequest) -> None:
    """Remove the staged copy of a source that the provider has, or that nobody wants any more."""
    if request.staged:
        remove_staged_copy(request.upload_id)


def remove_staged_copy(ticket: str) -> None:
    """Remove an upload's staged copy now, or by a message that is retried."""
    try:
        staging_at(settings().staging).remove(ticket)
    except ProviderUploadsError as error:  # no reason to fail an upload: it is retried apart
        log.warning("%s: its staged copy is not removed yet: %s", ticket, error)
        canvases.unstage(ticket).apply_async()
