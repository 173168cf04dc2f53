"""Batches for web apps with threads: the part of ``UploadQueue`` that is about them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from provider_uploads.client.batch_operations import BatchOperations, in_place
from provider_uploads.client.batch_submission import batch_submission
from provider_uploads.client.operations import Operations
from provider_uploads.ledger.connection import Connection
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.schemas import BatchAnswer, BatchResult, BatchStage, BatchStatus


class BatchQueue:
    """The batches of one Redis; every method raises QueueUnavailableError when it is down."""

    def __init__(self, connection: Connection, operations: Operations) -> None:
        self._connection = connection
        self._batches = BatchOperations(operations)

    def batch(
        self, requests: str | os.PathLike[str] | Iterable[Any], *, model: str, **options: Any
    ) -> str:
        """Queue many requests to one model as a batch; return its ticket.

        ``requests`` is a path or URL of a ``.jsonl`` or ``.json`` file, or an iterable of requests:
        in the provider's own format (``{"key", "request"}``, or OpenAI's lines), or as
        ``{"contents", "config"}``. A part ``{"file": "talk.mp4"}`` names a path, a URL or a ticket:
        the file is uploaded first, and the jobs are created when all are ACTIVE. All is checked
        before anything is queued; ``check=False`` leaves a file of requests to the worker, and
        ``check_fields=False`` lets fields pass that are not known here.

        ``results`` is a path or an fsspec URL that a worker writes the answers to, as JSONL or,
        if it ends in ``.parquet``, as Parquet; without one, the ledger keeps them.

        ``deadline_s`` is how long a job may take (48 h: 24 h beyond the service's target).
        ``on_deadline`` says what then: ``"wait"``, ``"cancel"``, or ``"resubmit"``, which cancels
        and sends what has no answer again in ``parts``, up to ``resubmissions`` times. A job that
        the service let expire goes the same way. With ``cleanup=False``, job, input and output
        stay at the provider until ``batch_delete``.

        ``profile``, ``ticket``, ``callback``, ``broker``, ``on_failed`` as in ``submit``;
        ``on_success`` gets the BatchResult. Raises BatchInputError with line and column, a
        SourceError, or an InvalidRequestError.
        """
        return self._connection.run(
            self._batches.submit(batch_submission(requests, model=model, **options))
        )

    def batch_status(self, ticket: str) -> BatchStatus:
        """Return what is known about a batch; raises UnknownTicketError."""
        return self._connection.run(self._batches.status(ticket))

    def batch_list(
        self, *, stage: BatchStage | str | None = None, limit: int = 100
    ) -> Sequence[BatchStatus]:
        """Return at most ``limit`` (1 to 1,000) batches, the newest first."""
        return self._connection.run(self._batches.listed(stage, limit))

    def batch_result(self, ticket: str, *, timeout_s: float | None = None) -> BatchResult:
        """Wait until a batch has ended and return its result, as ``result`` does for an upload.

        A batch with failed requests has ended well: the result counts and names them. Raises
        BatchFailedError, BatchExpiredError, BatchCancelledError.
        """
        return self._connection.run(self._batches.result(ticket, timeout_s))

    def batch_answers(self, ticket: str) -> Iterator[BatchAnswer]:
        """Yield ``(key, response, error)`` for each request, in the order of the input.

        They come from the ledger, a block at a time, or from the place that was named for them.
        Raises what ``batch_result`` raises; ResultTimeoutError if the batch has not ended.
        """
        result = self.batch_result(ticket, timeout_s=0)
        written = in_place(result)
        if written is not None:
            yield from written
            return
        number = 0
        while (block := self._connection.run(self._batches.answers(ticket, number))) is not None:
            yield from block
            number += 1

    def batch_cancel(self, ticket: str) -> BatchStage:
        """Stop a batch; its jobs are cancelled and deleted. Return the stage it was found in."""
        return self._connection.run(self._batches.cancel(ticket))

    def batch_delete(self, ticket: str) -> BatchStage:
        """Have what an ended batch has at the provider deleted; return the stage it is in."""
        return self._connection.run(self._batches.delete(ticket))

    def batch_wake(self, job: str, *, profile: str = DEFAULT_PROFILE) -> str | None:
        """Poll the batch of a job now: for webhooks. Return its ticket; None if it is not ours."""
        return self._connection.run(self._batches.wake(profile, job))
