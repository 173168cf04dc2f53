"""The web app's side: submit files, ask how they are, fetch results."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from typing import Any, Self, Unpack

from provider_uploads import messages
from provider_uploads.client.publisher import Publisher
from provider_uploads.client.waiting import events, wait_for
from provider_uploads.errors import InvalidRequestError, ProviderUploadsError
from provider_uploads.fleet.queues import Queues
from provider_uploads.ledger.questions import Questions
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.locations import credential
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.questions import DEFAULT_MODEL, Answer, Question, question_for
from provider_uploads.requests import (
    PollOptions,
    poll_options,
    refuse_key,
    relative_names,
    request_for,
    staged_request,
)
from provider_uploads.schemas import (
    BACKOFF_FACTOR,
    JITTER_S,
    MAX_POLL_S,
    POLL_S,
    TIMEOUT_S,
    Evict,
    Stage,
    UploadRequest,
    UploadResult,
    UploadStatus,
)
from provider_uploads.settings import redis_url as checked_url
from provider_uploads.settings import settings
from provider_uploads.sources.staging import Readable, staging_at
from provider_uploads.sweep import Finding, Sweep, sweep_everywhere


class UploadQueue:
    """A queue of uploads in one Redis; thread-safe, made once per process.

    It keeps to itself: it neither reads nor becomes the host application's Celery app, ignores
    ``CELERY_*`` variables, and needs no ``tasks`` or ``config`` package. Every method raises
    QueueUnavailableError within 5 s when Redis is down or stalled.
    """

    def __init__(self, redis_url: str | None = None) -> None:
        """Use ``redis_url``, or ``PROVIDER_UPLOADS_REDIS_URL``; nothing is connected yet."""
        try:
            self._url = checked_url(redis_url) if redis_url else settings().redis_url
        except ValueError as error:  # the URL may hold a password: it is not repeated
            raise InvalidRequestError("redis_url", "(not shown)", str(error)) from None
        self._timeout_s = settings().redis_timeout_s
        self._ledger = Ledger(self._url, timeout_s=self._timeout_s)
        self._queues = Queues(self._ledger)
        self._publisher = Publisher(self._url, self._ledger, timeout_s=self._timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._ledger.close()
        self._publisher.close()

    # -- submitting ----------------------------------------------------------------------------

    def submit(
        self,
        path: str | os.PathLike[str],
        *,
        display_name: str | None = None,
        mime_type: str | None = None,
        timeout_s: float = TIMEOUT_S,
        poll_s: float = POLL_S,
        max_poll_s: float | None = MAX_POLL_S,
        backoff_factor: float = BACKOFF_FACTOR,
        jitter_s: float = JITTER_S,
        cleanup_on_timeout: bool = True,
        profile: str = DEFAULT_PROFILE,
        reuse: bool = False,
        evict: Evict | None = None,
        api_key: None = None,
    ) -> str:
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
        """
        refuse_key(api_key)
        poll_policy = poll_options(timeout_s, poll_s, max_poll_s, backoff_factor, jitter_s)
        request = request_for(
            path, display_name, mime_type, poll_policy, cleanup_on_timeout, profile, reuse, evict
        )
        self._send(request, credential(os.fspath(path)))
        return request.upload_id

    def submit_stream(
        self,
        fileobj: Readable,
        *,
        filename: str,
        display_name: str | None = None,
        mime_type: str | None = None,
        timeout_s: float = TIMEOUT_S,
        poll_s: float = POLL_S,
        max_poll_s: float | None = MAX_POLL_S,
        backoff_factor: float = BACKOFF_FACTOR,
        jitter_s: float = JITTER_S,
        cleanup_on_timeout: bool = True,
        profile: str = DEFAULT_PROFILE,
        reuse: bool = False,
        evict: Evict | None = None,
        api_key: None = None,
    ) -> str:
        """Copy a binary stream to ``PROVIDER_UPLOADS_STAGING``, queue the copy, return the ticket.

        Read from where it stands to its end, a block at a time; not closed. Of ``filename`` only
        the last component counts. The other options are those of ``submit``. The worker removes
        the copy when the provider has it, or the upload has ended otherwise; whatever is raised
        here, nothing stays. Raises ConfigurationError without a staging place,
        SourceTooLargeError, SourceUnavailableError when the place does not take the copy, or an
        InvalidRequestError.
        """
        refuse_key(api_key)
        poll_policy = poll_options(timeout_s, poll_s, max_poll_s, backoff_factor, jitter_s)
        request = staged_request(
            filename,
            display_name,
            mime_type,
            poll_policy,
            cleanup_on_timeout,
            profile,
            reuse,
            evict,
        )
        staging = staging_at(settings().staging)
        size_bytes = staging.put(request.upload_id, request.source, fileobj)
        try:
            self._send(request.model_copy(update={"size_bytes": size_bytes}))
        except BaseException:
            with suppress(ProviderUploadsError):  # the first error is the one to tell
                staging.remove(request.upload_id)
            raise
        return request.upload_id

    def submit_many(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        mime_type: str | None = None,
        timeout_s: float = TIMEOUT_S,
        poll_s: float = POLL_S,
        max_poll_s: float | None = MAX_POLL_S,
        backoff_factor: float = BACKOFF_FACTOR,
        jitter_s: float = JITTER_S,
        cleanup_on_timeout: bool = True,
        profile: str = DEFAULT_PROFILE,
        reuse: bool = False,
        evict: Evict | None = None,
        api_key: None = None,
    ) -> list[str]:
        """Queue many files, by path or URL, in one message; return their tickets, in order.

        All are checked first: one that is bad raises, and nothing is queued. The options
        are those of ``submit`` and hold for every file; each keeps its own name.
        """
        refuse_key(api_key)
        poll_policy = poll_options(timeout_s, poll_s, max_poll_s, backoff_factor, jitter_s)
        locations = [os.fspath(path) for path in paths]
        requests = [
            request_for(
                location, None, mime_type, poll_policy, cleanup_on_timeout, profile, reuse, evict
            )
            for location in locations
        ]
        if not requests:
            return []
        self._open(requests, locations)
        self._ingest(requests)
        return [request.upload_id for request in requests]

    def _open(self, requests: Sequence[UploadRequest], locations: Sequence[str]) -> None:
        """Write rows; whole URLs only where they hold a credential."""
        urls = {
            request.upload_id: url
            for request, location in zip(requests, locations, strict=True)
            if (url := credential(location))
        }
        self._ledger.open(requests, urls)

    def _ingest(self, requests: Sequence[UploadRequest], question_id: str | None = None) -> None:
        """Send many uploads, and a question over them, in one message."""
        message = messages.ingest_signature(self._publisher.app, requests, question_id)
        self._publisher.publish(message, *(request.upload_id for request in requests))

    def ask(
        self,
        prompt: str,
        paths: Iterable[str | os.PathLike[str]] = (),
        *,
        tickets: Sequence[str] = (),
        model: str = DEFAULT_MODEL,
        config: dict[str, Any] | None = None,
        profile: str = DEFAULT_PROFILE,
        reuse: bool = False,
        **poll_policy: Unpack[PollOptions],
    ) -> str:
        """Queue one question over files; return its ticket, for ``answer``.

        The files are ``paths``, uploaded as by ``submit_many``, and those of earlier ``tickets``.
        Of several, each comes after its name in the prompt: the path from the folder they share.
        ``config`` holds JSON fields of google-genai's ``GenerateContentConfig``.
        """
        given = [os.fspath(path) for path in paths]
        uploads = [
            request_for(path, name, None, dict(poll_policy), True, profile, reuse)
            for path, name in zip(given, relative_names(given), strict=True)
        ]
        together = (*tickets, *(request.upload_id for request in uploads))
        question = question_for(prompt, together, model, profile, config)
        if tickets:
            self.statuses(tickets)  # one that is unknown is said now
        Questions(self._ledger).open(question)
        self._open(uploads, given)
        self._ingest(uploads, question.question_id)
        return question.question_id

    # -- changing one's mind -------------------------------------------------------------------

    def cancel(self, ticket: str) -> Stage:
        """Stop an upload and have its file deleted; return the stage it was found in.

        Bytes stop moving within a second. One that had ended stays as it was, and a second
        cancellation is harmless. Raises UnknownTicketError.
        """
        found = self._ledger.read(ticket).stage
        if not found.ended and not self._ledger.cancelled(ticket):
            found = self._ledger.read(ticket).stage  # it ended in between
        if (found is Stage.CANCELLED or not found.ended) and self._ledger.left_behind(ticket):
            self._publisher.publish(messages.delete_signature(self._publisher.app, ticket))
        return found

    def delete(self, ticket: str) -> Stage:
        """Have an ended upload's file deleted at the provider; return the stage it is in.

        A file that others share (``reuse``) stays until the last of them releases it. An upload
        that has not ended stays as it is: that is for ``cancel``. A second time is harmless. Raises
        UnknownTicketError.
        """
        found = self._ledger.read(ticket).stage
        if found.ended and self._ledger.release_copy(ticket) and self._ledger.left_behind(ticket):
            self._publisher.publish(messages.delete_signature(self._publisher.app, ticket))
        return found

    # -- sweeping ------------------------------------------------------------------------------

    def sweep(
        self, *, dry_run: bool = True, unknown: bool = False, quiet_s: float = 20.0
    ) -> list[Finding]:
        """Find what nobody moves any more: here, staged, and at every profile's provider.

        Unless ``dry_run``, bring it to its end: submit again what was lost, delete what was left.
        Files that this Redis knows nothing of are deleted only with ``unknown``. What moved within
        ``quiet_s`` seconds is left alone. Needs the ``google`` extra.
        """
        sweep = Sweep(
            self._ledger,
            self._publisher.app,
            self._publisher.publish,
            quiet_s=quiet_s,
            staging=staging_at(settings().staging) if settings().staging else None,
        )
        return sweep_everywhere(sweep, settings().profile_names, dry_run=dry_run, unknown=unknown)

    # -- asking --------------------------------------------------------------------------------

    def question(self, ticket: str) -> Question:
        """Return a question that has no answer yet, or has one; raises what ended it."""
        return Questions(self._ledger).read(ticket)[0]

    def answer(self, ticket: str, *, timeout_s: float | None = None) -> Answer:
        """Wait for the answer to a question as ``result`` waits for an upload."""

        def read() -> tuple[Answer | None, str]:
            return Questions(self._ledger).read(ticket)[1], "not answered"

        return wait_for(ticket, read, timeout_s)

    def status(self, ticket: str) -> UploadStatus:
        """Return what is known about an upload; raises UnknownTicketError."""
        return self.statuses([ticket])[0]

    def statuses(self, tickets: Sequence[str]) -> list[UploadStatus]:
        """Return the statuses of many uploads, in order, in one round trip."""
        return self._ledger.statuses(tickets)

    def result(self, ticket: str, *, timeout_s: float | None = None) -> UploadResult:
        """Wait until an upload has ended and return its result.

        Raises what the worker raised, with its data; ResultTimeoutError after ``timeout_s``
        seconds (None: wait for ever; 0: do not wait), while the upload goes on.
        """

        def read() -> tuple[UploadResult | None, str]:
            row = self._ledger.read(ticket)
            if row.stage.ended and row.stage is not Stage.ACTIVE:
                raise row.failure()
            return row.result() if row.stage.ended else None, row.stage.value

        return wait_for(ticket, read, timeout_s)

    def events(
        self, tickets: Sequence[str], *, timeout_s: float | None = None
    ) -> Generator[UploadStatus, None, None]:
        """Yield each upload's status now, and again with every change, until all have ended.

        Bytes sent are a change too, four times a second. Changes that come faster than they are
        read arrive as one. Raises ResultTimeoutError when ``timeout_s`` is over and an upload has
        not ended; UnknownTicketError.
        """
        return events(self._ledger, tickets, timeout_s)

    def _send(self, request: UploadRequest, source_url: str | None = None) -> None:
        ticket = request.upload_id
        self._ledger.open([request], {ticket: source_url} if source_url else {})
        with self._publisher.publishing((ticket,)) as options:
            queue = self._queues.queue_of(request.profile)
            message = messages.upload_signature(self._publisher.app, request, queue)
            message.apply_async(**options)
