"""What a web app may ask of batches, apart from how it is sent: see ``client.operations``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from provider_uploads import messages
from provider_uploads.batches import results
from provider_uploads.client.batch_submission import BatchSubmission
from provider_uploads.client.operations import Operations, wait_for
from provider_uploads.errors import (
    InvalidRequestError,
    QueueUnavailableError,
    UnsupportedOperationError,
)
from provider_uploads.fleet.items import ITEMS
from provider_uploads.fleet.queues import queue_of
from provider_uploads.ledger import batch_steps, outbox
from provider_uploads.ledger.batches import job_key
from provider_uploads.ledger.steps import Steps, reply
from provider_uploads.schemas import BatchAnswer, BatchResult, BatchStage, BatchStatus

_MOST_LISTED: Final = 1000


class BatchOperations:
    """Each operation as steps for a connection; they raise what ``UploadQueue`` says."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def submit(self, submission: BatchSubmission) -> Steps[str]:
        """Write a batch and send its message; one that is there already stays as it is."""
        batch = submission.batch
        ticket = batch.request.batch_id
        if (yield from batch_steps.known(ticket)):
            return ticket
        queue = yield from queue_of(batch.request.profile)
        signature = messages.create_batch_signature(ITEMS, ticket, queue)
        try:
            if batch.blocks:
                yield from batch_steps.keeping_input(batch)
            yield [*outbox.writing(ticket, submission.notifications), batch_steps.opening(batch)]
            # Not before the row is there: a worker may be quicker.
            yield from self._operations.publish(signature)
        except QueueUnavailableError:
            # It may have arrived all the same: a worker ignores what was withdrawn.
            with suppress(QueueUnavailableError):
                yield from batch_steps.cancelled(ticket)
                yield outbox.forgetting([ticket])
            raise
        return ticket

    def status(self, ticket: str) -> Steps[BatchStatus]:
        """Return one batch's status."""
        return batch_steps.status(ticket)

    def listed(self, stage: BatchStage | str | None, limit: int) -> Steps[list[BatchStatus]]:
        """Return batches, the newest first."""
        if not 1 <= limit <= _MOST_LISTED:
            raise InvalidRequestError("limit", repr(limit), f"must be 1 to {_MOST_LISTED}")
        try:
            wanted = None if stage is None else BatchStage(stage)
        except ValueError:
            known = ", ".join(BatchStage)
            raise InvalidRequestError("stage", repr(stage), f"is none of {known}") from None
        return batch_steps.listed(wanted, limit)

    def result(self, ticket: str, timeout_s: float | None) -> Steps[BatchResult]:
        """Wait until a batch has ended and return its result."""

        def read() -> Steps[tuple[BatchResult | None, str]]:
            row = yield from batch_steps.read(ticket)
            if row.stage.ended and row.stage is not BatchStage.SUCCEEDED:
                raise row.failure()
            return row.result, row.stage.value

        return wait_for(ticket, read, timeout_s, "batch")

    def answers(self, ticket: str, number: int) -> Steps[list[BatchAnswer] | None]:
        """Return block number so-and-so of the answers that the ledger keeps; None at the end."""
        lines = yield from batch_steps.result_lines(ticket, number)
        return None if lines is None else [results.answer_of(line) for line in lines]

    def cancel(self, ticket: str) -> Steps[BatchStage]:
        """Stop a batch and have its jobs cancelled; return the stage it was found in."""
        row = yield from batch_steps.read(ticket)
        found = row.stage
        if not found.ended:
            if (yield from batch_steps.cancelled(ticket)):
                if row.request.notify:
                    yield from self._operations.publish(messages.notify_signature(ITEMS, ticket))
            else:  # it ended in between
                found = (yield from batch_steps.read(ticket)).stage
        if found is BatchStage.CANCELLED or not found.ended:
            yield from self._clean_up(ticket)
        return found

    def delete(self, ticket: str) -> Steps[BatchStage]:
        """Have what an ended batch left at the provider deleted; return the stage it is in."""
        found = (yield from batch_steps.read(ticket)).stage
        if found.ended and (yield from batch_steps.released(ticket)):
            yield from self._clean_up(ticket)
        return found

    def wake(self, profile: str, job: str) -> Steps[str | None]:
        """Poll the batch of a job now; return its ticket, None for a job that is not known."""
        ticket = yield from reply(("GET", job_key(profile, job)))
        if ticket is None:
            return None
        yield from self._operations.publish(messages.wake_batch_signature(ITEMS, str(ticket)))
        return str(ticket)

    def _clean_up(self, ticket: str) -> Steps[None]:
        yield from self._operations.publish(messages.clean_up_batch_signature(ITEMS, ticket))


def in_place(result: BatchResult) -> Iterator[BatchAnswer] | None:
    """Return the answers that a worker has written to a place; None where the ledger has them.

    Raises UnsupportedOperationError where they could not be had.
    """
    if not result.answers:
        raise UnsupportedOperationError(
            result.provider,
            "answers of a batch",
            f"its own API with the name of the output: {', '.join(result.outputs) or 'none given'}",
        )
    return None if result.place is None else results.read(result.place)
