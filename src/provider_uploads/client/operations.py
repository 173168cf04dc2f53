"""What a web app may ask of the queue, apart from how it is sent.

``UploadQueue`` and ``AsyncUploadQueue`` are two ways to carry these out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from provider_uploads import messages
from provider_uploads.backoff import Backoff
from provider_uploads.client.submission import Submission, checked_owner
from provider_uploads.errors import (
    InvalidRequestError,
    QueueUnavailableError,
    ResultTimeoutError,
)
from provider_uploads.fleet.items import ITEMS, Item
from provider_uploads.fleet.queues import queue_of
from provider_uploads.ledger import outbox, parked, questions, upload_steps
from provider_uploads.ledger.steps import Command, Sleep, Steps
from provider_uploads.questions import Answer, Question
from provider_uploads.schemas import Delivery, Notification, Stage, UploadResult, UploadStatus

T = TypeVar("T")

#: Rows in one round trip.
_BATCH: Final = 500
#: Uploads on one page of ``list``.
_MOST_LISTED: Final = 1000
_CURSOR = re.compile(r"\d{1,12}\.\d{6}")
#: Between two reads of the ledger while waiting for a result: soon at first, then twice a second.
_READ_AGAIN: Final = Backoff(0.02, 1.5, 0.5)


class Operations:
    """Each operation as steps for a connection; they raise what ``UploadQueue`` says.

    A step may be repeated, as a connection that was closed in between repeats it: an upload that
    is there already stays as it is, and a message that arrives twice does its work once.
    """

    def submit(self, submission: Submission) -> Steps[str]:
        """Write an upload and send its message, in one round trip."""
        request, ticket = submission.request, submission.request.upload_id
        queue = yield from queue_of(request.profile)
        message = messages.upload_signature(ITEMS, request, queue)
        try:
            yield [
                *outbox.writing(ticket, submission.notifications),
                upload_steps.opening(submission.upload, message.key, message.text(), once=True),
            ]
        except QueueUnavailableError:
            # It may have arrived all the same: a worker ignores what was withdrawn.
            yield from _withdraw([ticket])
            raise
        return ticket

    def submit_many(
        self, submissions: Sequence[Submission], question_id: str | None = None
    ) -> Steps[list[str]]:
        """Write uploads, and send them all, and a question over them, in one message."""
        tickets = [one.request.upload_id for one in submissions]
        ingest = messages.ingest_signature(ITEMS, [one.request for one in submissions], question_id)
        try:
            for start in range(0, len(submissions), _BATCH):
                commands: list[Command] = []
                for one in submissions[start : start + _BATCH]:
                    commands += outbox.writing(one.request.upload_id, one.notifications)
                    commands.append(upload_steps.opening(one.upload, once=True))
                yield commands
            yield from self.publish(ingest)
        except QueueUnavailableError:
            yield from _withdraw(tickets)
            raise
        return tickets

    def ask(
        self,
        question: Question,
        submissions: Sequence[Submission],
        notifications: Sequence[Notification],
        earlier: Sequence[str],
    ) -> Steps[str]:
        """Write a question and send it with its uploads; ``earlier`` tickets must be known."""
        if earlier:
            yield from upload_steps.statuses(earlier)
        yield [
            *outbox.writing(question.question_id, notifications),
            *questions.opening(question),
        ]
        yield from self.submit_many(submissions, question.question_id)
        return question.question_id

    def publish(self, message: Item) -> Steps[None]:
        """Send one message."""
        yield [message.sending()]

    def cancel(self, ticket: str) -> Steps[Stage]:
        """Stop an upload and have its file deleted; return the stage it was found in."""
        row = yield from upload_steps.read(ticket)
        found = row.stage
        if not found.ended:
            if (yield from upload_steps.cancelled(ticket)):
                # A poll that is parked ends Celery's task, instead of waiting for its time.
                yield from parked.wake(row.request.profile, [ticket])
                if row.request.notify:
                    yield from self.publish(messages.notify_signature(ITEMS, ticket))
            else:  # it ended in between
                found = (yield from upload_steps.read(ticket)).stage
        if found is Stage.CANCELLED or not found.ended:
            yield from self._delete(ticket)
        return found

    def delete(self, ticket: str) -> Steps[Stage]:
        """Have an ended upload's file deleted; return the stage it is in."""
        found = (yield from upload_steps.read(ticket)).stage
        if found.ended and (yield from upload_steps.release_copy(ticket)):
            yield from self._delete(ticket)
        return found

    def _delete(self, ticket: str) -> Steps[None]:
        if (yield from upload_steps.left_behind(ticket)):
            yield from self.publish(messages.delete_signature(ITEMS, ticket))

    def statuses(self, tickets: Sequence[str]) -> Steps[list[UploadStatus]]:
        """Return the statuses of uploads, in order."""
        return upload_steps.statuses(tickets)

    def page(
        self, owner: str | None, stage: Stage | str | None, limit: int, cursor: str | None
    ) -> Steps[upload_steps.Page]:
        """Return a page of uploads, the newest first."""
        if not 1 <= limit <= _MOST_LISTED:
            raise InvalidRequestError("limit", repr(limit), f"must be 1 to {_MOST_LISTED}")
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            raise InvalidRequestError("cursor", repr(cursor), "is none that a page came with")
        try:
            wanted = None if stage is None else Stage(stage)
        except ValueError:
            known = ", ".join(Stage)
            raise InvalidRequestError("stage", repr(stage), f"is none of {known}") from None
        return upload_steps.listed(checked_owner(owner), wanted, limit, cursor)

    def question(self, ticket: str) -> Steps[Question]:
        """Return a question."""
        return (yield from questions.read(ticket))[0]

    def deliveries(self, ticket: str) -> Steps[list[Delivery]]:
        """Return how the notifications of an upload or a question fare."""
        return [*(yield from outbox.deliveries([ticket]))[ticket]]

    def result(self, ticket: str, timeout_s: float | None) -> Steps[UploadResult]:
        """Wait until an upload has ended and return its result."""

        def read() -> Steps[tuple[UploadResult | None, str]]:
            row = yield from upload_steps.read(ticket)
            if row.stage.ended and row.stage is not Stage.ACTIVE:
                raise row.failure()
            return row.result() if row.stage.ended else None, row.stage.value

        return wait_for(ticket, read, timeout_s)

    def answer(self, ticket: str, timeout_s: float | None) -> Steps[Answer]:
        """Wait for the answer to a question."""

        def read() -> Steps[tuple[Answer | None, str]]:
            return (yield from questions.read(ticket))[1], "not answered"

        return wait_for(ticket, read, timeout_s, "question")


def wait_for(
    ticket: str,
    read: Callable[[], Steps[tuple[T | None, str]]],
    timeout_s: float | None,
    what: str = "upload",
) -> Steps[T]:
    """Read until there is something; with it comes the stage, for the error, as ``what`` does.

    Raises ResultTimeoutError after ``timeout_s`` seconds (None: never; 0: at once). An outage of
    Redis is waited out as long; only then it is an error. One that never answered is one at once.
    """
    if timeout_s is not None and not timeout_s >= 0:
        raise InvalidRequestError("timeout_s", repr(timeout_s), "must be zero or more seconds")
    begun = time.monotonic()
    reads = 0
    stage = ""
    while True:
        outage: QueueUnavailableError | None = None
        try:
            found, stage = yield from read()
        except QueueUnavailableError as error:
            if not (stage or error.passing):
                raise
            outage = error
        else:
            if found is not None:
                return found
        waited_s = time.monotonic() - begun
        if timeout_s is not None and waited_s >= timeout_s:
            raise outage or ResultTimeoutError(ticket, stage, round(waited_s, 3), what)
        wait_s = _READ_AGAIN.delay(reads)
        yield Sleep(wait_s if timeout_s is None else min(wait_s, timeout_s - waited_s))
        reads += 1


def _withdraw(tickets: Sequence[str]) -> Steps[None]:
    """Take uploads back that could not be sent, if Redis still answers."""
    with suppress(QueueUnavailableError):
        yield from upload_steps.withdrawn(tickets)
        yield outbox.forgetting(tickets)
