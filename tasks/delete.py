"""``provider_uploads.delete_on_timeout``: nothing of an ended upload stays at the provider."""

from __future__ import annotations

import time
from typing import Any

from celery import Task

from config.policy import policy
from provider_uploads import contract
from provider_uploads.errors import (
    TransientError,
    UnknownTicketError,
)
from provider_uploads.records import KEPT_S, Copy, Stage
from provider_uploads.rows import Row
from provider_uploads.tiers import Work
from tasks.celery import app
from tasks.context import files_service, gemini, handed_back, ledger, log, storage
from tasks.sharing import reuse
from tasks.turns import limited, turn_or_come_back
from tasks.waiting import come_back


@app.task(name=contract.DELETE, bind=True, ignore_result=True)
def delete_on_timeout(self: Task[Any, Any], upload_id: str, turn: str = "") -> None:
    """Delete what an upload that timed out, failed or was cancelled left; gone is success.

    Tried until the provider would have expired the file anyway. Never touches a living upload, an
    ACTIVE file that nobody let go, or one that others use.
    """
    with handed_back(upload_id):
        _clean_up(self, upload_id, turn)


def _clean_up(task: Task[Any, Any], upload_id: str, turn: str) -> None:
    try:
        row = ledger().read(upload_id)
    except UnknownTicketError:
        log.warning("%s is older than the ledger remembers: nothing deleted", upload_id)
        return
    if not row.stage.ended or (row.stage is Stage.ACTIVE and row.let_go_at is None):
        log.warning("%s is %s: nothing deleted", upload_id, row.stage)
        return
    if row.copy_at_provider is not Copy.PRESENT:
        return
    try:
        # Who has left stays away, so a delivery that comes again counts the others only.
        if row.request.reuse and reuse().leave(row):
            log.info("%s let go of a file that others use", upload_id)
        else:
            turn = turn_or_come_back(task, Work.DELETE, row.request.profile, turn)
            _delete(row, turn)
        ledger().deleted(upload_id)
    except TransientError as error:
        if _expired(row):
            raise
        log.info("%s not deleted yet: %s", upload_id, error)
        wait_s = policy.delete_retry.delay(task.request.retries)
        come_back(task, max(wait_s, error.retry_after_s or 0.0))


def _delete(row: Row, turn: str) -> None:
    provider, profile = gemini(row.request.profile), row.request.profile
    with limited(Work.DELETE, profile, turn), files_service(profile):
        if row.session_url is not None:
            provider.sender.cancel(row.session_url)
        for name in row.names:
            provider.delete(name)
    for name in row.names:
        if (sent_by := contract.upload_of(name)) is not None:  # of a shared file, somebody else
            storage().release(profile, sent_by[0])


def _expired(row: Row) -> bool:
    """Whether the provider no longer keeps anything of this upload."""
    return time.time() > (row.ended_at or 0.0) + KEPT_S
