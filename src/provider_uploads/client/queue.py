"""The queue for web apps with threads: submit files, ask how they are, fetch results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from provider_uploads.client import arguments
from provider_uploads.client.batch_queue import BatchQueue
from provider_uploads.client.event_stream import ChangeFeed, EventStream
from provider_uploads.client.operations import Operations
from provider_uploads.client.submission import SubmitOptions, shows_options, submission_for
from provider_uploads.errors import InvalidRequestError
from provider_uploads.fleet.items import ITEMS
from provider_uploads.ledger import batch_steps
from provider_uploads.ledger.upload_steps import Page
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.questions import Answer, Question
from provider_uploads.schemas import Delivery, Stage, UploadResult, UploadStatus
from provider_uploads.settings import settings
from provider_uploads.sources.staging import Readable, staging_at

if TYPE_CHECKING:
    from provider_uploads.sweep import Finding


class UploadQueue(BatchQueue):
    """A queue of uploads in one Redis; thread-safe, made once per process.

    It keeps to itself: it neither reads nor becomes the host application's Celery app, ignores
    ``CELERY_*`` variables, and needs no ``tasks`` or ``config`` package. Every method raises
    QueueUnavailableError within 5 s when Redis is down or stalled; those that wait, ``result``,
    ``answer``, ``batch_result`` and ``events``, once their own time is up.
    """

    def __init__(self, redis_url: str | None = None) -> None:
        """Use ``redis_url``, or ``PROVIDER_UPLOADS_REDIS_URL``; nothing is connected yet."""
        url = arguments.server(redis_url)
        self._ledger = Ledger(url, timeout_s=settings().redis_timeout_s)
        self._operations = Operations()
        super().__init__(self._ledger, self._operations)
        self._changes = ChangeFeed(self._ledger)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._changes.close()
        self._ledger.close()

    # -- submitting ----------------------------------------------------------------------------

    @shows_options
    def submit(self, path: str | os.PathLike[str], **options: Unpack[SubmitOptions]) -> str:
        """Queue one file, by its path or its s3://, gs:// or https:// URL; return its ticket.

        ``timeout_s`` runs from the moment the provider has all bytes. The first poll comes after
        ``poll_s`` seconds, each later wait is ``backoff_factor`` times longer, at most
        ``max_poll_s`` (None: no cap), ±``jitter_s``. ``profile`` names an account of the workers; a
        key cannot be given, because messages hold no secrets. Raises a SourceError or an
        InvalidRequestError before anything is queued; a URL is only requested by the worker.

        Each call is an upload of its own, also of the same file. With ``reuse``, uploads of the
        same bytes, MIME type and profile share one file at the provider while it is ACTIVE and has
        an hour to live, until each has been released by ``delete``.

        An upload that does not fit into the account's storage waits. With ``evict="oldest"`` our
        own finished files are deleted for it, the oldest first, as by ``delete``.

        ``ticket`` is one of your own making, ``uuid.uuid4().hex``: an upload that is there already
        under it stays as it is, so a request that is made twice queues one upload.

        ``owner`` (1 to 128 characters) and ``tags`` (at most 16, text to text) are kept with the
        upload, for ``list`` and ``status``; the provider does not see them.

        ``on_active`` and ``on_failed`` are Celery signatures of your own app: they are sent to
        your ``broker``, which the workers' settings name, with the UploadResult, or with the
        UploadStatus of one that failed, timed out or was cancelled, as first argument.
        ``callback`` names a webhook of the workers' settings. All are sent at least once.
        """
        return self._ledger.run(self._operations.submit(submission_for(path, **options)))

    @shows_options
    def submit_stream(
        self,
        fileobj: Readable,
        *,
        filename: str | None = None,
        max_bytes: int | None = None,
        **options: Unpack[SubmitOptions],
    ) -> str:
        """Copy a binary stream to ``PROVIDER_UPLOADS_STAGING``, queue the copy, return the ticket.

        Read from where it stands to its end, a block at a time; not closed. Of ``filename`` only
        the last component counts; without one, the stream's own is used if it has one. A MIME type
        of ``application/octet-stream`` is looked up by the name. The other options are those of
        ``submit``. The worker removes the copy when the provider has it, or the upload has ended
        otherwise; whatever is raised here, nothing stays. Raises ConfigurationError without a
        staging place, SourceTooLargeError beyond ``max_bytes`` or what the provider takes,
        SourceUnavailableError when the place does not take the copy, or an InvalidRequestError.
        """
        staged = arguments.staged(fileobj, filename, max_bytes, options)
        submission = staged.copy(fileobj)
        try:
            return self._ledger.run(self._operations.submit(submission))
        except BaseException as error:  # Ctrl-C too leaves no copy
            staged.remove_after(error)
            raise

    @shows_options
    def submit_many(
        self, paths: Iterable[str | os.PathLike[str]], **options: Unpack[SubmitOptions]
    ) -> list[str]:
        """Queue many files, by path or URL, in one message; return their tickets, in order.

        All are checked first: one that is bad raises, and nothing is queued. The options
        are those of ``submit`` and hold for every file; each keeps its own name.
        """
        submissions = arguments.many(paths, options)
        if not submissions:
            return []
        return self._ledger.run(self._operations.submit_many(submissions))

    def ask(
        self,
        prompt: str,
        paths: Iterable[str | os.PathLike[str]] = (),
        *,
        tickets: Sequence[str] = (),
        **options: Any,
    ) -> str:
        """Queue one question over files; return its ticket, for ``answer``.

        The files are ``paths``, uploaded as by ``submit_many``, and those of earlier ``tickets``.
        Of several, each comes after its name in the prompt: the path from the folder they share.

        Options: ``model``; ``config``, JSON fields of google-genai's ``GenerateContentConfig``;
        ``profile``; ``on_answer``, ``on_failed``, ``broker`` and ``callback``, which are told of
        the question's end as ``submit`` tells of an upload's; and those of ``submit`` for its
        files.
        """
        return self._ledger.run(
            self._operations.ask(*arguments.asked(prompt, paths, tickets, **options))
        )

    # -- changing one's mind -------------------------------------------------------------------

    def cancel(self, ticket: str) -> Stage:
        """Stop an upload and have its file deleted; return the stage it was found in.

        Bytes stop moving within a second. One that had ended stays as it was, and a second
        cancellation is harmless. Raises UnknownTicketError.
        """
        return self._ledger.run(self._operations.cancel(ticket))

    def delete(self, ticket: str) -> Stage:
        """Have an ended upload's file deleted at the provider; return the stage it is in.

        A file that others share (``reuse``) stays until the last of them releases it. An upload
        that has not ended stays as it is: that is for ``cancel``. A second time is harmless. Raises
        UnknownTicketError.
        """
        return self._ledger.run(self._operations.delete(ticket))

    # -- sweeping ------------------------------------------------------------------------------

    def sweep(
        self, *, dry_run: bool = True, unknown: bool = False, quiet_s: float = 20.0
    ) -> list[Finding]:
        """Find what nobody moves any more: here, staged, and at every profile's provider.

        Unless ``dry_run``, bring it to its end: submit again what was lost, delete what was left.
        Files that this Redis knows nothing of are deleted only with ``unknown``. What moved within
        ``quiet_s`` seconds is left alone. Needs the ``google`` extra.
        """
        if not 0 <= quiet_s < float("inf"):
            raise InvalidRequestError("quiet_s", repr(quiet_s), "must be zero or more seconds")
        from provider_uploads.sweep import Sweep, sweep_everywhere  # most processes never sweep

        sweep = Sweep(
            self._ledger,
            ITEMS,
            lambda message: self._ledger.run(self._operations.publish(message)),
            quiet_s=quiet_s,
            staging=staging_at(settings().staging) if settings().staging else None,
        )
        return sweep_everywhere(sweep, settings().profile_names, dry_run=dry_run, unknown=unknown)

    # -- asking --------------------------------------------------------------------------------

    def question(self, ticket: str) -> Question:
        """Return a question that has no answer yet, or has one; raises what ended it."""
        return self._ledger.run(self._operations.question(ticket))

    def answer(self, ticket: str, *, timeout_s: float | None = None) -> Answer:
        """Wait for the answer to a question as ``result`` waits for an upload."""
        return self._ledger.run(self._operations.answer(ticket, timeout_s))

    def deliveries(self, ticket: str) -> list[Delivery]:
        """Return whom an upload or a question tells of its end, and how that fares."""
        return self._ledger.run(self._operations.deliveries(ticket))

    def status(self, ticket: str) -> UploadStatus:
        """Return what is known about an upload; raises UnknownTicketError."""
        return self.statuses([ticket])[0]

    def statuses(self, tickets: Sequence[str]) -> list[UploadStatus]:
        """Return the statuses of many uploads, in order, in one round trip."""
        return self._ledger.run(self._operations.statuses(tickets))

    def list(
        self,
        *,
        owner: str | None = None,
        stage: Stage | str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Return uploads of the last three days, the newest first: ``.uploads`` and ``.cursor``.

        At most ``limit`` (1 to 1,000), of one ``owner`` or of all, in one ``stage`` or any. The
        cursor asks for the page after this one, and is None on the last. Of uploads in other
        stages 2,000 are passed over at once, so a page may be short and not the last.
        """
        return self._ledger.run(self._operations.page(owner, stage, limit, cursor))

    def result(self, ticket: str, *, timeout_s: float | None = None) -> UploadResult:
        """Wait until an upload has ended and return its result.

        Raises what the worker raised, with its data; ResultTimeoutError after ``timeout_s``
        seconds (None: wait for ever; 0: do not wait), while the upload goes on. A Redis that is
        away is waited for as long, unless it never answered this client.
        """
        return self._ledger.run(self._operations.result(ticket, timeout_s))

    @overload
    def events(
        self,
        tickets: Sequence[str],
        *,
        timeout_s: float | None = None,
        heartbeat_s: None = None,
    ) -> EventStream[UploadStatus]: ...

    @overload
    def events(
        self, tickets: Sequence[str], *, timeout_s: float | None = None, heartbeat_s: float
    ) -> EventStream[UploadStatus | None]: ...

    def events(
        self,
        tickets: Sequence[str],
        *,
        timeout_s: float | None = None,
        heartbeat_s: float | None = None,
    ) -> EventStream[Any]:
        """Yield each upload's status now, and again with every change, until all have ended.

        A batch's ticket yields its BatchStatus, in the same stream.

        Bytes sent are a change too, four times a second. Changes that come faster than they are
        read arrive as one. With ``heartbeat_s``, yield None when nothing has changed for so long.
        Raises ResultTimeoutError when ``timeout_s`` is over and an upload has not ended;
        UnknownTicketError.

        All readers of a process share one subscription. ``close()``, from any thread, ends the
        stream at once; a ``with`` block closes it.
        """
        first = self._ledger.run(batch_steps.statuses_of(tickets))
        return EventStream(self._changes, first, timeout_s, heartbeat_s)
