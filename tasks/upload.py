"""``provider_uploads.upload``: a file's bytes to the provider, under the ticket."""

from __future__ import annotations

import time
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Reject, Retry
from google.auth.credentials import Credentials

from config.policy import policy
from provider_uploads import contract
from provider_uploads.cloud import known_credentials
from provider_uploads.errors import (
    NewerPayloadError,
    RateLimitedError,
    StorageFullError,
    TransientError,
    UnknownTicketError,
    UploadFailedError,
)
from provider_uploads.gemini import Gemini
from provider_uploads.locations import scheme_of
from provider_uploads.provider import Operation
from provider_uploads.records import KEPT_S, ProviderFile, Stage, UploadRequest
from provider_uploads.rows import Row, Verdict
from provider_uploads.settings import settings
from provider_uploads.sources import Reach, check_scheme, open_source
from provider_uploads.tiers import Work
from provider_uploads.transfer import Ended, Interrupted, Lease, transfer
from tasks import canvases
from tasks.celery import app
from tasks.context import (
    end_upload,
    files_service,
    gemini,
    ledger,
    log,
    recorded,
    stopping,
    storage,
    unstage,
)
from tasks.room import take_room, wait_for_room
from tasks.sharing import taken
from tasks.turns import limited, wait_in_slot
from tasks.waiting import come_back, leave_for_newer, try_again


@app.task(name=contract.UPLOAD, bind=True)
def upload(self: Task[Any, Any], payload: dict[str, Any]) -> dict[str, Any]:
    """Send one file; return its UploadResult if it is ACTIVE already, else wait for that.

    However often it is delivered, one provider file results.
    """
    with recorded(payload["upload_id"], end_upload):
        try:
            request = UploadRequest.read(payload)
        except NewerPayloadError as error:
            leave_for_newer(self, [payload["upload_id"]], error)
        with ledger().lease(request.upload_id, policy.lease_s) as lease:
            if lease is None:
                come_back(self, policy.lease_held_retry_s)
            row = _row(request)
            if row.claim_upload() is Verdict.GO:
                try:
                    row = _send(self, row, lease)
                except Ended:
                    row = ledger().read(request.upload_id)
                except Interrupted as reason:
                    log.info("%s goes back to the queue: %s", request.upload_id, reason)
                    raise Reject(reason, requeue=True) from None
                except TransientError as error:
                    try_again(self, row, error)
            elif row.claim_upload() is Verdict.STALE:
                raise Ignore
        unstage(request)
        return _answer(self, row)


def _row(request: UploadRequest) -> Row:
    """Return the upload's row; a message from a client that wrote none gets one now."""
    try:
        return ledger().read(request.upload_id)
    except UnknownTicketError:
        ledger().open([request])
        return ledger().read(request.upload_id)


def _send(task: Task[Any, Any], row: Row, lease: Lease) -> Row:
    """Bring the bytes over and write down what the provider says of them.

    A 429 and a full storage are waited out for as long as files are kept.
    """
    reach = Reach.of(settings())
    credentials = _for_registering(row, gemini(row.request.profile), reach)
    while True:
        try:
            # One that has begun to send goes on with it.
            if row.request.reuse and row.stage is Stage.QUEUED and credentials is None:
                shared = taken(task, row, reach, lease)
                if shared is not None:
                    return shared
            row, file = _sent(task, row, reach, lease, credentials)
            break
        except (RateLimitedError, StorageFullError) as error:
            if time.time() > row.queued_at + KEPT_S:
                raise
            if isinstance(error, StorageFullError):
                wait_for_room(task, row, error)
            row = ledger().read(row.request.upload_id)
            if row.stage.ended:
                raise Ended from error
    if file.state == Stage.FAILED:
        raise UploadFailedError(file.name, file.state, file.error)
    record = ledger().active if file.state == Stage.ACTIVE else ledger().processing
    moved = record(row, file)
    if moved is None:
        raise Ended
    return moved


def _sent(
    task: Task[Any, Any], row: Row, reach: Reach, lease: Lease, credentials: Credentials | None
) -> tuple[Row, ProviderFile]:
    """Make one attempt, when it is our turn."""
    ticket, profile = row.request.upload_id, row.request.profile
    provider = gemini(profile)
    if credentials is None:
        take_room(row, reach)
    try:
        turn = wait_in_slot(task, Work.UPLOAD, profile, lease=lease, upload_id=ticket)
    except (Retry, Interrupted, Ended):
        if row.stage is Stage.QUEUED:  # others may have the room meanwhile
            storage().release(profile, ticket)
        raise
    if credentials is not None:
        with limited(Work.UPLOAD, profile, turn), files_service(profile):
            (file,) = provider.register([row.location], credentials)
        return row, file
    with (
        open_source(row.location, reach) as source,
        limited(Work.UPLOAD, profile, turn),
        files_service(profile),
    ):
        return transfer(
            ledger(),
            provider,
            row,
            source.unchanged(row.expected_bytes),
            lease=lease,
            stopping=stopping.is_set,
            progress_every_s=policy.progress_every_s,
        )


def _for_registering(row: Row, provider: Gemini, reach: Reach) -> Credentials | None:
    """Return credentials if the source is in a bucket that the provider can read by itself."""
    if scheme_of(row.location) != "gs" or Operation.REGISTER in provider.provider.cannot:
        return None
    check_scheme(row.location, "gs", reach.schemes)
    return known_credentials()


def _answer(task: Task[Any, Any], row: Row) -> dict[str, Any]:
    """Publish what the ledger says, for the first time or once more."""
    if row.stage is Stage.ACTIVE:
        return row.result().model_dump(mode="json")
    if row.stage is Stage.PROCESSING:
        raise task.replace(canvases.wait_until_active(row.request))
    raise row.failure()
