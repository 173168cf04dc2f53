"""Files that a batch's requests name: uploaded by our own road, ACTIVE before its jobs are made."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from celery import Task

from config.policy import policy
from provider_uploads import locations, protocol
from provider_uploads.batches.attached import ActiveFile
from provider_uploads.batches.tokens import FileFacts, LookUp
from provider_uploads.errors import (
    FileExpiredError,
    NewerPayloadError,
    UnexpectedError,
    UnknownTicketError,
    UnreadableStateError,
    from_record,
)
from provider_uploads.fleet.queues import Queues
from provider_uploads.ledger import upload_steps
from provider_uploads.ledger.batch_state import BatchState
from provider_uploads.locations import is_upload_id
from provider_uploads.protocol import PriorityQueue
from provider_uploads.requests import request_for
from provider_uploads.schemas import Stage, UploadRequest, UploadStatus
from tasks import canvases
from tasks.celery import app
from tasks.connections import batches, ledger, log, provider
from tasks.later import retry_later


def active_files(task: Task[Any, Any], row: BatchState) -> dict[str, ActiveFile]:
    """Return the files that the requests name, all ACTIVE and for long enough; else retry later.

    Raises what ended an upload badly, FileExpiredError for a file that cannot be sent again.
    """
    tickets = batches().files(row.ticket)
    if not tickets:
        return {}
    found = ledger().run(upload_steps.known_statuses([*tickets.values()]))
    late = {
        subject: ticket
        for subject, ticket in tickets.items()
        if ticket not in found or _too_old(found[ticket])
    }
    if renewed := _renewed(row, late):
        _note(task, row, f"sends {len(renewed)} files again that would expire too early")
    waiting = 0
    for subject, ticket in tickets.items():
        upload = found.get(ticket)
        if upload is None:
            raise FileExpiredError(subject, "some time ago")
        if upload.stage.ended and upload.stage is not Stage.ACTIVE:
            raise from_record(
                upload.error or UnexpectedError(upload.stage, "withdrawn").as_record()
            )
        waiting += upload.stage is not Stage.ACTIVE
    if waiting:
        _note(task, row, f"waits for {waiting} of {len(tickets)} files")
    return {
        subject: ActiveFile(
            found[ticket].id or "", found[ticket].uri or "", found[ticket].mime_type
        )
        for subject, ticket in tickets.items()
    }


def facts_of_files() -> LookUp:
    """Return a look-up of what the ledger knows of files by their names, each read once."""
    known: dict[str, FileFacts | None] = {}

    def look_up(name: str) -> FileFacts | None:
        if name not in known:
            known[name] = _facts_of(name)
        return known[name]

    return look_up


def _facts_of(name: str) -> FileFacts | None:
    named = protocol.upload_of(name.rpartition("/")[2])
    if named is None:
        return None
    try:
        file = ledger().read(named[0]).file
    except (UnknownTicketError, NewerPayloadError, UnreadableStateError):
        return None
    if file is None:
        return None
    lasts = str((file.video or {}).get("videoDuration") or "").removesuffix("s")
    seconds = float(lasts) if lasts.replace(".", "", 1).isdecimal() else None
    return FileFacts(file.mime_type, file.size_bytes, seconds)


def _note(task: Task[Any, Any], row: BatchState, text: str) -> None:
    batches().note(row.ticket, text)
    retry_later(task, policy.batch_looks.delay(task.request.retries))


def send_files(row: BatchState, subjects: Iterable[str]) -> None:
    """Submit what the requests name: paths and sources as uploads, tickets as they are."""
    known = batches().files(row.ticket)
    new: dict[str, str] = {}
    requests = []
    for subject in subjects:
        if subject in known:
            continue
        if is_upload_id(subject):
            new[subject] = subject
            continue
        request = _request(row, subject)
        new[subject] = request.upload_id
        requests.append(request)
    _submit(row, requests, new)


def _request(row: BatchState, subject: str) -> UploadRequest:
    location = subject
    if locations.scheme_of(subject) is None and row.request.source:
        beside = row.request.source
        folder = Path(beside).parent if locations.scheme_of(beside) is None else None
        location = os.fspath(folder / subject) if folder else subject
    request = request_for(location, profile=row.request.profile)
    ticket = uuid.uuid5(uuid.UUID(row.ticket), f"file:{subject}").hex
    return request.model_copy(update={"upload_id": ticket})


def _submit(row: BatchState, requests: list[UploadRequest], named: dict[str, str]) -> None:
    ledger().open(requests)
    batches().set_files(row.ticket, named)
    queue = Queues(ledger()).queue_of(row.request.profile, PriorityQueue.BULK)
    with app.producer_or_acquire() as producer:
        for request in requests:
            canvases.upload_one(request, queue).apply_async(producer=producer)


def _too_old(upload: UploadStatus) -> bool:
    if upload.stage is not Stage.ACTIVE or upload.expires_at is None:
        return False
    # Never more than a new file has, or it would be sent again for ever.
    kept_s = provider(upload.profile).capabilities.kept_s
    spare_s = min(policy.batch_spare_s, kept_s * 0.75)
    return upload.expires_at < datetime.now(UTC) + timedelta(seconds=spare_s)


def _renewed(row: BatchState, late: dict[str, str]) -> dict[str, str]:
    """Send files again under new tickets, where their bytes can be had; return those."""
    requests, named = [], {}
    for subject, ticket in late.items():
        request = _source_of(row, subject, ticket)
        if request is None:
            continue
        renewed = uuid.uuid5(uuid.UUID(ticket), row.ticket).hex
        requests.append(request.model_copy(update={"upload_id": renewed, "notify": False}))
        named[subject] = renewed
    _submit(row, requests, named)
    return named


def _source_of(row: BatchState, subject: str, ticket: str) -> UploadRequest | None:
    """Return how to send a file again; None where its bytes are gone, and it may do as it is."""
    if not is_upload_id(subject):
        return _request(row, subject)
    request = ledger().read(ticket).request
    if not request.staged:
        return request
    file = ledger().read(ticket).file
    expires_at = file.expires_at if file else None
    if expires_at is None or expires_at.timestamp() < time.time():
        raise FileExpiredError(subject, str(expires_at))
    log.warning("%s: %s cannot be sent again; it expires at %s", row.ticket, subject, expires_at)
    return None
