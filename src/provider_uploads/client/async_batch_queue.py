"""Batches for web apps with an event loop: the part of ``AsyncUploadQueue`` that is about them."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Final, TypeVar

from provider_uploads.client.batch_operations import BatchOperations, in_place
from provider_uploads.client.batch_submission import batch_submission
from provider_uploads.client.operations import Operations
from provider_uploads.ledger.steps import Steps
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.schemas import BatchAnswer, BatchResult, BatchStage, BatchStatus

T = TypeVar("T")

#: Answers read in one go from the place that was named for them.
_BLOCK: Final = 200


class AsyncBatchQueue(ABC):
    """The operations of ``BatchQueue``, awaited; none blocks the event loop."""

    _operations: Operations

    @abstractmethod
    async def _run(self, steps: Steps[T], *, many: bool = False) -> T:
        """Carry out an operation."""

    @cached_property
    def _batches(self) -> BatchOperations:
        return BatchOperations(self._operations)

    async def batch(
        self, requests: str | os.PathLike[str] | Iterable[Any], *, model: str, **options: Any
    ) -> str:
        """Queue many requests to one model as a batch; return its ticket.

        See ``UploadQueue.batch``. The requests are checked in a thread, an iterable too.
        """
        submission = await asyncio.to_thread(batch_submission, requests, model=model, **options)
        return await self._run(self._batches.submit(submission), many=True)

    async def batch_status(self, ticket: str) -> BatchStatus:
        """Return what is known about a batch; raises UnknownTicketError."""
        return await self._run(self._batches.status(ticket))

    async def batch_list(
        self, *, stage: BatchStage | str | None = None, limit: int = 100
    ) -> Sequence[BatchStatus]:
        """Return at most ``limit`` (1 to 1,000) batches, the newest first."""
        return await self._run(self._batches.listed(stage, limit), many=True)

    async def batch_result(self, ticket: str, *, timeout_s: float | None = None) -> BatchResult:
        """Wait until a batch has ended and return its result; see ``UploadQueue.batch_result``."""
        return await self._run(self._batches.result(ticket, timeout_s))

    async def batch_answers(self, ticket: str) -> AsyncIterator[BatchAnswer]:
        """Yield the answer to each request, in order; see ``UploadQueue.batch_answers``."""
        result = await self.batch_result(ticket, timeout_s=0)
        written = in_place(result)
        number = 0
        while True:
            if written is not None:
                block = await asyncio.to_thread(lambda: [*islice(written, _BLOCK)]) or None
            else:
                block = await self._run(self._batches.answers(ticket, number), many=True)
                number += 1
            if block is None:
                return
            for answer in block:
                yield answer

    async def batch_cancel(self, ticket: str) -> BatchStage:
        """Stop a batch; return the stage it was found in. See ``UploadQueue.batch_cancel``."""
        return await self._run(self._batches.cancel(ticket))

    async def batch_delete(self, ticket: str) -> BatchStage:
        """Have what an ended batch has at the provider deleted; return the stage it is in."""
        return await self._run(self._batches.delete(ticket))

    async def batch_wake(self, job: str, *, profile: str = DEFAULT_PROFILE) -> str | None:
        """Poll the batch of a job now; see ``UploadQueue.batch_wake``."""
        return await self._run(self._batches.wake(profile, job))
