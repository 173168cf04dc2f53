"""``provider_uploads.create_batch``: a batch's input is checked and sent, and its jobs created."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from celery import Task
from celery.exceptions import Ignore

from config.policy import policy
from config.tiers import tier_of
from provider_uploads import protocol
from provider_uploads.batches import results
from provider_uploads.batches.shapes import Shape
from provider_uploads.errors import (
    BatchInputError,
    BatchTooLargeError,
    FileExpiredError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UnexpectedError,
    from_record,
)
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.batch_state import BatchState
from provider_uploads.ledger.state import UploadState
from provider_uploads.providers.base import NewJob, Operation
from provider_uploads.schemas import BatchJob, BatchStage, JobPart, Stage
from provider_uploads.settings import settings
from provider_uploads.transfer import Ended, Lease
from tasks.admission import cool_down_on_429, wait_for_permit
from tasks.arguments import Ticket
from tasks.batch_files import active_files, send_files
from tasks.batch_input import Prepared, input_ticket, prepared, send_input, sent_input
from tasks.batch_room import check_room, room
from tasks.batches import (
    after_end,
    calls_of,
    one_at_a_time,
    result_of,
    to_collecting,
    to_polling,
)
from tasks.celery import app
from tasks.connections import batch_watch, batches, ledger, log, provider
from tasks.later import retry_later

#: Until the first reading, nobody knows where the input ends.
_TO_THE_END = -1


@app.task(name=protocol.CREATE_BATCH, bind=True)
def create_batch(self: Task[Any, Any], ticket: Ticket, turn: str = "") -> dict[str, Any]:
    """Create the jobs that a batch has not got yet; then wait for them.

    However often it is delivered, one job results for each part of the input.
    """
    with one_at_a_time(self, ticket) as (row, lease):
        if row.stage is BatchStage.QUEUED or any(job.state == "NEW" for job in row.jobs):
            try:
                row = _create_jobs(self, row, lease)
            except Ended:
                row = batches().read(ticket)
        elif row.stage is BatchStage.RUNNING and row.claimed_poll >= 0:
            raise Ignore  # a copy: the polls are under way
        if row.stage.ended:
            return result_of(row)
        if row.stage is BatchStage.COLLECTING:
            return to_collecting(self, row)
        return to_polling(self, row)


def _create_jobs(task: Task[Any, Any], row: BatchState, lease: Lease) -> BatchState:
    capabilities = provider(row.request.profile).capabilities
    if not capabilities.can(Operation.BATCH_FILE):
        capabilities.require(Operation.BATCH_INLINE)
    calls_of(row)
    if row.request.results is not None:
        results.check_writable(row.request.results, settings().readable_roots)
    if not row.jobs:
        row = row.model_copy(update={"jobs": (JobPart(number=0, start=0, end=_TO_THE_END),)})
    for job in row.jobs:
        if job.state == "NEW":
            row = _create_job(task, row, job, lease)
    return row


def _create_job(task: Task[Any, Any], row: BatchState, job: JobPart, lease: Lease) -> BatchState:
    if job.creating_at is not None and (found := _found(row, job)) is not None:
        log.warning("%s: job %s was created before: adopted", row.ticket, found.name)
        return _created(row, job, found)
    files = active_files(task, row) if row.requests is not None else {}
    check_room(task, row)
    row = _without_refused(task, row, lease)
    if (upload := _sent(row, job)) is not None:
        return _create_from_file(task, row, job, upload, lease)
    with prepared(row, job, files) as input_:
        row, job = _recorded(task, row, job, input_)
        if _goes_inline(row, input_):
            new = _new_job(row, job, inline=input_.inline())
            return _create(task, row, job, new, lease)
        row, job = _with_input(row, job, input_ticket(row, job))
        upload = send_input(task, row, job, input_, lease)
    return _create_from_file(task, row, job, upload, lease)


def _recorded(
    task: Task[Any, Any], row: BatchState, job: JobPart, found: Prepared
) -> tuple[BatchState, JobPart]:
    """Write down what the first reading found; wait for the files that it names."""
    if row.requests is None:
        job = job.model_copy(update={"end": found.requests})
        row = _saved(
            row.with_job(job),
            {
                "requests": str(found.requests),
                "shape": found.shape.value,
                "size_bytes": str(found.size_bytes),
                "tokens": str(found.tokens),
            },
        )
    if found.unknown:
        send_files(row, sorted(found.unknown))
        active_files(task, row)  # retries until they are ACTIVE
        # They are at once, where all are tickets of uploads that have ended.
        retry_later(task, policy.batch_looks.delay(0))
    if row.tokens != found.tokens and len(row.jobs) == 1:
        found_ = {"tokens": str(found.tokens), "size_bytes": str(found.size_bytes)}
        row = _saved(row, found_)
    limit = tier_of(row.request.profile).batch_tokens.get(row.request.model)
    if limit is not None and found.tokens > limit:
        raise BatchTooLargeError(f"estimated tokens for {row.request.model}", found.tokens, limit)
    return row, job


def _goes_inline(row: BatchState, found: Prepared) -> bool:
    """Whether the requests go within the call; raises where they can go in no way."""
    can = provider(row.request.profile).capabilities
    own = Shape.OPENAI if can.openai_batches else Shape.GEMINI
    by_file = can.can(Operation.BATCH_FILE) and found.shape is own
    most = can.max_inline_requests
    fits = found.inline_bytes <= can.max_inline_bytes and (most is None or found.count <= most)
    inline = can.can(Operation.BATCH_INLINE) and found.shape is Shape.GEMINI and fits
    if by_file and (row.request.source is not None or not inline):
        return False
    if inline:
        return True
    if found.shape is Shape.OPENAI:
        raise BatchInputError(
            row.source, 1, 1, f"is in OpenAI's format, and {can.name} takes Gemini's"
        )
    if most is not None and found.count > most:
        raise BatchTooLargeError("requests", found.count, most)
    if can.can(Operation.BATCH_FILE):
        raise BatchInputError(
            row.source,
            1,
            1,
            f"is Gemini's format, over {can.max_inline_bytes:,} bytes; "
            f"{can.name} takes so much in its own format only",
        )
    raise BatchTooLargeError("bytes of requests", found.inline_bytes, can.max_inline_bytes)


# -- the input's file ------------------------------------------------------------------------------


def _sent(row: BatchState, job: JobPart) -> UploadState | None:
    """Return the upload of a job's input where all of it is with the provider already."""
    upload = None if job.input_ticket is None else sent_input(job.input_ticket)
    if upload is None or upload.stage in (Stage.QUEUED, Stage.UPLOADING):
        return None
    if row.size_bytes is None or row.requests is None:
        return None
    return upload


def _with_input(row: BatchState, job: JobPart, ticket: str) -> tuple[BatchState, JobPart]:
    job = job.model_copy(update={"input_ticket": ticket})
    return _saved(row.with_job(job)), job


def _create_from_file(
    task: Task[Any, Any], row: BatchState, job: JobPart, upload: UploadState, lease: Lease
) -> BatchState:
    if upload.stage is Stage.PROCESSING:
        batches().note(row.ticket, "waits until its input is ACTIVE")
        retry_later(task, policy.batch_looks.delay(task.request.retries))
    if upload.stage is not Stage.ACTIVE or upload.file is None:
        raise (
            upload.failure()
            if upload.error
            else from_record(UnexpectedError(upload.stage, "its input was withdrawn").as_record())
        )
    expires_at = upload.file.expires_at
    if expires_at is not None and expires_at.timestamp() < time.time() + policy.batch_spare_s / 2:
        if job.generation > 9:
            raise FileExpiredError(upload.file.name, expires_at.isoformat())
        # It has waited too long for room: sent again under another name, the old one deleted.
        again = job.model_copy(update={"generation": job.generation + 1, "input_ticket": None})
        _saved(row.with_job(again))
        ledger().release_copy(upload.request.upload_id)
        retry_later(task, policy.batch_looks.delay(0))
    job = job.model_copy(update={"input_file": upload.file.name})
    return _create(task, row, job, _new_job(row, job, input_file=upload.file.name), lease)


# -- creating it, once -----------------------------------------------------------------------------


def _new_job(row: BatchState, job: JobPart, **source: Any) -> NewJob:
    label = protocol.job_label(row.ticket, job.number)
    return NewJob(
        model=row.request.model,
        display_name=f"{label} {row.request.display_name}".rstrip()[: protocol.MAX_DISPLAY_NAME],
        webhooks=policy.batch_webhooks,
        **source,
    )


def _create(
    task: Task[Any, Any], row: BatchState, job: JobPart, new: NewJob, lease: Lease
) -> BatchState:
    """Create a job; that it may have been is written down before, that it was, after."""
    profile = row.request.profile
    token = wait_for_permit(task, Work.BATCH, profile, lease=lease)
    with room(task, row):
        job = job.model_copy(update={"creating_at": time.time()})
        row = _saved(row.with_job(job))
        try:
            with cool_down_on_429(Work.BATCH, profile, token):
                made = calls_of(row).create(new)
        except (RateLimitedError, PermanentError):  # it was not created, for sure
            _saved(row.with_job(job.model_copy(update={"creating_at": None})))
            raise
        return _created(row, job, made)


def _created(row: BatchState, job: JobPart, made: BatchJob) -> BatchState:
    """Write down a job that is there; one of a batch that was cancelled meanwhile is cleaned up."""
    profile = row.request.profile
    now = time.time()
    created_at = now if made.created_at is None else min(made.created_at.timestamp(), now)
    job = job.model_copy(update={"name": made.name, "state": "PENDING", "created_at": created_at})
    batches().remember_job(profile, made.name, row.ticket)
    known = made.model_copy(update={"model": row.request.model})
    batch_watch().opened(profile, known, row.tokens or 0)
    row = row.with_job(job)
    moved = batches().save(row, {"stage": BatchStage.RUNNING, "claimed_poll": "-1"})
    if moved is None:
        batches().save(row, stages=tuple(BatchStage))
        after_end(row.ticket)
        raise Ended
    batches().update(row.ticket, unset=("note",))
    return moved


def _found(row: BatchState, job: JobPart) -> BatchJob | None:
    """Look for a job that an earlier attempt may have created; the oldest counts.

    By its display name; where a gateway keeps none, by its input file, or as the only job since
    that nobody knows (of several, none is taken).
    """
    profile = row.request.profile
    keeps_names = provider(profile).capabilities.keeps_batch_names
    wanted = (row.ticket, job.number)
    others = {part.name for part in row.jobs}
    found = []
    for one in batch_watch().refresh(profile, calls_of(row)):
        if one.name in others:
            continue
        if keeps_names:
            ours = protocol.batch_of(one.display_name or "") == wanted
        elif job.input_file is not None:
            ours = one.input_file == job.input_file
        else:
            since = one.created_at is not None and one.created_at.timestamp() >= (
                (job.creating_at or 0.0) - 1.0  # gateways say whole seconds
            )
            ours = since and batches().ticket_of_job(profile, one.name) is None
        if ours:
            found.append(one)
    if not keeps_names and job.input_file is None and len(found) > 1:
        log.warning("%s: several jobs may be its own; none is taken", row.ticket)
        return None
    return min(found, key=_age, default=None)


def _age(job: BatchJob) -> float:
    return job.created_at.timestamp() if job.created_at else 0.0


def _without_refused(task: Task[Any, Any], row: BatchState, lease: Lease) -> BatchState:
    """Delete the jobs that the service had no room for, and forget them: each try leaves one."""
    for old in row.jobs:
        if not (old.replaced and old.refused and old.name):
            continue
        token = wait_for_permit(task, Work.DELETE, row.request.profile, lease=lease)
        try:
            with cool_down_on_429(Work.DELETE, row.request.profile, token):
                calls_of(row).delete(old.name)
        except (TransientError, PermanentError) as error:
            log.info("%s: %s is deleted with the batch: %s", row.ticket, old.name, error)
            continue
        row = _saved(row.without_job(old))
    return row


def _saved(row: BatchState, values: Mapping[str, str] = {}) -> BatchState:
    """Write a row down; raises Ended when it has ended meanwhile."""
    moved = batches().save(row, values)
    if moved is None:
        raise Ended
    return moved
