"""Taking the file that another upload of the same bytes has, or waiting for it."""

from __future__ import annotations

import time
from typing import Any

from celery import Task

from config.policy import policy
from provider_uploads.errors import FileGoneError, NewerPayloadError, UnknownTicketError
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.deduplication import (
    ClaimState,
    claim_state,
    content_of,
    usable,
    users_key,
)
from provider_uploads.ledger.state import UploadState
from provider_uploads.schemas import ProviderFile
from provider_uploads.sources.base import SourcePolicy
from provider_uploads.sources.open import open_source
from provider_uploads.transfer import Ended, Interrupted, Lease
from tasks.admission import cool_down_on_429, wait_for_permit
from tasks.connections import deduplication, ledger, log, provider, stopping, through_breaker
from tasks.later import retry_later


def take_shared_file(
    task: Task[Any, Any], row: UploadState, source_policy: SourcePolicy, lease: Lease
) -> UploadState | None:
    """Return the row with another upload's file; None if this upload is to send the bytes.

    Retries later while another one sends them. The rows of the owners decide about claims, so any
    step may happen twice.
    """
    if row.content is None:
        row = _read(row, source_policy, lease)
    ticket, profile = row.request.upload_id, row.request.profile
    owner = deduplication().claim(row)
    while owner != ticket:
        sender = _row(owner)
        state = (
            claim_state(sender, row.content, policy.reuse_spare_s) if sender else ClaimState.VOID
        )
        if state is ClaimState.LIVING:
            ledger().note(ticket, f"waits for {owner}, which sends the same bytes")
            retry_later(task, policy.reuse_polls.delay(task.request.retries))
        if (
            sender
            and state is ClaimState.ACTIVE
            and (file := _at_provider(task, ticket, sender, lease))
        ):
            moved = ledger().active(
                row, file, sender=owner, sharing_key=users_key(profile, file.name)
            )
            if moved is not None:
                log.info("%s: %s has these bytes already", ticket, file.name)
                return moved
            if ledger().read(ticket).stage.ended:
                raise Ended
        owner = deduplication().claim(row, over=owner)
    return None


def _row(ticket: str) -> UploadState | None:
    try:
        return ledger().read(ticket)
    except (UnknownTicketError, NewerPayloadError):
        return None


def _at_provider(
    task: Task[Any, Any], ticket: str, sender: UploadState, lease: Lease
) -> ProviderFile | None:
    """Return the sender's file if the provider still has it, for long enough."""
    known, profile = sender.file, sender.request.profile
    if known is None:
        return None
    token = wait_for_permit(task, Work.POLL, profile, lease=lease, upload_id=ticket)
    with cool_down_on_429(Work.POLL, profile, token), through_breaker(profile):
        try:
            file = known.updated(provider(profile).get(known.name))
        except FileGoneError:
            return None
    return file if usable(file, sender, policy.reuse_spare_s) else None


def _read(row: UploadState, source_policy: SourcePolicy, lease: Lease) -> UploadState:
    """Read the source once and record its hash; a stopping worker requeues the message."""
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

    with open_source(row.location, source_policy) as source:
        content = content_of(source.unchanged(row.expected_bytes), watch)
        read = ledger().content(row, content, source.size_bytes)
    if read is None:
        raise Ended
    return read
