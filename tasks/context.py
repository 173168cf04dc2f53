"""What every task of a worker process shares: its connections, and how a task may end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from celery.exceptions import Ignore, Reject, Retry
from celery.signals import after_setup_logger, worker_shutting_down
from celery.utils.log import get_task_logger
from kombu.exceptions import OperationalError

from config.policy import policy
from provider_uploads.breaker import Breaker
from provider_uploads.errors import (
    NewerPayloadError,
    ProviderUnavailableError,
    ProviderUploadsError,
    QueueUnavailableError,
    RateLimitedError,
    ServiceDownError,
    UnexpectedError,
    UnknownTicketError,
    UploadCancelledError,
)
from provider_uploads.gemini import Gemini
from provider_uploads.ledger import Ledger
from provider_uploads.questions import Questions
from provider_uploads.records import Copy, UploadRequest
from provider_uploads.settings import settings
from provider_uploads.staging import staging_at
from provider_uploads.storage import Storage
from tasks import canvases

log = get_task_logger(__name__)

#: Set when the worker was told to stop: transfers end at their next block.
stopping = threading.Event()


#: Whoever speaks HTTP in a worker, for the provider or for a source.
_CLIENTS = (
    *("httpx2", "httpcore2", "httpx", "httpcore", "aiohttp", "urllib3", "asyncio"),
    *("fsspec", "s3fs", "aiobotocore", "botocore", "gcsfs", "google"),
)

# The first tasks of a worker begin together; its connections are made once all the same.
_making = threading.RLock()


@worker_shutting_down.connect
def _stop(**_: Any) -> None:
    stopping.set()


@after_setup_logger.connect
def _keep_urls_out_of_the_log(**_: Any) -> None:
    """HTTP clients log URLs and headers; an upload session's URL is a credential."""
    for name in _CLIENTS:
        logging.getLogger(name).setLevel(logging.WARNING)


def ledger() -> Ledger:
    """Return this process's ledger."""
    with _making:
        return _ledger()


def gemini(profile: str) -> Gemini:
    """Return this process's provider for a profile.

    Raises ConfigurationError for an unknown one, MissingCredentialsError for one without a key.
    """
    with _making:
        return _gemini(profile)


@cache
def _ledger() -> Ledger:
    return Ledger(settings().redis_url, timeout_s=settings().redis_timeout_s)


@cache
def _gemini(profile: str) -> Gemini:
    return Gemini.of_profile(profile)


@cache
def _breaker() -> Breaker:
    return Breaker(ledger(), failures=policy.breaker_failures, probes=policy.breaker_probes)


@contextmanager
def files_service(profile: str, *, at_any_rate: bool = False) -> Iterator[None]:
    """Ask a profile's Files service; raises ServiceDownError, unasked, while it is known to be.

    What it raises while it is down is a ServiceDownError too, once the breaker is open.
    """
    permit = _breaker().ask(profile)
    if permit.wait_s > 0 and not at_any_rate:
        raise ServiceDownError(profile, permit.wait_s)
    try:
        yield
    except RateLimitedError:
        raise  # it is alive, and says so
    except ProviderUnavailableError as error:
        if _breaker().failed(profile, permit):
            raise ServiceDownError(profile, policy.breaker_probe_first_s, str(error)) from error
        raise
    _breaker().worked(profile, permit)


@cache
def storage() -> Storage:
    """Return this process's books of what is at the providers."""
    return Storage(ledger())


def questions() -> Questions:
    """Return the questions in this process's ledger."""
    return Questions(ledger())


def end_upload(ticket: str, error: ProviderUploadsError) -> ProviderUploadsError:
    """Write the end down and, if anything may be left at the provider, have it deleted.

    Returns the error it ended with: another one if it had ended before, as one that was cancelled
    and lost its file under a look.

    The deletion is sent here and not as an errback: Celery sends errbacks as a group, whose result
    the worker then subscribes to, and a stopping worker waits 20 s for that subscription.
    """
    if not ledger().failed(ticket, error):
        error = _stands(ticket, error)
    if isinstance(error, UploadCancelledError):
        ledger().present_again(ticket)  # this worker may have finished it after the deletion
    if ledger().staged(ticket):
        _unstage(ticket)
    if ledger().left_behind(ticket):
        canvases.clean_up(ticket).apply_async()
    else:
        _give_back(ticket)
    return error


def _give_back(ticket: str) -> None:
    """Give an upload's room at the provider back, if nothing of it is there."""
    with suppress(UnknownTicketError, NewerPayloadError):
        row = ledger().read(ticket)
        if row.copy_at_provider is not Copy.PRESENT:
            storage().release(row.request.profile, ticket)


def _stands(ticket: str, error: ProviderUploadsError) -> ProviderUploadsError:
    try:
        row = ledger().read(ticket)
    except (UnknownTicketError, NewerPayloadError):
        return error
    return error if row.error is None else row.failure()


@contextmanager
def handed_back(subject: str) -> Iterator[None]:
    """Give the message back when Redis is out of reach: that is no end, it is delivered again."""
    try:
        yield
    except (QueueUnavailableError, OperationalError) as error:
        log.warning("%s goes back to the queue: %s", subject, error)
        raise Reject(error, requeue=True) from error


@contextmanager
def recorded(
    ticket: str, end: Callable[[str, ProviderUploadsError], ProviderUploadsError]
) -> Iterator[None]:
    """End an upload or a question whose task raises: the ledger first, then Celery's result.

    ``end`` writes the error down and returns the one that stands.

    A worker that dies in between leaves its message behind, and whoever gets that repeats what
    is missing.
    """
    with handed_back(ticket):
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


def unstage(request: UploadRequest) -> None:
    """Remove the staged copy of a source that the provider has, or that nobody wants any more."""
    if request.staged:
        _unstage(request.upload_id)


def _unstage(ticket: str) -> None:
    try:
        staging_at(settings().staging).remove(ticket)
    except ProviderUploadsError as error:  # no reason to fail an upload: it is tried apart
        log.warning("%s: its staged copy is not removed yet: %s", ticket, error)
        canvases.unstage(ticket).apply_async()
