"""Taking the file that another upload of the same bytes has, or waiting for it."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

from celery import Task

from config.policy import policy
from provider_uploads.errors import FileGoneError, NewerPayloadError, UnknownTicketError
from provider_uploads.records import ProviderFile
from provider_uploads.reuse import Reuse, Standing, content_of, standing, usable, users_key
from provider_uploads.rows import Row
from provider_uploads.sources import Reach, open_source
from provider_uploads.tiers import Work
from provider_uploads.transfer import Ended, Interrupted, Lease
from tasks.context import files_service, gemini, ledger, log, stopping
from tasks.turns import limited, wait_in_slot
from tasks.waiting import come_back


@cache
def reuse() -> Reuse:
    """Return this process's claims."""
    return Reuse(ledger())


def taken(task: Task[Any, Any], row: Row, reach: Reach, lease: Lease) -> Row | None:
    """Return the row with another upload's file; None if this upload is to send the bytes.

    Comes back later while another one sends them. Claims are decided by the rows of their owners,
    so any step may happen twice.
    """
    if row.content is None:
        row = _read(row, reach, lease)
    ticket, profile = row.request.upload_id, row.request.profile
    owner = reuse().claim(row)
    while owner != ticket:
        giver = _row(owner)
        stands = standing(giver, row.content, policy.reuse_spare_s) if giver else Standing.VOID
        if stands is Standing.LIVING:
            ledger().note(ticket, f"waits for {owner}, which sends the same bytes")
            come_back(task, policy.reuse_looks.delay(task.request.retries))
        if (
            giver
            and stands is Standing.ACTIVE
            and (file := _at_provider(task, ticket, giver, lease))
        ):
            moved = ledger().took(row, file, owner, users_key(profile, file.name))
            if moved is not None:
                log.info("%s: %s has these bytes already", ticket, file.name)
                return moved
            if ledger().read(ticket).stage.ended:
                raise Ended
        owner = reuse().claim(row, over=owner)
    return None


def _row(ticket: str) -> Row | None:
    try:
        return ledger().read(ticket)
    except (UnknownTicketError, NewerPayloadError):
        return None


def _at_provider(
    task: Task[Any, Any], ticket: str, giver: Row, lease: Lease
) -> ProviderFile | None:
    """Return the giver's file if the provider still has it, and for long enough."""
    known, profile = giver.file, giver.request.profile
    if known is None:
        return None
    turn = wait_in_slot(task, Work.POLL, profile, lease=lease, upload_id=ticket)
    with limited(Work.POLL, profile, turn), files_service(profile):
        try:
            file = known.updated(gemini(profile).get(known.name))
        except FileGoneError:
            return None
    return file if usable(file, giver, policy.reuse_spare_s) else None


def _read(row: Row, reach: Reach, lease: Lease) -> Row:
    """Read the source once and write down what is in it; a stopping worker gives it back."""
    ticket = row.request.upload_id
    told_at = time.monotonic()

    def watch(read_bytes: int) -> None:
        if stopping.is_set():
            raise Interrupted("the worker is stopping")
        if lease.lost:
            raise Interrupted("the lease could not be renewed")
        nonlocal told_at
        if time.monotonic() - told_at >= policy.progress_every_s:
            told_at = time.monotonic()
            if not ledger().note(ticket, f"reads it first: {read_bytes} bytes so far"):
                raise Ended

    with open_source(row.location, reach) as source:
        content = content_of(source.unchanged(row.expected_bytes), watch)
        read = ledger().content(row, content, source.size_bytes)
    if read is None:
        raise Ended
    return read
