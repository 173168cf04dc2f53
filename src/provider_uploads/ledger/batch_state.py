"""One batch's state as the ledger has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import ConfigDict, Field

from provider_uploads import errors
from provider_uploads.schemas import (
    BatchCounts,
    BatchRequest,
    BatchResult,
    BatchStage,
    BatchStatus,
    Copy,
    Delivery,
    JobPart,
    Record,
    stored,
)

#: Fields of the row that are JSON.
_JSON = ("request", "jobs", "error", "result")


class BatchState(Record):
    """A batch as the ledger has it; times are seconds since the epoch on Redis's clock."""

    model_config = ConfigDict(hide_input_in_errors=True)

    request: BatchRequest
    stage: BatchStage
    #: The whole URL of the input, where it holds a credential: it never leaves the ledger.
    source_url: str | None = Field(default=None, repr=False)
    #: What the first reading found: how many requests, in whose format, how large.
    requests: int | None = None
    shape: str | None = None
    size_bytes: int | None = None
    tokens: int | None = None
    jobs: tuple[JobPart, ...] = ()
    polls: int = 0
    #: The number of the last poll that a message made; a copy of an earlier one ends quietly.
    claimed_poll: int = -1
    delivery_tag: str | None = None
    #: As ``Copy`` says it, or ``kept``: there, and wanted.
    at_provider: str = Copy.NONE
    result: BatchResult | None = None
    error: dict[str, Any] | None = None
    note: str | None = None
    failed_attempts: int = 0
    queued_at: float = 0.0
    running_at: float | None = None
    ended_at: float | None = None
    #: When its user gave up what is at the provider, where that is kept (``cleanup=False``).
    released_at: float | None = None

    @classmethod
    def of(cls, ticket: str, fields: Mapping[str, str]) -> Self:
        """Return the row that a Redis hash holds of a batch.

        Raises NewerRowError where only a newer version can read it, UnreadableStateError where
        nobody can.
        """
        values: dict[str, Any] = dict(fields)
        subject = f"batch {ticket}"
        try:
            for field in _JSON:
                if field in values:
                    values[field] = json.loads(values[field])
            values["request"] = BatchRequest.read(values["request"])
        except errors.NewerPayloadError as error:
            raise errors.NewerRowError(subject, f"version {error.payload_version}") from None
        except (errors.InvalidRequestError, ValueError, KeyError, AttributeError) as error:
            # What Redis holds may be a credential: it is not shown.
            problem = f"{type(error).__name__} in its request or another field"
            raise errors.UnreadableStateError(subject, problem) from None
        return stored(cls, subject, values)

    @property
    def ticket(self) -> str:
        """The batch's id."""
        return self.request.batch_id

    @property
    def source(self) -> str:
        """What the input is called in errors."""
        return self.request.source or "the requests"

    def with_job(self, job: JobPart) -> Self:
        """Return the row with this job in the place of the one of its number."""
        jobs = tuple(job if one.number == job.number else one for one in self.jobs)
        return self.model_copy(update={"jobs": jobs})

    def without_job(self, job: JobPart) -> Self:
        """Return the row without the job of this number."""
        jobs = tuple(one for one in self.jobs if one.number != job.number)
        return self.model_copy(update={"jobs": jobs})

    @property
    def keeps(self) -> bool:
        """Whether the provider is to keep job, input and output.

        Because that was asked for, or because the answers are there and could not be had here.
        """
        wanted = self.stage is BatchStage.SUCCEEDED and not self.request.cleanup
        stranded = self.stage is BatchStage.FAILED and any(job.has_answers for job in self.jobs)
        return (wanted or stranded) and self.released_at is None

    @property
    def current(self) -> tuple[JobPart, ...]:
        """The jobs that count: those that no later ones are in the place of."""
        return tuple(job for job in self.jobs if not job.replaced)

    @property
    def counts(self) -> BatchCounts:
        """How many requests, and what became of them so far."""
        if self.result is not None:
            return self.result.counts
        so_far = sum((job.counts for job in self.jobs if job.has_answers), BatchCounts())
        now = sum((job.counts for job in self.current if not job.has_answers), so_far)
        return now.model_copy(update={"requests": self.requests or now.requests})

    def failure(self) -> errors.ProviderUploadsError:
        """Return the error of a batch that ended badly."""
        record = self.error or {"type": "UnexpectedError", "args": [self.stage, "no error is kept"]}
        return errors.from_record(record)

    def status(self, now: float, deliveries: tuple[Delivery, ...] = ()) -> BatchStatus:
        """Return what a client may see."""
        end = self.ended_at or now
        began = self.running_at or end
        waiting = [job for job in self.current if not job.ended] or [*self.current]
        created = [job.created_at for job in waiting if job.created_at is not None]
        due = min(created) + self.request.deadline_s if created else None
        return BatchStatus(
            ticket=self.ticket,
            stage=self.stage,
            state=waiting[0].state if waiting and waiting[0].state != "NEW" else None,
            model=self.request.model,
            profile=self.request.profile,
            display_name=self.request.display_name,
            source=self.request.source,
            counts=self.counts,
            jobs=tuple(job.name for job in self.jobs if job.name),
            attempt=max((job.attempt for job in self.jobs), default=1),
            tokens=self.tokens,
            polls=self.polls,
            queued_s=round(max(began - self.queued_at, 0.0), 3),
            running_s=round(max(end - began, 0.0), 3),
            deadline_at=_moment(None if self.stage.ended else due),
            place=self.result.place if self.result else self.request.results,
            at_provider=str(self.at_provider),
            note=None if self.stage.ended else self.note,
            error=self.error,
            deliveries=deliveries,
        )


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
