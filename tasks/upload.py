"""``provider_uploads.upload``: a file's bytes to the provider, under the ticket."""

from __future__ import annotations

import time
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Reject, Retry

from config.policy import policy
from provider_uploads import protocol
from provider_uploads.errors import (
    NewerPayloadError,
    RateLimitedError,
    StorageFullError,
    TransientError,
    UnknownTicketError,
    UploadFailedError,
)
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.state import ClaimResult, UploadState
from provider_uploads.locations import check
from provider_uploads.schemas import ProviderFile, Stage, UploadRequest
from provider_uploads.settings import settings
from provider_uploads.sources.base import SourcePolicy, check_scheme
from provider_uploads.sources.open import open_source
from provider_uploads.transfer import Ended, Interrupted, Lease, transfer
from tasks import canvases
from tasks.admission import cool_down_on_429, reserve_storage, wait_for_permit, wait_for_storage
from tasks.celery import app
from tasks.connections import ledger, log, provider, stopping, storage, through_breaker
from tasks.deduplication import take_shared_file
from tasks.outcomes import (
    end_upload,
    leave_for_newer_worker,
    recording_end,
    retry_after_failure,
    retry_later,
    unstage,
)


@app.task(name=protocol.UPLOAD, bind=True)
def upload(self: Task[Any, Any], payload: dict[str, Any]) -> dict[str, Any]:
    """Send one file; return its UploadResult if it is ACTIVE already, else wait for that.

    However often it is delivered, one provider file results.
    """
    with recording_end(payload["upload_id"], end_upload):
        try:
            request = UploadRequest.read(payload)
        except NewerPayloadError as error:
            leave_for_newer_worker(self, [payload["upload_id"]], error)
        with ledger().lease(request.upload_id, policy.lease_s) as lease:
            if lease is None:
                retry_later(self, policy.lease_held_retry_s)
            row = _row(request)
            if row.claim_upload() is ClaimResult.GO:
                try:
                    row = _send(self, row, lease)
                except Ended:
                    row = ledger().read(request.upload_id)
                except Interrupted as reason:
                    log.info("%s goes back to the queue: %s", request.upload_id, reason)
                    raise Reject(reason, requeue=True) from None
                except TransientError as error:
                    retry_after_failure(self, row, error)
            elif row.claim_upload() is ClaimResult.STALE:
                raise Ignore
        unstage(request)
        return _answer(self, row)


def _row(request: UploadRequest) -> UploadState:
    """Return the upload's row; a message from a client that wrote none gets one now."""
    try:
        return ledger().read(request.upload_id)
    except UnknownTicketError:
        ledger().open([request])
        return ledger().read(request.upload_id)


def _send(task: Task[Any, Any], row: UploadState, lease: Lease) -> UploadState:
    """Send the bytes and record what the provider says of them.

    A 429 and a full storage are waited out for as long as files are kept.
    """
    source_policy = SourcePolicy.of(settings())
    registers = _registers(row, source_policy)
    while True:
        try:
            # One that has begun to send goes on with it.
            if row.request.reuse and row.stage is Stage.QUEUED and not registers:
                shared = take_shared_file(task, row, source_policy, lease)
                if shared is not None:
                    return shared
            row, file = _attempt(task, row, source_policy, lease, registers=registers)
            break
        except (RateLimitedError, StorageFullError) as error:
            kept_s = provider(row.request.profile).capabilities.kept_s
            if time.time() > row.queued_at + kept_s:
                raise
            if isinstance(error, StorageFullError):
                wait_for_storage(task, row, error)
            row = ledger().read(row.request.upload_id)
            if row.stage.ended:
                raise Ended from error
    if file.failed:
        raise UploadFailedError(file.name, file.state, file.error, file.provider)
    record = ledger().active if file.state == Stage.ACTIVE else ledger().processing
    moved = record(row, file)
    if moved is None:
        raise Ended
    return moved


def _attempt(
    task: Task[Any, Any],
    row: UploadState,
    source_policy: SourcePolicy,
    lease: Lease,
    *,
    registers: bool,
) -> tuple[UploadState, ProviderFile]:
    """Make one attempt, when it is admitted."""
    ticket, profile = row.request.upload_id, row.request.profile
    if not registers:
        reserve_storage(row, source_policy)
    try:
        token = wait_for_permit(task, Work.UPLOAD, profile, lease=lease, upload_id=ticket)
    except (Retry, Interrupted, Ended):
        if row.stage is Stage.QUEUED:  # others may have the storage meanwhile
            storage().release(profile, ticket)
        raise
    if registers:
        with cool_down_on_429(Work.UPLOAD, profile, token), through_breaker(profile):
            (file,) = provider(profile).register([row.location])
        return row, file
    with (
        open_source(row.location, source_policy) as source,
        cool_down_on_429(Work.UPLOAD, profile, token),
        through_breaker(profile),
    ):
        return transfer(
            ledger(),
            provider(profile),
            row,
            source.unchanged(row.expected_bytes),
            lease=lease,
            stopping=stopping.is_set,
            progress_every_s=policy.progress_every_s,
        )


def _registers(row: UploadState, source_policy: SourcePolicy) -> bool:
    """Whether the provider reads the source by itself, from a bucket that may be read."""
    if not provider(row.request.profile).registers(row.location):
        return False
    check_scheme(row.location, check(row.location), source_policy.schemes)
    return True


def _answer(task: Task[Any, Any], row: UploadState) -> dict[str, Any]:
    """Publish what the ledger says, for the first time or once more."""
    if row.stage is Stage.ACTIVE:
        return row.result().model_dump(mode="json")
    if row.stage is Stage.PROCESSING:
        raise task.replace(canvases.wait_until_active(row.request))
    raise row.failure()
