"""The web app's side: submit files, ask how they are, fetch results."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self, TypeVar, Unpack

from celery import Celery
from celery.canvas import Signature
from celery.loaders.base import BaseLoader
from kombu.exceptions import LimitExceeded, OperationalError
from kombu.pools import ProducerPool
from redis.exceptions import RedisError

from provider_uploads import contract
from provider_uploads.backoff import Backoff
from provider_uploads.errors import (
    InvalidRequestError,
    ProviderUploadsError,
    QueueUnavailableError,
    ResultTimeoutError,
)
from provider_uploads.intake import PatienceOptions, names_among, request_for, staged_request
from provider_uploads.lanes import Lanes
from provider_uploads.ledger import Ledger
from provider_uploads.locations import credential
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.questions import (
    DEFAULT_MODEL,
    Answer,
    Question,
    Questions,
    checked_config,
)
from provider_uploads.records import (
    Evict,
    Stage,
    UploadRequest,
    UploadResult,
    UploadStatus,
    checked,
)
from provider_uploads.settings import redis_url as checked_url
from provider_uploads.settings import settings, without_secrets
from provider_uploads.staging import Readable, staging_at
from provider_uploads.sweep import Finding, Kind, Sweep

T = TypeVar("T")

#: Between two looks at the ledger while waiting for a result: soon at first, then twice a second.
_ASK_AGAIN = Backoff(0.02, 1.5, 0.5)
#: How long to listen for changes before looking at the clock.
_LISTEN_S = 0.5


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
        self._lanes = Lanes(self._ledger)
        self._app = _private_app()
        self._lock = threading.Lock()
        self._producers: ProducerPool | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._ledger.close()
        if self._producers is not None and self._pid == os.getpid():
            self._producers.connections.force_close_all()
            self._producers = None

    # -- submitting ----------------------------------------------------------------------------

    def submit(
        self,
        path: str | os.PathLike[str],
        *,
        display_name: str | None = None,
        mime_type: str | None = None,
        timeout_s: float = 120.0,
        poll_s: float = 2.0,
        max_poll_s: float | None = 10.0,
        backoff_factor: float = 1.5,
        jitter_s: float = 0.2,
        cleanup_on_timeout: bool = True,
        profile: str = DEFAULT_PROFILE,
        reuse: bool = False,
        evict: Evict | None = None,
        api_key: None = None,
    ) -> str:
        """Queue one file, by its path or its s3://, gs:// or https:// URL; return its ticket.

        ``timeout_s`` runs from the moment the provider has all bytes; looks come after ``poll_s``
        seconds, then ``backoff_factor`` times later each, at most ``max_poll_s`` apart (None: no
        cap), ±``jitter_s``. ``profile`` names an account of the workers; a key cannot be given,
        because messages hold no secrets. Raises a SourceError or an InvalidRequestError before
        anything is queued. A URL is not asked for here: whether it is there, and may be read, the
        worker finds out.

        Each call is an upload of its own, also of the same file. With ``reuse``, uploads of the
        same bytes, MIME type and profile share one file at the provider, as long as it is ACTIVE
        and has an hour to live; ``delete`` says that this one needs it no more.

        An upload that does not fit into the account's storage waits until files go. With
        ``evict="oldest"`` our own finished files go, the oldest first, as if ``delete`` was called.
        """
        _refuse_key(api_key)
        request = request_for(
            path,
            display_name,
            mime_type,
            {
                "timeout_s": timeout_s,
                "poll_s": poll_s,
                "max_poll_s": max_poll_s,
                "backoff_factor": backoff_factor,
                "jitter_s": jitter_s,
            },
            cleanup_on_timeout,
            profile,
            reuse,
            evict,
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
        timeout_s: float = 120.0,
        poll_s: float = 2.0,
        max_poll_s: float | None = 10.0,
        backoff_factor: float = 1.5,
        jitter_s: float = 0.2,
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
        _refuse_key(api_key)
        patience = {
            "timeout_s": timeout_s,
            "poll_s": poll_s,
            "max_poll_s": max_poll_s,
            "backoff_factor": backoff_factor,
            "jitter_s": jitter_s,
        }
        request = staged_request(
            filename, display_name, mime_type, patience, cleanup_on_timeout, profile, reuse, evict
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
        timeout_s: float = 120.0,
        poll_s: float = 2.0,
        max_poll_s: float | None = 10.0,
        backoff_factor: float = 1.5,
        jitter_s: float = 0.2,
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
        _refuse_key(api_key)
        patience = {
            "timeout_s": timeout_s,
            "poll_s": poll_s,
            "max_poll_s": max_poll_s,
            "backoff_factor": backoff_factor,
            "jitter_s": jitter_s,
        }
        locations = [os.fspath(path) for path in paths]
        requests = [
            request_for(
                location, None, mime_type, patience, cleanup_on_timeout, profile, reuse, evict
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
        payloads = [request.model_dump(mode="json") for request in requests]
        with self._publishing([request.upload_id for request in requests]) as publish:
            self._app.send_task(
                contract.INGEST,
                args=(payloads, question_id) if question_id else (payloads,),
                queue=contract.CONTROL_QUEUE,
                argsrepr=f"({len(payloads)} files)",
                **publish,
            )

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
        **patience: Unpack[PatienceOptions],
    ) -> str:
        """Queue one question over files; return its ticket, for ``answer``.

        The files are ``paths``, uploaded as by ``submit_many``, and those of earlier ``tickets``.
        Of several, each comes after its name in the prompt: the path from the folder they share.
        ``config`` holds JSON fields of google-genai's ``GenerateContentConfig``.
        """
        given = [os.fspath(path) for path in paths]
        uploads = [
            request_for(path, name, None, dict(patience), True, profile, reuse)
            for path, name in zip(given, names_among(given), strict=True)
        ]
        question = checked(
            Question,
            {
                "question_id": uuid.uuid4().hex,
                "prompt": prompt,
                "model": model,
                "profile": profile,
                "uploads": (*tickets, *(request.upload_id for request in uploads)),
                "config": checked_config(config or {}),
            },
        )
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
            self._publish(contract.delete_signature(self._app, ticket))
        return found

    def delete(self, ticket: str) -> Stage:
        """Have an ended upload's file deleted at the provider; return the stage it is in.

        A file that others share (``reuse``) stays until the last of them lets go. A living upload
        stays as it is: that is for ``cancel``. A second time is harmless. Raises
        UnknownTicketError.
        """
        found = self._ledger.read(ticket).stage
        if found.ended and self._ledger.let_go(ticket) and self._ledger.left_behind(ticket):
            self._publish(contract.delete_signature(self._app, ticket))
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
        from provider_uploads.gemini import Gemini

        with ExitStack() as opened:
            found: list[Finding] = []
            place = settings().staging
            staging = staging_at(place) if place else None
            sweep = Sweep(self._ledger, self._app, self._publish, quiet_s=quiet_s, staging=staging)
            found += sweep.unmoved()
            found += sweep.staged()
            providers = {
                name: opened.enter_context(Gemini.of_profile(name))
                for name in settings().profile_names
            }
            for name, gemini in providers.items():
                found += sweep.at_provider(name, gemini)
            if not dry_run:
                for finding in found:
                    if unknown or finding.kind is not Kind.UNKNOWN:
                        sweep.mend(finding, providers)
            return found

    def _publish(self, message: Signature[Any]) -> None:
        with self._publishing([]) as publish:
            message.apply_async(**publish)

    # -- asking --------------------------------------------------------------------------------

    def question(self, ticket: str) -> Question:
        """Return a question that has no answer yet, or has one; raises what ended it."""
        return Questions(self._ledger).read(ticket)[0]

    def answer(self, ticket: str, *, timeout_s: float | None = None) -> Answer:
        """Wait for the answer to a question as ``result`` waits for an upload."""

        def look() -> tuple[Answer | None, str]:
            return Questions(self._ledger).read(ticket)[1], "not answered"

        return self._wait(ticket, look, timeout_s)

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

        def look() -> tuple[UploadResult | None, str]:
            row = self._ledger.read(ticket)
            if row.stage.ended and row.stage is not Stage.ACTIVE:
                raise row.failure()
            return row.result() if row.stage.ended else None, row.stage.value

        return self._wait(ticket, look, timeout_s)

    def _wait(
        self, ticket: str, look: Callable[[], tuple[T | None, str]], timeout_s: float | None
    ) -> T:
        """Look until there is something; raises ResultTimeoutError with where it stands."""
        if timeout_s is not None and not timeout_s >= 0:
            raise InvalidRequestError("timeout_s", repr(timeout_s), "must be zero or more seconds")
        begun = time.monotonic()
        asked = 0
        while True:
            found, stands = look()
            if found is not None:
                return found
            waited_s = time.monotonic() - begun
            if timeout_s is not None and waited_s >= timeout_s:
                raise ResultTimeoutError(ticket, stands, round(waited_s, 3))
            wait_s = _ASK_AGAIN.delay(asked)
            left_s = wait_s if timeout_s is None else timeout_s - waited_s
            time.sleep(min(wait_s, left_s))
            asked += 1

    def events(
        self, tickets: Sequence[str], *, timeout_s: float | None = None
    ) -> Generator[UploadStatus, None, None]:
        """Yield each upload's status now, and again with every change, until all have ended.

        Bytes sent are a change too, four times a second. Changes that come faster than they are
        read arrive as one. Raises ResultTimeoutError when ``timeout_s`` is over and an upload has
        not ended; UnknownTicketError.
        """
        begun = time.monotonic()
        open_tickets = dict.fromkeys(tickets)
        with self._ledger.changes(open_tickets) as wait:
            changed = list(open_tickets)  # subscribed first: nothing happens in between
            while open_tickets:
                for status in self.statuses(changed):
                    if status.ticket in open_tickets:
                        yield status
                    if status.stage.ended:
                        open_tickets.pop(status.ticket, None)
                changed = [one] if (one := wait(_LISTEN_S)) else []
                # What else is there by now is the same news.
                while changed and (one := wait(0)) is not None:
                    changed += [one] if one not in changed else []
                waited_s = time.monotonic() - begun
                if open_tickets and timeout_s is not None and waited_s >= timeout_s:
                    ticket = next(iter(open_tickets))
                    stage = self.status(ticket).stage.value
                    raise ResultTimeoutError(ticket, stage, round(waited_s, 3))

    # -- the way to the broker -----------------------------------------------------------------

    def _send(self, request: UploadRequest, source_url: str | None = None) -> None:
        ticket = request.upload_id
        self._ledger.open([request], {ticket: source_url} if source_url else {})
        with self._publishing([ticket]) as publish:
            queue = self._lanes.queue_of(request.profile)
            contract.upload_signature(self._app, request, queue).apply_async(**publish)

    @contextmanager
    def _publishing(self, tickets: list[str]) -> Iterator[dict[str, Any]]:
        """Yield what a send needs; on failure take the rows back, as far as Redis still answers."""
        try:
            with self._pool().acquire(block=True, timeout=self._timeout_s) as producer:
                yield {
                    "producer": producer,
                    # A connection that Redis closed is replaced before it is used; beyond that,
                    # trying again is the caller's decision, who has a web request to answer.
                    "retry": False,
                    "add_to_parent": False,
                }
        except (OperationalError, LimitExceeded, RedisError, OSError) as error:
            # What timed out may have arrived all the same: a worker ignores a withdrawn row.
            with suppress(QueueUnavailableError):
                self._ledger.withdrawn(tickets)
            raise QueueUnavailableError(without_secrets(self._url), type(error).__name__) from error

    def _pool(self) -> ProducerPool:
        with self._lock:
            if self._producers is None or self._pid != os.getpid():  # sockets do not survive a fork
                connection = self._app.connection_for_write(
                    self._url,
                    connect_timeout=self._timeout_s,
                    transport_options={
                        "global_keyprefix": contract.KEY_PREFIX,
                        "socket_timeout": self._timeout_s,
                        "socket_connect_timeout": self._timeout_s,
                        "max_retries": 1,
                        "interval_start": 0,
                        "interval_max": 0,
                    },
                )
                self._producers = ProducerPool(connections=connection.Pool(limit=16), limit=16)
                self._pid = os.getpid()
            return self._producers


def _refuse_key(api_key: object) -> None:
    if api_key is not None:
        raise InvalidRequestError(
            "api_key",
            "(not shown)",
            "would travel in a message, which Redis, results and Flower keep. Give the key to the "
            "workers, as GEMINI_API_KEY or as a profile's, and name it: profile='…'",
        )


class _NoConfiguration(BaseLoader):
    """A loader that reads nothing: neither a module nor ``CELERY_CONFIG_MODULE``."""

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> dict[str, Any]:
        return {}


class _PrivateApp(Celery):
    """An app without a result backend, whatever ``CELERY_RESULT_BACKEND`` says.

    A backend would subscribe to each result, and can hang a web thread for 19 s and more when
    Redis is down; our results are in the ledger.
    """

    backend_cls = "disabled"


def _private_app() -> Celery:
    app = _PrivateApp("provider_uploads.client", loader=_NoConfiguration, set_as_current=False)
    app.conf.update(task_serializer="json", accept_content=["json"], task_always_eager=False)
    return app
