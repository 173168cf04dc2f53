"""One attempt to bring an upload's bytes to the provider, whatever earlier attempts left there."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from provider_uploads.errors import (
    FileGoneError,
    NameTakenError,
    QueueUnavailableError,
    SessionLostError,
    SourceChangedError,
    TransientError,
    UnsupportedOperationError,
    VerificationError,
)
from provider_uploads.gemini import Gemini
from provider_uploads.records import ProviderFile
from provider_uploads.resumable import Progress, verify
from provider_uploads.rows import Row
from provider_uploads.sources import Source


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """The transfer stopped between two blocks, for a reason that is not the provider's."""


class Ended(Interrupted):
    """The upload has ended meanwhile: somebody cancelled it."""


class Lease(Protocol):
    """The right to send."""

    @property
    def lost(self) -> bool:
        """Whether somebody else may be sending."""


class Book(Protocol):
    """What an attempt writes down for the next one: the ledger's part that it needs."""

    def uploading(self, row: Row, session_url: str) -> Row | None:
        """Record an open session; None when the upload has ended meanwhile."""

    def next_generation(self, row: Row) -> None:
        """Forget the session and the name."""

    def progress(self, ticket: str, sent_bytes: int) -> bool:
        """Record bytes sent; False when the upload has ended meanwhile."""


def transfer(
    book: Book,
    gemini: Gemini,
    row: Row,
    source: Source,
    *,
    lease: Lease,
    stopping: Callable[[], bool],
    progress_every_s: float,
) -> tuple[Row, ProviderFile]:
    """Start or resume the session, send what the server lacks, verify; return row and file.

    Raises Interrupted when ``stopping()`` turns true or the lease is lost, Ended when the upload
    has ended otherwise;
    a TransientError where another attempt may succeed (the book says how it must begin);
    SourceChangedError when an earlier attempt began with another version of the source; another
    PermanentError otherwise.
    """
    if source.size_bytes == 0 and gemini.provider.through_gateway:
        raise UnsupportedOperationError(
            gemini.provider.name, "upload empty", "a file of at least one byte"
        )
    if row.source_mark not in {None, source.mark}:
        # What an earlier attempt sent is of another version: nobody wants a mixture.
        expected = source.size_bytes if row.expected_bytes is None else row.expected_bytes
        raise SourceChangedError(source.path, expected, source.size_bytes)
    row = row.model_copy(update={"size_bytes": source.size_bytes, "source_mark": source.mark})
    told_at = time.monotonic()

    def watch(sent_bytes: int) -> None:
        if stopping():
            raise Interrupted("the worker is stopping")
        if lease.lost:
            raise Interrupted("the lease could not be renewed")
        nonlocal told_at
        now = time.monotonic()
        if now - told_at >= progress_every_s:
            told_at = now
            # A note that cannot be written is no reason to stop; a lease that runs out is.
            with suppress(QueueUnavailableError):
                if not book.progress(row.request.upload_id, sent_bytes):
                    raise Ended

    try:
        session_url, resume = row.session_url, True
        if session_url is None:
            session_url = gemini.start(row.name, row.request, source.size_bytes)
            resume = False
            try:
                moved = book.uploading(row, session_url)
            except QueueUnavailableError:
                # Nobody else will ever know of it. Should the note have arrived all the same, the
                # next attempt finds the session gone and the name free.
                with suppress(TransientError):
                    gemini.sender.cancel(session_url)
                raise
            if moved is None:
                gemini.sender.cancel(session_url)
                raise Ended
            row = moved
        file = gemini.sender.send(
            session_url, source, name=row.name, resume=resume, on_progress=watch
        )
    except (SessionLostError, NameTakenError) as error:
        # An attempt whose answer was lost may have finished the file: take it, or leave the name.
        file = _adopt(book, gemini, row, source, error, watch)
    except VerificationError:
        _abandon(book, gemini, row)
        raise
    known: dict[str, str] = {"provider": gemini.provider.name}
    if gemini.provider.through_gateway:
        known["mime_type"] = row.request.mime_type  # which a gateway forgets
    return row, file.model_copy(update=known)


def _adopt(
    book: Book,
    gemini: Gemini,
    row: Row,
    source: Source,
    reason: SessionLostError | NameTakenError,
    watch: Progress,
) -> ProviderFile:
    try:
        return verify(gemini.get(row.name), source, watch)
    except FileGoneError:
        book.next_generation(row)
        raise reason from None
    except VerificationError:
        _abandon(book, gemini, row)
        raise


def _abandon(book: Book, gemini: Gemini, row: Row) -> None:
    """Delete a damaged copy; one that cannot be deleted now is met again by the next attempt."""
    gemini.delete(row.name)
    book.next_generation(row)
