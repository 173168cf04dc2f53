"""``provider_uploads.generate``: one question over files, asked once all of them are ACTIVE."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
from provider_uploads.fleet.attempts import Obstacle
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.lease import Lease
from provider_uploads.questions import Answer, Question, attachments
from provider_uploads.schemas import UploadStatus
from provider_uploads.transfer import Interrupted
from tasks import canvases
from tasks.admission import cool_down_on_429, wait_for_permit
from tasks.arguments import Ticket
from tasks.celery import app
from tasks.connections import asking, ledger, log, provider, questions
from tasks.later import retry_later
from tasks.outcomes import (
    asked_for_s,
    end_question,
    is_stored,
    recording_end,
    stored,
    unless_stopping,
)


@app.task(name=protocol.GENERATE, bind=True)
def generate(self: Task[Any, Any], question_id: Ticket) -> dict[str, Any]:
    """Ask, or retry while files are on their way; a file that ended badly ends the question.

    Delivered again, it returns the answer it has. A worker that dies while the model thinks asks
    twice, because the provider knows no way to fetch an answer that was lost.
    """
    with recording_end(self, question_id, end_question):
        question, answer = questions().read(question_id)
        if answer is None:
            with ledger().new_lease(question_id, policy.lease_s) as lease:
                answer = _ask(self, question, lease)
        if question.notify:
            canvases.notify(question_id).apply_async()
        return answer.model_dump(mode="json")


def _ask(task: Task[Any, Any], question: Question, lease: Lease) -> Answer:
    try:
        answer = _answered(task, question, lease)
    except Interrupted as reason:
        raise Reject(reason, requeue=True) from None
    except TransientError as error:
        attempts = questions().attempt_failed(question.question_id)
        if attempts >= policy.upload_tries:
            raise
        wait_s = max(policy.upload_retry.delay(attempts - 1), asked_for_s(error))
        log.info("%s asks again in %.1f s: %s", question.question_id, wait_s, error)
        retry_later(task, wait_s)
    kept = questions().answered(answer, lease, stored(task, answer))
    if kept is answer:
        is_stored(task)
    return kept


def _answered(task: Task[Any, Any], question: Question, lease: Lease) -> Answer:
    """Ask when there is a permit; a 429 is waited out here, as long as the files are kept."""
    profile, begun_at = question.profile, time.time()
    kept_s = provider(profile).capabilities.kept_s
    uploads, token = _begun(task, question, lease)
    while True:
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
            if time.time() > begun_at + kept_s:
                raise
        token = wait_for_permit(task, Work.GENERATE, profile, lease=lease)


def _begun(
    task: Task[Any, Any], question: Question, lease: Lease
) -> tuple[Sequence[UploadStatus], str]:
    """Return the uploads, all ACTIVE, and a permit's token; retry while one is not."""
    ticket, profile, files = question.question_id, question.profile, question.uploads
    begun = asking().begin(ticket, profile, files, lease)
    if begun.obstacle is Obstacle.PERMIT:
        permit = wait_for_permit(task, Work.GENERATE, profile, lease=lease)
        begun = asking().begin(ticket, profile, files, lease, permit=permit)
    match begun.obstacle:
        case Obstacle.FILES:
            retry_later(task, policy.question_polls.delay(task.request.retries))
        case Obstacle.ENDED:
            raise _why(begun.uploads[0])
        case Obstacle.LEASED:
            retry_later(task, policy.lease_held_retry_s)
    return begun.uploads, begun.token


def _why(upload: UploadStatus) -> ProviderUploadsError:
    record = upload.error or {"type": "UnexpectedError", "args": [upload.stage, "withdrawn"]}
    return from_record(record)
