"""How a task may end: with a result, with an error, or with a later delivery of its message."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
    FileGoneError,
    NewerPayloadError,
    ProviderUploadsError,
    QueueUnavailableError,
    ServiceDownError,
    SourceUnavailableError,
    TransientError,
    UnexpectedError,
    UnknownTicketError,
    UnreadableStateError,
    UploadCancelledError,
)
from provider_uploads.fleet.api_keys import published_keys
from provider_uploads.ledger.finish import StoredResult
from provider_uploads.ledger.state import UploadState
from provider_uploads.schemas import Copy, Record, Stage, UploadRequest
from provider_uploads.settings import settings
from provider_uploads.sources.staging import staging_at
from tasks import canvases
from tasks.connections import ledger, log, questions, stopping, storage
from tasks.later import outwaited, retry_later, returns

T = TypeVar("T")


# -- later ---------------------------------------------------------------------------------------


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
    wait_s = max(policy.upload_retry.delay(row.failed_attempts), asked_for_s(error))
    ledger().attempt_failed(
        row.request.upload_id,
        f"attempt {attempts} of {policy.upload_tries} failed, next in {wait_s:.1f} s: {error}",
    )
    retry_later(task, wait_s)


def asked_for_s(error: ProviderUploadsError) -> float:
    """Return the wait that a server asked for, within what its kind may ask for."""
    of_source = isinstance(error, SourceUnavailableError)
    most_s = policy.source_retry_after_max_s if of_source else policy.provider_retry_after_max_s
    return min(getattr(error, "retry_after_s", None) or 0.0, most_s)


def _outlived(row: UploadState) -> bool:
    """Whether an upload has waited as long for the service as an outage may last."""
    return time.time() > row.queued_at + policy.outage_s


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
    task: Task[Any, Any],
    ticket: str,
    end: Callable[[str, ProviderUploadsError], ProviderUploadsError],
) -> Iterator[None]:
    """End an upload or a question whose task raises: the ledger first, then Celery's result.

    ``end`` records the error and returns the one that counts. A worker that dies in between leaves
    its message behind, and whoever gets that repeats what is missing. What brings a message back
    is no end (``tasks.later``).
    """
    try:
        yield
    except (Ignore, Reject, Retry, QueueUnavailableError, OperationalError):
        raise
    except NewerPayloadError as error:
        if outwaited(task, error):
            raise end(ticket, error) from None
        note_newer(ticket, error)
        raise
    except ProviderUploadsError as error:
        raise end(ticket, error) from None
    except Exception as error:  # a fault of ours must not leave an upload that never ends
        log.exception("%s failed unexpectedly", ticket)
        unexpected = UnexpectedError(type(error).__name__, str(error))
        raise end(ticket, unexpected) from error


def note_newer(ticket: str, error: NewerPayloadError) -> None:
    """Say in an upload's status that it waits for a newer worker.

    Once: each note renews the row, which is not to outlive its three days.
    """
    if not returns.has(ticket, "noted") and ledger().note(ticket, str(error)):
        returns.first(ticket, "noted")


def end_upload(ticket: str, error: ProviderUploadsError) -> ProviderUploadsError:
    """Record the end and, if anything may be left at the provider, have it deleted.

    Returns the error it ended with: another one if it had ended before, as one that was cancelled
    and lost its file during a poll.

    The deletion is sent here and not as an errback: Celery sends errbacks as a group, whose result
    the worker then subscribes to, and a stopping worker waits 20 s for that subscription.
    """
    if isinstance(error, FileGoneError):
        error = _with_keys(ticket, error)
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
    if ledger().notifies(ticket):
        canvases.notify(ticket).apply_async()
    return error


def _with_keys(ticket: str, error: FileGoneError) -> FileGoneError:
    """Say that the file may be another key's, where the workers have several for one profile."""
    with suppress(UnknownTicketError, NewerPayloadError, UnreadableStateError):
        profile = ledger().read(ticket).request.profile
        keys = published_keys(ledger(), profile)
        if len(keys) > 1:
            hint = (
                f"Workers have different keys for profile {profile} (fingerprints: "
                f"{', '.join(keys)}): set one for all."
            )
            said = (error.operation, error.http_status, error.status, error.message)
            return FileGoneError(*said, hint)
    return error


def result_of(row: UploadState) -> dict[str, Any]:
    """Return an ended upload's result, for the first time or once more, and tell of it."""
    if row.stage is not Stage.ACTIVE:
        raise row.failure()
    if row.request.notify:
        canvases.notify(row.request.upload_id).apply_async()
    return row.result().model_dump(mode="json")


def stored(task: Task[Any, Any], result: Record) -> StoredResult:
    """Return a task's result as Celery stores it."""
    backend: Any = task.backend
    found: StoredResult = backend.success(
        str(task.request.id), result.model_dump(mode="json"), task.request
    )
    return found


def is_stored(task: Task[Any, Any]) -> None:
    """Take note that a task's result is stored: Celery need not do that once more."""
    task.request.ignore_result = True


def end_question(ticket: str, error: ProviderUploadsError) -> ProviderUploadsError:
    """Record a question's bad end, and tell of it; return the error."""
    questions().failed(ticket, error)
    if questions().notifies(ticket):
        canvases.notify(ticket).apply_async()
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
