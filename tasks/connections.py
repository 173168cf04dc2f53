"""What every task of a worker process shares: its connections, and whether it is stopping."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from celery.signals import after_setup_logger, worker_shutting_down
from celery.utils.log import get_task_logger

from config.policy import policy
from config.tiers import tier_of
from provider_uploads.errors import ProviderUnavailableError, RateLimitedError, ServiceDownError
from provider_uploads.fleet.asking import Asking
from provider_uploads.fleet.attempts import Attempts
from provider_uploads.fleet.batch_watch import BatchWatch
from provider_uploads.fleet.breaker import Breaker, BreakerState
from provider_uploads.fleet.limits import Limits
from provider_uploads.fleet.polls import Polls
from provider_uploads.fleet.provider_requests import ProviderRequests
from provider_uploads.ledger.batches import Batches
from provider_uploads.ledger.deduplication import Deduplication
from provider_uploads.ledger.outbox import Outbox
from provider_uploads.ledger.questions import Questions
from provider_uploads.ledger.storage import Storage
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.providers import open_provider
from provider_uploads.providers.base import Provider
from provider_uploads.settings import settings
from provider_uploads.sources.base import SourcePolicy

log = get_task_logger(__name__)


class _OutsideTasks(logging.Filter):
    """Names a worker's own threads, where Celery's format wants a task's name and id."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.setdefault("task_name", "provider_uploads")  # in a task Celery sets both
        record.__dict__.setdefault("task_id", "worker")
        return True


log.addFilter(_OutsideTasks())

#: Set when the worker was told to stop: transfers end at their next block.
stopping = threading.Event()

#: Whoever speaks HTTP in a worker, for the provider or for a source.
_CLIENTS = (
    *("httpx2", "httpcore2", "httpx", "httpcore", "aiohttp", "urllib3", "asyncio"),
    *("fsspec", "s3fs", "aiobotocore", "botocore", "gcsfs", "google"),
)

# The first tasks of a worker begin together; each connection is made once all the same.
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


def provider(profile: str) -> Provider:
    """Return this process's provider for a profile.

    Raises ConfigurationError for an unknown one, MissingCredentialsError for one without a key.
    """
    with _making:
        return _provider(profile)


@cache
def _ledger() -> Ledger:
    return Ledger(settings().redis_url, timeout_s=settings().redis_timeout_s)


@cache
def _provider(profile: str) -> Provider:
    return open_provider(profile)


@cache
def storage() -> Storage:
    """Return the storage reservations in this process's ledger."""
    return Storage(ledger())


@cache
def deduplication() -> Deduplication:
    """Return the claims on contents in this process's ledger."""
    return Deduplication(ledger())


@cache
def outbox() -> Outbox:
    """Return the notifications in this process's ledger."""
    return Outbox(ledger())


@cache
def limits() -> Limits:
    """Return the rate limits: the tiers' numbers, or those that were set."""
    return Limits(ledger(), lambda profile, work: tier_of(profile).rate(work), policy.cool_downs)


@cache
def batches() -> Batches:
    """Return the batches in this process's ledger."""
    return Batches(ledger())


@cache
def batch_watch() -> BatchWatch:
    """Return what the fleet knows of the jobs at the providers."""
    return BatchWatch(ledger(), list_every_s=policy.batch_list_every_s, lease_s=policy.lease_s)


def questions() -> Questions:
    """Return the questions in this process's ledger."""
    return Questions(ledger())


@cache
def _breaker() -> Breaker:
    return Breaker(ledger(), failures=policy.breaker_failures, probes=policy.breaker_probes)


@cache
def source_policy() -> SourcePolicy:
    """Return what this process may read."""
    return SourcePolicy.of(settings())


@cache
def attempts() -> Attempts:
    """Return what begins attempts in this process's ledger."""
    return Attempts(ledger(), limits(), _breaker())


@cache
def polls() -> Polls:
    """Return what begins polls in this process's ledger."""
    return Polls(ledger(), limits(), _breaker())


@cache
def asking() -> Asking:
    """Return what begins questions' requests in this process's ledger."""
    return Asking(ledger(), limits())


@cache
def provider_requests() -> ProviderRequests:
    """Return what begins other requests in this process's ledger."""
    return ProviderRequests(ledger(), limits(), _breaker())


@contextmanager
def through_breaker(
    profile: str, state: BreakerState | None = None, *, at_any_rate: bool = False
) -> Iterator[None]:
    """Ask a profile's Files service; raises ServiceDownError, unasked, while its breaker is open.

    An outage that opens the breaker is a ServiceDownError too. ``state`` is the breaker's where it
    was asked already; ``at_any_rate`` asks all the same.
    """
    state = state or _breaker().check(profile)
    if state.wait_s > 0 and not at_any_rate:
        raise ServiceDownError(profile, state.wait_s)
    try:
        yield
    except RateLimitedError:
        raise  # the service is up, and says so
    except ProviderUnavailableError as error:
        if _breaker().record_failure(profile, state):
            raise ServiceDownError(profile, policy.breaker_probe_first_s, str(error)) from error
        raise
    _breaker().record_success(profile, state)
