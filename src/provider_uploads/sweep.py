"""Finds what no message moves any more, and brings it to its end.

    lost       an upload or a question whose message is in no queue and at no worker (kombu can
               lose one between two of its steps): submitted again
    leftover   an upload that ended badly or was released, with no deletion queued: deleted
    staged     a staged copy whose upload has ended, or was never queued: removed
    stray      a file under one of our names that its upload does not want: deleted
    unknown    a file under one of our names of which this Redis knows no upload: another Redis
               may, or it was uploaded without a queue, so it is deleted only where asked for

Everything here may happen twice at once: a copy of a message is fenced by the ledger, and gone is
success for a deletion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from provider_uploads import messages, protocol
from provider_uploads.errors import (
    NewerPayloadError,
    ProviderUploadsError,
    UnknownTicketError,
)
from provider_uploads.fleet.broker import held_tickets
from provider_uploads.fleet.queues import Queues
from provider_uploads.ledger.deduplication import Deduplication
from provider_uploads.ledger.open_uploads import OpenUploads
from provider_uploads.ledger.questions import Questions
from provider_uploads.ledger.storage import Storage
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.protocol import PriorityQueue
from provider_uploads.providers import open_provider
from provider_uploads.providers.base import Operation, Provider
from provider_uploads.schemas import Copy, ProviderFile, Record, Stage
from provider_uploads.sources.staging import Staging

if TYPE_CHECKING:
    from celery import Celery
    from celery.canvas import Signature

    from provider_uploads.ledger.state import UploadState


#: A copy without an upload may still be being written; a web app that has not added a block to it
#: for so long is gone.
_BEING_STAGED_S = 3600.0

_LAST_KEY = f"{protocol.KEY_PREFIX}sweep:last"
_LAST_KEPT_S = 24 * 3600
_ALONE = "sweep"


class Kind(StrEnum):
    """What was found."""

    LOST = "lost"
    LEFTOVER = "leftover"
    STAGED = "staged"
    STRAY = "stray"
    UNKNOWN = "unknown"


class Finding(Record):
    """One thing to bring to its end; ``subject`` is a ticket, or a file's name at the provider."""

    kind: Kind
    subject: str
    #: None where no account has to do with it.
    profile: str | None = None
    why: str


class LastSweep(Record):
    """The last sweep of the ledger that came to its end; seconds on Redis's clock."""

    ago_s: float
    every_s: float


def last_sweep(ledger: Ledger) -> LastSweep | None:
    """Return when the workers swept last; None if they did not within a day."""
    with ledger.reached():
        at, every_s = ledger.redis.hmget(_LAST_KEY, "at", "every_s")
    if at is None or every_s is None:
        return None
    return LastSweep(ago_s=ledger.now() - float(at), every_s=float(every_s))


def sweeping(ledger: Ledger) -> bool:
    """Whether a sweep is under way."""
    return ledger.leased(_ALONE)


class Sweep:
    """A sweep over one ledger; ``publish`` sends a message of ``app``."""

    def __init__(
        self,
        ledger: Ledger,
        app: Celery[Any],
        publish: Callable[[Signature[Any]], object],
        *,
        quiet_s: float,
        staging: Staging | None = None,
    ) -> None:
        """Leave alone what moved within ``quiet_s`` seconds: its own worker may be at it."""
        self._ledger = ledger
        self._open = OpenUploads(ledger)
        self._questions = Questions(ledger)
        self._deduplication = Deduplication(ledger)
        self._storage = Storage(ledger)
        self._queues = Queues(ledger)
        self._app = app
        self._publish = publish
        self._quiet_s = quiet_s
        self._staging = staging

    @contextmanager
    def alone(self, lease_s: float) -> Iterator[bool]:
        """Yield whether no other sweep is under way; it is safe but useless beside one.

        A sweep that dies with its worker is in the way for ``lease_s`` seconds at most.
        """
        with self._ledger.lease(_ALONE, lease_s) as lease:
            yield lease is not None

    def done(self, every_s: float) -> None:
        """Write down that the ledger was swept, as it is meant to be every so many seconds."""
        at = self._ledger.now()
        with self._ledger.reached(), self._ledger.redis.pipeline() as pipe:
            pipe.hset(_LAST_KEY, mapping={"at": at, "every_s": every_s})
            pipe.expire(_LAST_KEY, _LAST_KEPT_S)
            pipe.execute()

    # -- what the ledger knows -----------------------------------------------------------------

    def unmoved(self) -> Iterator[Finding]:
        """Yield lost uploads and questions, and leftovers."""
        uploads = self._open.unmoved(self._quiet_s)
        questions = self._questions.unmoved(self._quiet_s)
        if not (uploads or questions):
            return
        queues = self._queues.queues()
        with self._ledger.reached():
            held = held_tickets(self._ledger.redis, queues)
            # What was between a queue and a worker just then is in the worker's hands by now.
            if not held.issuperset(uploads + questions):
                held |= held_tickets(self._ledger.redis, queues)
        for ticket in uploads:
            if ticket not in held:
                yield from self._upload(ticket)
        for ticket in questions:
            if ticket not in held:
                yield from self._question(ticket)

    def _upload(self, ticket: str) -> Iterator[Finding]:
        try:
            row = self._ledger.read(ticket)
        except UnknownTicketError:
            self._open.forget(ticket)
            return
        except NewerPayloadError:
            return  # a newer worker's sweep knows what it is
        profile = row.request.profile
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
        except NewerPayloadError:
            return
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
            except NewerPayloadError:
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
            except NewerPayloadError:
                continue
            else:
                # Its users know it by their own profile; another one may have the same key.
                if why and not self._deduplication.shared(row.request.profile, file.name):
                    yield Finding(kind=Kind.STRAY, subject=file.name, profile=profile, why=why)

    # -- bringing it to an end -----------------------------------------------------------------

    def mend(self, finding: Finding, providers: Mapping[str, Provider]) -> None:
        """Do what the kind of finding calls for."""
        if finding.kind in {Kind.STRAY, Kind.UNKNOWN}:
            providers[finding.profile or ""].delete(finding.subject)
        elif finding.kind is Kind.STAGED and self._staging:
            self._staging.remove(finding.subject)
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
        if not dry_run:
            for finding in found:
                if unknown or finding.kind is not Kind.UNKNOWN:
                    sweep.mend(finding, providers)
        return found


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
