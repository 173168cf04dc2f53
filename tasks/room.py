"""Room at the provider: an upload that would not fit waits for it, or makes it."""

from __future__ import annotations

from typing import Any, NoReturn

from celery import Task

from config.policy import policy
from config.tiers import tier_of
from provider_uploads.errors import SourceTooLargeError, StorageFullError
from provider_uploads.rows import Row
from provider_uploads.sources import Reach, open_source
from tasks import canvases
from tasks.context import ledger, log, storage
from tasks.turns import leave_slot


def take_room(row: Row, reach: Reach) -> None:
    """Take the room for an upload, if its account has a limit.

    Raises StorageFullError when there is none now, SourceTooLargeError when there never is.
    """
    request = row.request
    limit_bytes = tier_of(request.profile).storage_bytes
    if limit_bytes is None:
        return
    size_bytes = row.expected_bytes
    if size_bytes is None:
        with open_source(row.location, reach) as source:
            size_bytes = source.size_bytes
    if size_bytes > limit_bytes:
        raise SourceTooLargeError(request.source, size_bytes, limit_bytes)
    missing = storage().take(request.profile, request.upload_id, size_bytes, limit_bytes)
    if missing > 0:
        raise StorageFullError(request.profile, missing, limit_bytes)


def wait_for_room(task: Task[Any, Any], row: Row, full: StorageFullError) -> NoReturn:
    """Come back in a while, and make room first if that was asked for.

    In no slot: a file that waits for hours is in the way of none that fits.
    """
    ticket = row.request.upload_id
    if row.request.evict is not None:
        for spare in storage().spare(row.request.profile, full.missing_bytes):
            log.warning("%s makes room for %s", spare.request.upload_id, ticket)
            ledger().let_go(spare.request.upload_id)
            canvases.clean_up(spare.request.upload_id).apply_async()
    ledger().note(ticket, str(full))
    leave_slot(task, policy.storage_look_s)
