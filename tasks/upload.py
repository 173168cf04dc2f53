"""``provider_uploads.upload``: a file's bytes to the provider, under the ticket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Task
from celery.exceptions import Reject

from config.policy import policy
from config.tiers import tier_of
from provider_uploads import protocol
from provider_uploads.backoff import Backoff
from provider_uploads.errors import (
    ProviderUnavailableError,
    RateLimitedError,
    SourceError,
    SourceUnavailableError,
    StorageFullError,
    TransientError,
    UploadFailedError,
)
from provider_uploads.fleet.attempts import Obstacle
from provider_uploads.fleet.slots import slots
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.finish import Finish
from provider_uploads.ledger.lease import Lease
from provider_uploads.ledger.state import UploadState
from provider_uploads.ledger.upload_steps import sending
from provider_uploads.locations import STAGED, check, scheme_of
from provider_uploads.providers.base import in_one_request
from provider_uploads.schemas import ProviderFile, Stage, UploadRequest
from provider_uploads.sources.base import Source, check_scheme
from provider_uploads.sources.open import open_source
from provider_uploads.transfer import Ended, Interrupted, transfer
from tasks import canvases
from tasks.admission import (
    Begun,
    admitted,
    cool_down_on_429,
    started,
    storage_need,
    wait_for_permit,
    wait_for_storage,
)
from tasks.arguments import Payload
from tasks.celery import app
from tasks.connections import (
    attempts,
    ledger,
    log,
    provider,
    source_policy,
    stopping,
    through_breaker,
)
from tasks.deduplication import take_shared_file
from tasks.later import retry_later
from tasks.outcomes import (
    end_upload,
    is_stored,
    recording_end,
    result_of,
    retry_after_failure,
    stored,
    unstage,
)
from tasks.waiting import park_among_many


@app.task(name=protocol.UPLOAD, bind=True)
def upload(self: Task[Any, Any], payload: Payload) -> dict[str, Any]:
    """Send one file; return its UploadResult if it is ACTIVE already, else wait for that.

    However often it is delivered, one provider file results.
    """
    with recording_end(self, payload["upload_id"], end_upload):
        request = UploadRequest.read(payload)
        ticket = request.upload_id
        with ledger().new_lease(ticket, policy.lease_s) as lease:
            try:
                row = _send(self, request, lease)
            except Ended:
                row = ledger().read(ticket)
            except Interrupted as reason:
                log.info("%s goes back to the queue: %s", ticket, reason)
                raise Reject(reason, requeue=True) from None
            except TransientError as error:
                retry_after_failure(self, ledger().read(ticket), error)
        unstage(request)
        return _answer(self, row)


def _send(task: Task[Any, Any], request: UploadRequest, lease: Lease) -> UploadState:
    """Send the bytes and record what the provider says of them.

    A 429 and a full storage are waited out for as long as files are kept.
    """
    while True:
        try:
            return _attempt(task, request, lease)
        except (RateLimitedError, StorageFullError) as error:
            row = ledger().read(request.upload_id)
            if time.time() > row.queued_at + provider(request.profile).capabilities.kept_s:
                raise
            if isinstance(error, StorageFullError):
                wait_for_storage(task, row, error)
            if row.stage.ended:
                raise Ended from error


def _attempt(task: Task[Any, Any], request: UploadRequest, lease: Lease) -> UploadState:
    """Make one attempt, when it is admitted.

    What to ask for is known of a local file. Of another source, and of one that may be another
    upload's, the row says it.
    """
    at_hand = scheme_of(request.source) in {None, STAGED} and request.size_bytes is not None
    if at_hand and not request.reuse:
        return _from_here(task, request, lease)
    row = started(task, request, attempts().hold(request, lease)).row
    if _registers(row):
        return _register(task, request, lease)
    with _slot_for(task, request):
        if request.reuse and row.stage is Stage.QUEUED:  # one that has begun to send goes on
            shared = take_shared_file(task, row, source_policy(), lease)
            if shared is not None:
                return shared
        if at_hand:
            return _from_here(task, request, lease)
        return _from_afar(task, request, lease, row)


def _from_here(task: Task[Any, Any], request: UploadRequest, lease: Lease) -> UploadState:
    """Send a local file, which is open before the attempt begins."""
    permit = ""
    while True:
        with _opened(task, request, lease) as source:
            in_one = (
                0 < source.size_bytes <= policy.one_request_bytes
                and in_one_request(provider(request.profile)) is not None
            )
            beginning = attempts().begin(
                request,
                lease,
                permit=permit,
                storage=storage_need(request, source.size_bytes),
                change=sending(source.size_bytes, source.fingerprint) if in_one else "",
            )
            if beginning.obstacle is not Obstacle.PERMIT:
                begun = started(task, request, beginning)
                return _sent(task, begun, source, lease, in_one=in_one)
        permit = wait_for_permit(
            task, Work.UPLOAD, request.profile, lease=lease, upload_id=request.upload_id
        )


def _opened(task: Task[Any, Any], request: UploadRequest, lease: Lease) -> Source:
    """Open a local source. Of an upload that has moved on, nobody needs it any more."""
    try:
        source = open_source(request.source, source_policy())
        try:
            return source.unchanged(request.size_bytes)
        except SourceError:
            source.stream.close()
            raise
    except (SourceError, SourceUnavailableError):
        started(task, request, attempts().hold(request, lease))
        raise


def _from_afar(
    task: Task[Any, Any], request: UploadRequest, lease: Lease, row: UploadState
) -> UploadState:
    """Send from a place that is opened once there is a permit: its connection would not wait."""
    size_bytes = row.expected_bytes
    if size_bytes is None and tier_of(request.profile).storage_bytes is not None:
        with open_source(row.location, source_policy()) as source:
            size_bytes = source.size_bytes
    need = None if size_bytes is None else storage_need(request, size_bytes)
    begun = admitted(task, request, lease, need)
    with open_source(row.location, source_policy()) as source:
        source.unchanged(row.expected_bytes)
        return _sent(task, begun, source, lease)


def _register(task: Task[Any, Any], request: UploadRequest, lease: Lease) -> UploadState:
    """Let the provider read the source by itself."""
    begun = admitted(task, request, lease, None)
    profile, row = request.profile, begun.row
    with (
        cool_down_on_429(Work.UPLOAD, profile, begun.token),
        through_breaker(profile, begun.breaker),
    ):
        (file,) = provider(profile).register([row.location])
    return _recorded(task, begun, row, file, lease)


def _sent(
    task: Task[Any, Any], begun: Begun, source: Source, lease: Lease, *, in_one: bool = False
) -> UploadState:
    """Send a source's bytes; return the row as it is then."""
    row, profile = begun.row, begun.row.request.profile
    in_one = in_one and row.stage is Stage.QUEUED
    if in_one:
        row = row.model_copy(update={"stage": Stage.UPLOADING, "upload_at": begun.now})
    with (
        _unsent_if_refused(row.request.upload_id, in_one=in_one),
        cool_down_on_429(Work.UPLOAD, profile, begun.token),
        through_breaker(profile, begun.breaker),
        _unless_ended(row.request.upload_id),
    ):
        row, file = transfer(
            ledger(),
            provider(profile),
            row,
            source,
            lease=lease,
            stopping=stopping.is_set,
            progress_every_s=policy.progress_every_s,
            in_one=in_one,
        )
    return _recorded(task, begun, row, file, lease)


def _recorded(
    task: Task[Any, Any], begun: Begun, row: UploadState, file: ProviderFile, lease: Lease
) -> UploadState:
    """Record what the provider says of the file, and give the lease back with that."""
    if file.failed:
        raise UploadFailedError(file.name, file.state, file.error, file.provider)
    if file.state == Stage.ACTIVE:
        at = begun.at()
        result = stored(task, row.activated(file, at).result())
        moved = ledger().active(row, file, Finish(at, lease, result))
    else:
        moved = ledger().processing(row, file, Finish(lease=lease))
    if moved is None:
        raise Ended
    if moved.stage is Stage.ACTIVE:
        is_stored(task)
    return moved


@contextmanager
def _unsent_if_refused(ticket: str, *, in_one: bool) -> Iterator[None]:
    """Let an upload be QUEUED again whose one request met a 429: it may wait for hours."""
    try:
        yield
    except (RateLimitedError, StorageFullError):
        if in_one:
            ledger().unsent(ticket)
        raise


@contextmanager
def _slot_for(task: Task[Any, Any], request: UploadRequest) -> Iterator[None]:
    """Let an upload read its source; one from afar is retried where no slot is left for such."""
    if scheme_of(request.source) not in protocol.SOURCE_SCHEMES:
        yield
        return
    with slots.reading_remotely(policy.remote_share) as free:
        if not free:
            retry_later(task, Backoff(policy.remote_retry_s, jitter=0.2).delay(0))
        yield


@contextmanager
def _unless_ended(ticket: str) -> Iterator[None]:
    """Raise Ended for the failure of an upload that was cancelled: its session was given up.

    The provider did nothing wrong, so its breaker must not count it.
    """
    try:
        yield
    except ProviderUnavailableError:
        if not ledger().living(ticket):
            raise Ended from None
        raise


def _registers(row: UploadState) -> bool:
    """Whether the provider reads the source by itself, from a bucket that may be read."""
    if not provider(row.request.profile).registers(row.location):
        return False
    check_scheme(row.location, check(row.location), source_policy().schemes)
    return True


def _answer(task: Task[Any, Any], row: UploadState) -> dict[str, Any]:
    """Publish what the ledger says, for the first time or once more."""
    if row.stage is Stage.PROCESSING:
        park_among_many(task, row, row.request.poll_policy.backoff.delay(0))
        raise task.replace(canvases.wait_until_active(row.request))
    return result_of(row)
