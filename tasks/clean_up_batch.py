"""``provider_uploads.clean_up_batch``: nothing of an ended batch stays at the provider."""

from __future__ import annotations

import time
from typing import Any

from celery import Task

from config.policy import policy
from provider_uploads import protocol
from provider_uploads.errors import (
    FileGoneError,
    ProviderUploadsError,
    QueueUnavailableError,
    UnknownTicketError,
)
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.batch_state import BatchState
from provider_uploads.providers.base import Operation
from provider_uploads.schemas import BatchStage, Copy
from tasks import canvases
from tasks.admission import cool_down_on_429, permit_or_retry
from tasks.arguments import Ticket
from tasks.batches import calls_of
from tasks.celery import app
from tasks.connections import batch_watch, batches, ledger, log, provider
from tasks.later import retry_later
from tasks.outcomes import asked_for_s


@app.task(name=protocol.CLEAN_UP_BATCH, bind=True, ignore_result=True)
def clean_up_batch(self: Task[Any, Any], ticket: Ticket, turn: str = "") -> None:
    """Cancel and delete the jobs of an ended batch, and its files; gone is success.

    A job is deleted once it has ended, because deletion does not stop it. Files that the caller
    uploaded stay.
    """
    with ledger().lease(f"clean-up:{ticket}", policy.lease_s) as lease:
        if lease is None:  # what another message does not see yet is left to this one
            retry_later(self, policy.batch_looks.delay(0), token=turn)
        _clean_up(self, ticket, turn)


def _clean_up(task: Task[Any, Any], ticket: str, turn: str) -> None:
    try:
        row = batches().read(ticket)
    except UnknownTicketError:
        log.warning("%s is older than the ledger remembers: nothing deleted", ticket)
        return
    if not row.stage.ended:
        return
    batches().update(ticket, tuple(BatchStage), unset=("note",))
    if row.at_provider in {Copy.NONE, Copy.DELETED} and not batches().files(ticket):
        return
    try:
        _release_uploads(row)
        done = row.keeps or _jobs_deleted(task, row, turn)
    except QueueUnavailableError:
        raise
    except ProviderUploadsError as error:
        if time.time() > (row.ended_at or 0.0) + protocol.BATCH_EXPIRY_S:
            log.warning("%s is not cleaned up, and is left alone from now on: %s", ticket, error)
            batches().cleaned_up(ticket, kept=True)
            raise
        log.info("%s not cleaned up yet: %s", ticket, error)
        wait_s = policy.delete_retry.delay(task.request.retries)
        retry_later(task, max(wait_s, asked_for_s(error)))
    if not done:
        retry_later(task, policy.batch_polls.delay(task.request.retries))
    batches().cleaned_up(ticket, kept=row.keeps)


def _release_uploads(row: BatchState) -> None:
    """Have the input's files deleted, and those that were uploaded for its requests alone."""
    own = [] if row.keeps else [job.input_ticket for job in row.jobs if job.input_ticket]
    own += [ticket for name, ticket in batches().files(row.ticket).items() if ticket != name]
    for ticket in own:
        if not ledger().cancelled(ticket):
            ledger().release_copy(ticket)
        if ledger().left_behind(ticket):
            canvases.clean_up(ticket).apply_async()


def _jobs_deleted(task: Task[Any, Any], row: BatchState, turn: str) -> bool:
    """Delete the jobs that have ended, and their outputs; return whether those were all."""
    profile = row.request.profile
    names = [job.name for job in row.jobs if job.name]
    if any(job.creating_at and not job.name for job in row.jobs):
        names += _created_unseen(row)
    all_ended = True
    for name in names:
        token = permit_or_retry(task, Work.DELETE, profile, turn)
        with cool_down_on_429(Work.DELETE, profile, token):
            all_ended &= _deleted(row, name)
    batch_watch().ended(profile, row.request.model, names)
    return all_ended


def _created_unseen(row: BatchState) -> list[str]:
    """Return jobs under the batch's name that were created by one who could not say so."""
    return [
        job.name
        for job in batch_watch().refresh(row.request.profile, calls_of(row))
        if (protocol.batch_of(job.display_name or "") or ("",))[0] == row.ticket
    ]


def _deleted(row: BatchState, name: str) -> bool:
    calls = calls_of(row)
    try:
        job = calls.get(name)
    except FileGoneError:
        return True
    if not job.ended:
        calls.cancel(name)
        return False
    can = provider(row.request.profile).capabilities
    if job.output_file is not None and can.can(Operation.ANSWERS):
        provider(row.request.profile).delete(job.output_file)
    calls.delete(name)
    return True
