"""``provider_uploads.poll_batch``: one look at a batch's jobs per delivery, with countdowns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from celery import Task
from celery.exceptions import Ignore

from config.policy import policy
from provider_uploads import protocol
from provider_uploads.backoff import Backoff
from provider_uploads.errors import (
    BatchExpiredError,
    BatchFailedError,
    FileGoneError,
    ProviderRefusedError,
    ProviderUploadsError,
    TransientError,
)
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.batch_state import BatchState
from provider_uploads.schemas import GOOD_STATES, BatchJob, BatchStage, JobPart
from tasks import canvases
from tasks.admission import cool_down_on_429, permit_or_retry
from tasks.arguments import Ticket
from tasks.batches import (
    calls_of,
    one_at_a_time,
    queue_of,
    result_of,
    to_collecting,
)
from tasks.celery import app
from tasks.connections import batch_watch, batches, log
from tasks.later import retry_later

#: A job that is not there, and one that was given up and does not end.
_GONE, _ABANDONED = "GONE", "ABANDONED"


@app.task(name=protocol.POLL_BATCH, bind=True)
def poll_batch(
    self: Task[Any, Any], ticket: Ticket, woken: bool = False, turn: str = ""
) -> dict[str, Any]:
    """Look at the jobs: collect when all have ended, create again what is to be, else poll again.

    One that was ``woken``, by a webhook, looks once and has no successor of its own.
    """
    with one_at_a_time(self, ticket) as (row, _):
        if row.stage.ended:
            if woken:
                raise Ignore
            return result_of(row)
        if row.stage is BatchStage.RUNNING:
            if not woken:
                row = _claimed(self, row)
            row = _looked(self, row, turn, woken=woken)
        if row.stage is BatchStage.COLLECTING:
            if not woken:
                to_collecting(self, row)
            canvases.collect_batch(ticket, queue_of(row)).set(task_id=ticket).apply_async()
        elif any(job.state == "NEW" for job in row.jobs):
            again = canvases.batch(ticket, queue_of(row))
            if not woken:
                raise self.replace(again)
            again.apply_async()
        elif not woken:
            retry_later(self, _next_poll_s(self, row))
        raise Ignore


def _claimed(task: Task[Any, Any], row: BatchState) -> BatchState:
    """Claim this poll; a copy of one that was made ends here."""
    number, tag = task.request.retries, str((task.request.properties or {})["delivery_tag"])
    copy = number == row.claimed_poll and tag != row.delivery_tag
    if copy or number < row.claimed_poll:
        raise Ignore
    batches().update(
        row.ticket, values={"claimed_poll": str(number), "delivery_tag": tag}, count=("polls",)
    )
    return row


def _next_poll_s(task: Task[Any, Any], row: BatchState) -> float:
    """Return the wait until the next poll, which is no later than a deadline."""
    wait_s = policy.batch_polls.delay(task.request.retries + 1)
    if policy.batch_webhooks and wait_s >= policy.batch_poll_max_s / 2:
        wait_s = policy.batch_poll_webhook_s  # webhooks tell; this is for those that do not come
    now = time.time()
    due = [
        job.created_at + row.request.deadline_s - now
        for job in row.current
        if job.created_at and not job.ended and job.given_up_at is None
    ]
    if row.request.on_deadline != "wait" and due and min(due) > 0:
        wait_s = min(wait_s, min(due) + 0.05)
    return wait_s


def _looked(task: Task[Any, Any], row: BatchState, turn: str, *, woken: bool) -> BatchState:
    """Return the row with what the provider says of its jobs, and what follows from it."""
    open_jobs = [job for job in row.current if job.name and not job.ended]
    if open_jobs:
        names = [job.name for job in open_jobs if job.name]
        try:
            said = _asked(task, row, names, turn, alone=woken)
        except (TransientError, ProviderRefusedError) as error:
            # A job goes on while its key is refused, or the service is down.
            if isinstance(error, ProviderRefusedError) and _overdue(row):
                raise
            batches().note(row.ticket, f"the last poll failed: {error}")
            said = {}
        for job in open_jobs:
            if job.name in said:
                row = row.with_job(_updated(job, said[job.name]))
        row = _given_up(row)
    ended = [job.name for job in row.jobs if job.ended and job.name and not job.refused]
    batch_watch().ended(row.request.profile, row.request.model, ended)
    row = _put_back(row)
    row = _sent_again(row)
    return _moved(row)


def _overdue(row: BatchState) -> bool:
    """Whether the service itself has let all jobs expire by now."""
    created = [job.created_at for job in row.current if job.created_at]
    return bool(created) and time.time() > max(created) + protocol.BATCH_EXPIRY_S


def _asked(
    task: Task[Any, Any], row: BatchState, names: Sequence[str], turn: str, *, alone: bool
) -> dict[str, BatchJob | None]:
    """Return what is known of jobs by now; None for one that is not there."""
    profile, watch = row.request.profile, batch_watch()
    if not alone and not watch.cheaper_alone(profile, len(names)):
        if not watch.fresh(profile):
            with watch.listing(profile) as mine:
                if mine is False:
                    retry_later(task, Backoff(1.0, jitter=0.5).delay(0))
                if mine:
                    token = permit_or_retry(task, Work.POLL, profile, turn)
                    with cool_down_on_429(Work.POLL, profile, token):
                        watch.refresh(profile, calls_of(row))
        known: dict[str, BatchJob | None] = {**watch.known(profile, names)}
        names = [name for name in names if name not in known]
    else:
        known = {}
    for name in names:
        token = permit_or_retry(task, Work.POLL, profile, turn)
        try:
            with cool_down_on_429(Work.POLL, profile, token):
                known[name] = calls_of(row).get(name)
        except FileGoneError:
            known[name] = None
    return known


def _updated(job: JobPart, said: BatchJob | None) -> JobPart:
    if said is None:
        return job.model_copy(update={"state": _GONE})
    counts = said.counts
    total = job.end - job.start
    state = said.state
    if said.done and not job.model_copy(update={"state": state}).ended:
        # A word for an end that is not known here: what it came with decides.
        state = "FAILED" if said.error and not said.has_answers else "SUCCEEDED"
    return job.model_copy(
        update={
            "state": state,
            "counts": counts.model_copy(update={"requests": counts.requests or total}),
            "output_file": said.output_file,
            "inlined": said.inlined,
            "error": said.error,
        }
    )


def _given_up(row: BatchState) -> BatchState:
    """Cancel jobs that are past their deadline, where the caller wants that."""
    now = time.time()
    for job in row.current:
        if job.ended or not job.name or not job.created_at:
            continue
        late = now >= job.created_at + row.request.deadline_s
        if job.given_up_at is not None:
            if now >= job.given_up_at + policy.batch_cancel_s:
                row = row.with_job(job.model_copy(update={"state": _ABANDONED}))
        elif late and row.request.on_deadline != "wait":
            log.warning("%s: %s is %s at its deadline", row.ticket, job.name, job.state)
            calls_of(row).cancel(job.name)
            row = row.with_job(job.model_copy(update={"given_up_at": now}))
    return row


def _put_back(row: BatchState) -> BatchState:
    """Put new jobs in the place of those that the service had no room for.

    Nobody creates a job for that model for a while; after ``policy.batch_wait_s`` it is a failure.
    """
    if time.time() >= row.queued_at + policy.batch_wait_s:
        return row
    for job in row.current:
        if not job.refused or job.given_up_at is not None:
            continue
        said = str((job.error or {}).get("message") or "RESOURCE_EXHAUSTED")
        log.warning("%s: %s waits for room: %s", row.ticket, job.name, said)
        wait_s = policy.batch_full.delay(job.refusals)
        batch_watch().refused(row.request.profile, row.request.model, job, said, wait_s)
        again = JobPart(
            number=max(one.number for one in row.jobs) + 1,
            start=job.start,
            end=job.end,
            attempt=job.attempt,
            refusals=job.refusals + 1,
            generation=job.generation,
            input_ticket=job.input_ticket,
        )
        row = row.with_job(job.model_copy(update={"replaced": True}))
        row = row.model_copy(update={"jobs": (*row.jobs, again)})
    return row


def _expired(job: JobPart) -> bool:
    """Whether a job ended for lack of time, and has no answer to all of its requests."""
    late = job.state in {"EXPIRED", _ABANDONED} or job.given_up_at is not None
    return late and job.ended and job.state != "SUCCEEDED"


def _sent_again(row: BatchState) -> BatchState:
    """Put new jobs, smaller ones, in the place of those that expired, where that is wanted."""
    request = row.request
    for job in row.current:
        if request.on_deadline != "resubmit" or not _expired(job):
            continue
        if job.attempt > request.resubmissions:
            continue
        first = max(one.number for one in row.jobs) + 1
        row = row.with_job(job.model_copy(update={"replaced": True}))
        parts = min(request.parts, job.end - job.start)
        edges = [job.start + (job.end - job.start) * n // parts for n in range(parts + 1)]
        new = tuple(
            JobPart(number=first + n, start=edges[n], end=edges[n + 1], attempt=job.attempt + 1)
            for n in range(parts)
        )
        log.warning("%s: %s expired; sent again in %d parts", row.ticket, job.name, parts)
        row = row.model_copy(update={"jobs": (*row.jobs, *new)})
    return row


def _moved(row: BatchState) -> BatchState:
    """Write down where a batch is now; raises what ended all of its jobs without an answer."""
    values: dict[str, str] = {}
    unset: tuple[str, ...] = ()
    if any(job.state == "NEW" for job in row.jobs):
        values["claimed_poll"] = "-1"
        if all(job.state == "NEW" and job.refusals for job in row.current):
            values["stage"], unset = BatchStage.QUEUED, ("running_at",)  # it waits as before
    elif all(job.ended for job in row.current):
        # Through a gateway, answers may be kept out of sight.
        if not any(job.has_answers or job.state in GOOD_STATES for job in row.jobs):
            batches().save(row)
            raise _failure(row)
        values["stage"] = BatchStage.COLLECTING
    return batches().save(row, values, unset=unset) or batches().read(row.ticket)


def _failure(row: BatchState) -> ProviderUploadsError:
    job = row.current[0]
    if _expired(job):
        waited_s = round(time.time() - (job.created_at or row.queued_at), 3)
        return BatchExpiredError(job.name or "", job.state, waited_s, job.attempt)
    details = job.error
    if job.state == _GONE:
        details = {"message": "the job is not there any more"}
    return BatchFailedError(job.name or "", job.state, details)
