"""``provider_uploads.generate``: one question over files, asked once all of them are ACTIVE."""

from __future__ import annotations

import time
from typing import Any

from celery import Task
from celery.exceptions import Reject

from config.policy import policy
from provider_uploads import protocol
from provider_uploads.errors import (
    ProviderUploadsError,
    RateLimitedError,
    TransientError,
    from_record,
)
from provider_uploads.fleet.tiers import Work
from provider_uploads.questions import Answer, Question, attachments
from provider_uploads.schemas import Stage, UploadStatus
from provider_uploads.transfer import Interrupted, Lease
from tasks import canvases
from tasks.admission import cool_down_on_429, wait_for_permit
from tasks.arguments import Ticket
from tasks.celery import app
from tasks.connections import ledger, log, provider, questions
from tasks.later import retry_later
from tasks.outcomes import asked_for_s, end_question, recording_end, unless_stopping


@app.task(name=protocol.GENERATE, bind=True)
def generate(self: Task[Any, Any], question_id: Ticket) -> dict[str, Any]:
    """Ask, or retry while files are on their way; a file that ended badly ends the question.

    Delivered again, it returns the answer it has. A worker that dies while the model thinks asks
    twice, because the provider knows no way to fetch an answer that was lost.
    """
    with recording_end(self, question_id, end_question):
        question, answer = questions().read(question_id)
        if answer is None:
            uploads = _ready(self, question)
            with ledger().lease(question_id, policy.lease_s) as lease:
                if lease is None:
                    retry_later(self, policy.lease_held_retry_s)
                answer = _ask(self, question, uploads, lease)
        if question.notify:
            canvases.notify(question_id).apply_async()
        return answer.model_dump(mode="json")


def _ready(task: Task[Any, Any], question: Question) -> list[UploadStatus]:
    """Return the uploads, all ACTIVE; retry while one is not."""
    uploads = ledger().statuses(question.uploads)
    for upload in uploads:
        if upload.stage.ended and upload.stage is not Stage.ACTIVE:
            raise _why(upload)
    if not all(upload.stage is Stage.ACTIVE for upload in uploads):
        retry_later(task, policy.question_polls.delay(task.request.retries))
    return uploads


def _why(upload: UploadStatus) -> ProviderUploadsError:
    record = upload.error or {"type": "UnexpectedError", "args": [upload.stage, "withdrawn"]}
    return from_record(record)


def _ask(
    task: Task[Any, Any], question: Question, uploads: list[UploadStatus], lease: Lease
) -> Answer:
    try:
        answer = _answered(task, question, uploads, lease)
    except Interrupted as reason:
        raise Reject(reason, requeue=True) from None
    except TransientError as error:
        attempts = questions().attempt_failed(question.question_id)
        if attempts >= policy.upload_tries:
            raise
        wait_s = max(policy.upload_retry.delay(attempts - 1), asked_for_s(error))
        log.info("%s asks again in %.1f s: %s", question.question_id, wait_s, error)
        retry_later(task, wait_s)
    questions().answered(answer)
    return answer


def _answered(
    task: Task[Any, Any], question: Question, uploads: list[UploadStatus], lease: Lease
) -> Answer:
    """Ask when there is a permit; a 429 is waited out here, as long as the files are kept."""
    profile, begun = question.profile, time.time()
    kept_s = provider(profile).capabilities.kept_s
    while True:
        token = wait_for_permit(task, Work.GENERATE, profile, lease=lease)
        try:
            with cool_down_on_429(Work.GENERATE, profile, token):
                return unless_stopping(
                    lambda: provider(profile).generate(
                        question.prompt,
                        attachments(uploads),
                        model=question.model,
                        config=question.config,
                        timeout_s=policy.generate_timeout_s,
                        ticket=question.question_id,
                    )
                )
        except RateLimitedError:
            if time.time() > begun + kept_s:
                raise
