"""``provider_uploads.delete_on_timeout``: nothing of an ended upload stays at the provider."""

from __future__ import annotations

import time
from typing import Any

from celery import Task

from config.policy import policy
from provider_uploads import protocol
from provider_uploads.errors import TransientError, UnknownTicketError
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.state import UploadState
from provider_uploads.schemas import Copy
from tasks.admission import cool_down_on_429
from tasks.arguments import Ticket
from tasks.celery import app
from tasks.connections import (
    deduplication,
    ledger,
    log,
    provider,
    provider_requests,
    storage,
    through_breaker,
)
from tasks.later import retry_later
from tasks.outcomes import asked_for_s


@app.task(name=protocol.DELETE, bind=True, ignore_result=True)
def delete_on_timeout(self: Task[Any, Any], upload_id: Ticket, turn: str = "") -> None:
    """Delete what an upload that timed out, failed or was cancelled left; gone is success.

    Tried until the provider would have expired the file anyway. Never touches a file that is
    wanted (``UploadState.copy_wanted``), or one that others use. ``turn`` is the token of a permit
    that was reserved for this deletion.
    """
    try:
        row = ledger().read(upload_id)
    except UnknownTicketError:
        log.warning("%s is older than the ledger remembers: nothing deleted", upload_id)
        return
    if row.copy_wanted:
        log.warning("%s is %s: nothing deleted", upload_id, row.stage)
        return
    if row.copy_at_provider is not Copy.PRESENT:
        return
    try:
        # A release is remembered, so a message that is delivered again counts the others only.
        if row.request.reuse and deduplication().release(row):
            log.info("%s released a file that others use", upload_id)
            ledger().deleted(upload_id)
        else:
            _delete(self, row, turn)
    except TransientError as error:
        if _expired(row):
            raise
        log.info("%s not deleted yet: %s", upload_id, error)
        wait_s = policy.delete_retry.delay(self.request.retries)
        retry_later(self, max(wait_s, asked_for_s(error)))


def _delete(task: Task[Any, Any], row: UploadState, turn: str) -> None:
    """Delete it at the provider, then here; retry when there is no permit yet."""
    profile = row.request.profile
    begun = provider_requests().begin(profile, Work.DELETE, permit=turn)
    if begun.wait_s > 0:
        retry_later(task, begun.wait_s, token=begun.token)
    files = provider(profile)
    with (
        cool_down_on_429(Work.DELETE, profile, begun.token),
        through_breaker(profile, begun.breaker),
    ):
        if row.session_url is not None:
            files.cancel(row.session_url)
        for name in row.names:
            files.delete(name)
    # A shared file is somebody else's.
    senders = [sent_by[0] for name in row.names if (sent_by := protocol.upload_of(name))]
    storage().deleted(row, senders)


def _expired(row: UploadState) -> bool:
    """Whether the provider no longer keeps anything of this upload."""
    kept_s = provider(row.request.profile).capabilities.kept_s
    return time.time() > (row.ended_at or 0.0) + kept_s
