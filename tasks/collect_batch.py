"""``provider_uploads.collect_batch``: a batch's answers are fetched, matched and kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from celery import Task

from config.policy import policy
from provider_uploads import protocol
from provider_uploads.batches import results
from provider_uploads.batches.index import KeyIndex
from provider_uploads.errors import InvalidRequestError
from provider_uploads.ledger.batch_state import BatchState
from provider_uploads.providers.base import Operation
from provider_uploads.schemas import BatchAnswer, BatchCounts, BatchResult, BatchStage
from provider_uploads.settings import settings
from provider_uploads.transfer import Interrupted
from tasks.arguments import Ticket
from tasks.batch_input import as_job, requests_of
from tasks.batches import calls_of, one_at_a_time, result_of
from tasks.celery import app
from tasks.connections import batches, ledger, provider, stopping

T = TypeVar("T")

#: So many keys of failed requests are named in the result; the answers name all of them.
_NAMED = 1000


@app.task(name=protocol.COLLECT_BATCH, bind=True)
def collect_batch(self: Task[Any, Any], ticket: Ticket) -> dict[str, Any]:
    """Fetch the answers of all jobs, and keep them in the order of the input, as one."""
    with one_at_a_time(self, ticket) as (row, _):
        if row.stage is BatchStage.COLLECTING:
            batches().succeeded(row, _collected(row))
            row = batches().read(ticket)
        return result_of(row)


class _Tally:
    """Counts answers as they pass."""

    def __init__(self) -> None:
        self.counts = BatchCounts()
        self.failed: list[str] = []

    def over(self, answers: Iterable[BatchAnswer]) -> Iterator[BatchAnswer]:
        total = failed = 0
        self.failed = []
        for answer in answers:
            total += 1
            if answer.error is not None:
                failed += 1
                if failed <= _NAMED:
                    self.failed.append(answer.key)
            yield answer
        self.counts = BatchCounts(requests=total, succeeded=total - failed, failed=failed)


def _collected(row: BatchState) -> BatchResult:
    can = provider(row.request.profile).capabilities
    if not can.can(Operation.ANSWERS):
        return _result(row, row.counts, answers=False, outputs=_outputs(row))
    tally = _Tally()
    with KeyIndex() as keys:
        with requests_of(row, keys) as requests:
            for _ in _until_stopping(requests):
                pass
        for job in row.jobs:
            if job.has_answers:
                answers = calls_of(row).answers(as_job(job))
                keys.answer(_until_stopping(answers), job.start)
            elif job.error and not job.replaced:
                keys.explain(job.start, job.end, job.error)
        place = _kept(row, keys, tally)
    return _result(row, tally.counts, place=place, failed_keys=tuple(tally.failed))


def _outputs(row: BatchState) -> tuple[str, ...]:
    """Return the names of what holds the answers at the provider."""
    found = (job.output_file or job.name for job in row.jobs if job.has_answers)
    return tuple(name for name in found if name)


def _result(row: BatchState, counts: BatchCounts, **found: Any) -> BatchResult:
    now = ledger().now()
    began = row.running_at or now
    partial = any(job.state != "SUCCEEDED" for job in row.current)
    return BatchResult(
        ticket=row.ticket,
        state="PARTIALLY_SUCCEEDED" if partial else "SUCCEEDED",
        model=row.request.model,
        provider=provider(row.request.profile).capabilities.name,
        counts=counts,
        jobs=tuple(job.name for job in row.jobs if job.name),
        queued_s=round(began - row.queued_at, 3),
        running_s=round(now - began, 3),
        **found,
    )


def _until_stopping(items: Iterable[T]) -> Iterator[T]:
    """Yield items; raise Interrupted when the worker stops, however many there are."""
    for item in items:
        if stopping.is_set():
            raise Interrupted("the worker is stopping")
        yield item


def _kept(row: BatchState, keys: KeyIndex, tally: _Tally) -> str | None:
    """Write the answers to the place that was named, or keep them in the ledger."""
    if row.request.results is not None:
        roots = settings().readable_roots
        results.write(tally.over(keys.in_order()), row.request.results, roots)
        return row.request.results
    lines = (f"{results.answer_line(one)}\n".encode() for one in tally.over(keys.in_order()))
    size = batches().keep_results(row.ticket, lines, policy.batch_kept_bytes)
    if size is None:
        raise InvalidRequestError(
            "results",
            "None",
            f"is needed: the answers are more than {policy.batch_kept_bytes:,} bytes, which Redis "
            "keeps of a batch. Submit with results='…/answers.jsonl', or raise "
            "PROVIDER_UPLOADS_BATCH_KEPT_BYTES where the workers run. These answers stay at the "
            f"provider until batch_delete: {', '.join(_outputs(row))}",
        )
    return None
