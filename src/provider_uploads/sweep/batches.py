"""The part of a sweep that is about batches and their jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from provider_uploads import messages, protocol
from provider_uploads.errors import NewerPayloadError, UnknownTicketError, UnreadableStateError
from provider_uploads.fleet.queues import Queues
from provider_uploads.ledger.batches import Batches
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.providers.base import BatchCalls, Operation, Provider, batches_of
from provider_uploads.schemas import BatchJob, BatchStage, Copy
from provider_uploads.sweep.findings import Finding, Kind

if TYPE_CHECKING:
    from provider_uploads.ledger.batch_state import BatchState


class BatchSweep:
    """A sweep over the batches of one ledger."""

    def __init__(
        self,
        ledger: Ledger,
        app: messages.Writer[Any],
        publish: Callable[[Any], object],
        quiet_s: float,
    ) -> None:
        self._ledger = ledger
        self._batches = Batches(ledger)
        self._queues = Queues(ledger)
        self._app = app
        self._publish = publish
        self._quiet_s = quiet_s

    def unmoved(self) -> list[str]:
        """Return open batches that have not moved for a while."""
        return self._batches.unmoved(self._quiet_s)

    def open_among(self, tickets: list[str]) -> set[str]:
        """Return those that are batches without an end."""
        return self._batches.open_among(tickets)

    def finding(self, ticket: str) -> Iterator[Finding]:
        """Yield what is to be done about an open batch that no message moves."""
        try:
            row = self._batches.read(ticket)
        except UnknownTicketError:
            self._batches.forget(ticket)
            return
        if row.stage.ended and row.keeps:
            self._batches.forget(ticket)
        elif not self._ledger.leased(ticket):
            kind = Kind.LEFTOVER if row.stage.ended else Kind.LOST
            why = f"a batch, {row.stage}, and no message moves it"
            yield Finding(kind=kind, subject=ticket, profile=row.request.profile, why=why)

    def at_provider(self, profile: str, provider: Provider) -> Iterator[Finding]:
        """Yield jobs under our names that nobody waits for; nothing where there are no batches."""
        can = provider.capabilities.can(Operation.BATCH_INLINE)
        calls = getattr(provider, "batches", None) if can else None
        if calls is None:
            return
        fresh = datetime.now(UTC) - timedelta(seconds=self._quiet_s)
        for job in (job for page in calls.list() for job in page):
            ours = protocol.batch_of(job.display_name or "")
            known = self._batches.ticket_of_job(profile, job.name) if ours is None else ours[0]
            if known is None or (job.created_at is not None and job.created_at > fresh):
                continue
            try:
                row = self._batches.read(known)
            except UnknownTicketError:
                why = "this Redis knows no batch of it"
                yield Finding(kind=Kind.UNKNOWN, subject=job.name, profile=profile, why=why)
            except (NewerPayloadError, UnreadableStateError):
                continue
            else:
                if why := _unwanted_job(row, job):
                    yield Finding(kind=Kind.STRAY, subject=job.name, profile=profile, why=why)

    def mend(self, finding: Finding, providers: Mapping[str, Provider]) -> bool:
        """Do what a finding about a batch or a job calls for; False where it is about neither."""
        subject = finding.subject
        if finding.kind in {Kind.STRAY, Kind.UNKNOWN} and subject.startswith("batches/"):
            _delete(batches_of(providers[finding.profile or ""]), subject)
        elif finding.kind in {Kind.LOST, Kind.LEFTOVER} and self._is_batch(subject):
            if finding.kind is Kind.LOST:
                self._again(subject)
            else:
                self._batches.touch(subject)
                self._publish(messages.clean_up_batch_signature(self._app, subject))
        else:
            return False
        return True

    def _is_batch(self, ticket: str) -> bool:
        return self._batches.request_field(ticket, "batch_id") is not None

    def _again(self, ticket: str) -> None:
        row = self._batches.read(ticket)
        queue = self._queues.queue_of(row.request.profile)
        if row.stage is BatchStage.COLLECTING:
            signature = messages.collect_batch_signature(self._app, ticket, queue)
        elif row.stage is BatchStage.RUNNING and not any(job.state == "NEW" for job in row.jobs):
            signature = messages.poll_batch_signature(self._app, ticket, row.claimed_poll + 1)
        else:
            signature = messages.create_batch_signature(self._app, ticket, queue)
        self._batches.note(ticket, "its message was lost; the sweep submitted it again")
        self._publish(signature.set(task_id=ticket))


def _unwanted_job(row: BatchState, job: BatchJob) -> str:
    """Say why nobody waits for this job of a batch; nothing if somebody does."""
    if row.stage.ended:
        return "" if row.keeps or row.at_provider == Copy.PRESENT else f"its batch is {row.stage}"
    if any(part.name == job.name for part in row.jobs):
        return ""
    being_created = any(part.creating_at and not part.name for part in row.jobs)
    return "" if being_created else "its batch has another job in its place"


def _delete(calls: BatchCalls, name: str) -> None:
    """Delete a job; one that is under way is cancelled, and deleted the next time."""
    if not calls.cancel(name):
        calls.delete(name)
