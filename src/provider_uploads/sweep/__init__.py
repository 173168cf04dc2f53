"""Finds what no message moves any more, and brings it to its end.

    lost       an upload, a question or a batch whose message is in no queue and at no worker
               (kombu can lose one between two of its steps): submitted again
    leftover   an upload that ended badly or was released, or a batch that has ended, with no
               deletion queued: deleted
    untold     an end that somebody is to be told of, with no message that does: sent again
    parked     a parked poll that nobody sends when it is due, or whose upload has ended: sent
    staged     a staged copy whose upload has ended, or was never queued: removed
    stray      a file under one of our names that its upload does not want: deleted; and so a job
               that its batch does not know, or does not need any more: cancelled first
    unreadable what Redis holds of an upload or a question, where nobody can read it, or only a
               newer version: left alone, and named
    unknown    a file under one of our names of which this Redis knows no upload: another Redis
               may, or it was uploaded without a queue, so it is deleted only where asked for

Everything here may happen twice at once: a copy of a message is fenced by the ledger, and gone is
success for a deletion.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from provider_uploads import messages, protocol
from provider_uploads.errors import (
    NewerPayloadError,
    ProviderUploadsError,
    UnknownTicketError,
    UnreadableStateError,
)
from provider_uploads.fleet.broker import held_tickets
from provider_uploads.fleet.queues import Queues
from provider_uploads.ledger.deduplication import Deduplication
from provider_uploads.ledger.last_sweep import ALONE, record_sweep
from provider_uploads.ledger.open_uploads import OpenUploads
from provider_uploads.ledger.outbox import Outbox
from provider_uploads.ledger.questions import Questions
from provider_uploads.ledger.storage import Storage
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.protocol import PriorityQueue
from provider_uploads.providers import open_provider
from provider_uploads.providers.base import Operation, Provider
from provider_uploads.schemas import Copy, ProviderFile, Stage
from provider_uploads.sources.staging import Staging
from provider_uploads.sweep.batches import BatchSweep
from provider_uploads.sweep.findings import Finding, Kind
from provider_uploads.sweep.parked import ParkedSweep

if TYPE_CHECKING:
    from provider_uploads.ledger.state import UploadState


__all__ = ["Finding", "Kind", "LastSweep", "Sweep", "last_sweep", "sweep_everywhere", "sweeping"]

#: A copy without an upload may still be being written; a web app that has not added a block to it
#: for so long is gone.
_BEING_STAGED_S = 3600.0

#: What the source of a batch's input begins with.
_OF_A_BATCH = "batch://"


class Sweep:
    """A sweep over one ledger; ``publish`` sends a message of ``app``."""

    def __init__(
        self,
        ledger: Ledger,
        app: messages.Writer[Any],
        publish: Callable[[Any], object],
        *,
        quiet_s: float,
        staging: Staging | None = None,
    ) -> None:
        """Leave alone what moved within ``quiet_s`` seconds: its own worker may be at it."""
        self._ledger = ledger
        self._open = OpenUploads(ledger)
        self._questions = Questions(ledger)
        self._batches = BatchSweep(ledger, app, publish, quiet_s)
        self._parked = ParkedSweep(ledger, quiet_s)
        self._outbox = Outbox(ledger)
        self._deduplication = Deduplication(ledger)
        self._storage = Storage(ledger)
        self._queues = Queues(ledger)
        self._app = app
        self._publish = publish
        self._quiet_s = quiet_s
        self._staging = staging
        self._unreadable: list[Finding] = []

    @contextmanager
    def alone(self, lease_s: float) -> Iterator[bool]:
        """Yield whether no other sweep is under way; it is safe but useless beside one.

        A sweep that dies with its worker is in the way for ``lease_s`` seconds at most.
        """
        with self._ledger.lease(ALONE, lease_s) as lease:
            yield lease is not None

    def done(self, every_s: float) -> None:
        """Write down that the ledger was swept, as it is meant to be every so many seconds."""
        record_sweep(self._ledger, every_s, [found.why for found in self._unreadable])

    # -- what the ledger knows -----------------------------------------------------------------

    def unmoved(self) -> Iterator[Finding]:
        """Yield what was lost or left, ends that nobody was told of, and what is unreadable."""
        yield from self._parked.findings()
        uploads = yield from self._tickets(self._open.unmoved(self._quiet_s))
        questions = yield from self._tickets(self._questions.unmoved(self._quiet_s))
        batches = yield from self._tickets(self._batches.unmoved())
        untold = yield from self._tickets(self._outbox.unmoved(self._quiet_s))
        untold = yield from self._ended(untold)
        moved = {*uploads, *questions, *batches, *map(messages.notification_of, untold)}
        if not moved:
            return
        queues = self._queues.queues()
        with self._ledger.reached():
            held = self._held(queues)
            # What was between a queue and a worker just then is in the worker's hands by now.
            if not held.issuperset(moved):
                held |= self._held(queues)
        for ticket in uploads:
            if ticket not in held:
                yield from self._readable(ticket, self._upload)
        for ticket in questions:
            if ticket not in held:
                yield from self._readable(ticket, self._question)
        for ticket in batches:
            if ticket not in held:
                yield from self._readable(ticket, self._batches.finding)
        for ticket in untold:
            if messages.notification_of(ticket) not in held:
                why = "it has ended, and no message tells of it"
                yield Finding(kind=Kind.UNTOLD, subject=ticket, why=why)

    def _held(self, queues: Sequence[str]) -> set[str]:
        """Return the tickets of all messages: parked, in a queue, or in workers' hands."""
        # In this order: what is woken meanwhile is found in its queue.
        return self._parked.tickets() | held_tickets(self._ledger.redis, queues)

    def _tickets(self, found: Sequence[str]) -> Generator[Finding, None, list[str]]:
        """Return the tickets among what stands in an index."""
        for one in found:
            if not protocol.TICKET.fullmatch(one):
                yield self._bad(one, f"{shown(one)} stands among the tickets, and is none")
        return [one for one in found if protocol.TICKET.fullmatch(one)]

    def _readable(
        self, subject: str, look: Callable[[str], Iterator[Finding]]
    ) -> Generator[Finding, None, None]:
        """Look at one; if it cannot be read, that is a line of the report and not its end."""
        try:
            yield from look(subject)
        except (NewerPayloadError, UnreadableStateError) as error:
            yield self._bad(subject, str(error))

    def _bad(self, subject: str, why: str) -> Finding:
        found = Finding(kind=Kind.UNREADABLE, subject=shown(subject), why=why)
        self._unreadable.append(found)
        return found

    def _ended(self, tickets: Sequence[str]) -> Generator[Finding, None, list[str]]:
        """Return those that have ended; the others' turn in the outbox comes later."""
        bad: list[str] = []
        living = self._questions.open_among(tickets) | self._batches.open_among([*tickets])
        try:
            living |= self._ledger.living_among(tickets)
        except UnreadableStateError:  # of one of them
            for ticket in tickets:
                try:
                    living |= self._ledger.living_among([ticket])
                except UnreadableStateError as error:
                    bad.append(ticket)
                    yield self._bad(ticket, f"upload {ticket}: {error}")
        self._outbox.touch([*living])
        return [ticket for ticket in tickets if ticket not in living and ticket not in bad]

    def _upload(self, ticket: str) -> Iterator[Finding]:
        try:
            row = self._ledger.read(ticket)
        except UnknownTicketError:
            self._open.forget(ticket)
            return
        profile = row.request.profile
        if row.request.source.startswith(_OF_A_BATCH) and not row.stage.ended:
            return  # it is moved by its batch's messages
        if row.stage.ended:
            if self._ledger.left_behind(ticket):
                why = f"{row.stage}, and no deletion is queued"
                yield Finding(kind=Kind.LEFTOVER, subject=ticket, profile=profile, why=why)
            else:
                self._open.forget(ticket)
        elif not self._ledger.leased(ticket):
            why = f"{row.stage}, and no message moves it"
            yield Finding(kind=Kind.LOST, subject=ticket, profile=profile, why=why)

    def _question(self, ticket: str) -> Iterator[Finding]:
        try:
            question, answer = self._questions.read(ticket)
        except (NewerPayloadError, UnreadableStateError):
            raise
        except ProviderUploadsError:
            self._questions.forget(ticket)
            return
        if answer is not None:
            self._questions.forget(ticket)
        elif not self._ledger.leased(ticket):
            why = "a question, and no message moves it"
            yield Finding(kind=Kind.LOST, subject=ticket, profile=question.profile, why=why)

    # -- what is staged ------------------------------------------------------------------------

    def staged(self) -> Iterator[Finding]:
        """Yield staged copies that no upload will read, of the place given if there is one.

        Raises SourceUnavailableError where that is out of reach.
        """
        staging = self._staging
        for ticket in staging.upload_ids() if staging else ():
            quiet_s = self._quiet_s
            try:
                stage = self._ledger.read(ticket).stage
                why = f"its upload is {stage}" if stage.ended else ""
            except UnknownTicketError:
                quiet_s, why = max(quiet_s, _BEING_STAGED_S), "it was never queued"
            except (NewerPayloadError, UnreadableStateError):
                continue
            if why and staging and staging.quiet(ticket, quiet_s):
                yield Finding(kind=Kind.STAGED, subject=ticket, why=why)

    # -- what the provider has -----------------------------------------------------------------

    def at_provider(self, profile: str, provider: Provider) -> Iterator[Finding]:
        """Yield strays and unknown files; nothing where the provider has no list."""
        if not provider.capabilities.can(Operation.LIST):
            return
        began = datetime.now(UTC)
        fresh = began - timedelta(seconds=self._quiet_s)
        files = [*provider.list()]
        self._storage.reconcile(profile, files, began.timestamp())
        for file in files:
            label = file.name if provider.capabilities.takes_names else file.display_name or ""
            ours = protocol.upload_of(label)
            if ours is None or (file.created_at is not None and file.created_at > fresh):
                continue
            ticket, generation = ours
            try:
                row = self._ledger.read(ticket)
                why = _unwanted(row, file, generation)
            except UnknownTicketError:
                why = "this Redis knows no upload of it"
                yield Finding(kind=Kind.UNKNOWN, subject=file.name, profile=profile, why=why)
            except (NewerPayloadError, UnreadableStateError):
                continue
            else:
                # Its users know it by their own profile; another one may have the same key.
                if why and not self._deduplication.shared(row.request.profile, file.name):
                    yield Finding(kind=Kind.STRAY, subject=file.name, profile=profile, why=why)

    def jobs_at_provider(self, profile: str, provider: Provider) -> Iterator[Finding]:
        """Yield jobs under our names that nobody waits for; nothing where there are no batches."""
        yield from self._batches.at_provider(profile, provider)

    # -- bringing it to an end -----------------------------------------------------------------

    def mend(self, finding: Finding, providers: Mapping[str, Provider]) -> None:
        """Do what the kind of finding calls for."""
        if finding.kind is Kind.UNREADABLE or self._batches.mend(finding, providers):
            return
        if finding.kind in {Kind.STRAY, Kind.UNKNOWN}:
            providers[finding.profile or ""].delete(finding.subject)
        elif finding.kind is Kind.STAGED and self._staging:
            self._staging.remove(finding.subject)
        elif finding.kind is Kind.PARKED:
            self._parked.mend(finding)
        elif finding.kind is Kind.UNTOLD:
            self._outbox.touch([finding.subject])
            self._publish(messages.notify_signature(self._app, finding.subject))
        elif finding.kind is Kind.LEFTOVER:
            self._ledger.touch(finding.subject)
            self._publish(messages.delete_signature(self._app, finding.subject))
        else:
            self._submit_again(finding.subject)

    def _submit_again(self, ticket: str) -> None:
        try:
            row = self._ledger.read(ticket)
        except UnknownTicketError:
            self._questions.touch(ticket)
            profile = self._questions.profile_of(ticket)
            queue = self._queues.queue_of(profile, PriorityQueue.QUESTIONS)
            self._publish(messages.ask_signature(self._app, ticket, queue))
            return
        self._ledger.note(ticket, "its message was lost; the sweep submitted it again")
        if row.stage is Stage.PROCESSING:
            signature = messages.poll_signature(self._app, row.request, row.claimed_poll + 1)
            self._publish(signature.set(task_id=ticket))
        else:
            queue = self._queues.queue_of(row.request.profile)
            self._publish(messages.upload_signature(self._app, row.request, queue))


def sweep_everywhere(
    sweep: Sweep, profiles: Iterable[str], *, dry_run: bool, unknown: bool
) -> list[Finding]:
    """Find everything there is, and unless ``dry_run`` bring it to its end; return what was found.

    Files that this Redis knows nothing of are deleted only with ``unknown``.
    """
    with ExitStack() as opened:
        found = [*sweep.unmoved(), *sweep.staged()]
        providers = {name: opened.enter_context(open_provider(name)) for name in profiles}
        for name, provider in providers.items():
            found += sweep.at_provider(name, provider)
            found += sweep.jobs_at_provider(name, provider)
        if not dry_run:
            for finding in found:
                if unknown or finding.kind is not Kind.UNKNOWN:
                    sweep.mend(finding, providers)
        return found


def shown(text: str) -> str:
    """Return a text as it may be printed and stored: what is no character is escaped."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _unwanted(row: UploadState, file: ProviderFile, generation: int) -> str:
    """Say why nobody wants this file of an upload; nothing if somebody does."""
    if not row.stage.ended:
        return "" if generation == row.generation else "a copy that was given up"
    if row.stage is Stage.ACTIVE and (row.file is None or row.file.name != file.name):
        return "not the copy its upload ended with"
    if row.copy_wanted:
        return ""
    if row.stage is Stage.ACTIVE and row.copy_at_provider is not Copy.DELETED:
        return ""  # released, and its deletion is a message of its own
    return "its user released it" if row.stage is Stage.ACTIVE else f"its upload is {row.stage}"
