"""One attempt to bring an upload's bytes to the provider, whatever earlier attempts left there."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from provider_uploads.errors import (
    FileGoneError,
    NameTakenError,
    ProviderRefusedError,
    QueueUnavailableError,
    SessionLostError,
    SourceChangedError,
    SourceTooLargeError,
    TransientError,
    UnsupportedOperationError,
    VerificationError,
)
from provider_uploads.ledger.state import UploadState
from provider_uploads.providers.base import Progress, Provider, in_one_request
from provider_uploads.providers.verification import verify
from provider_uploads.schemas import ProviderFile, Stage, UploadRequest
from provider_uploads.sources.base import Source

#: What a service may answer that knows no file in one request.
_NOT_THIS_WAY = frozenset({400, 404, 405, 411, 413, 415})


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """The transfer stopped between two blocks, for a reason that is not the provider's."""


class Ended(Interrupted):
    """The upload has ended meanwhile: somebody cancelled it."""


class Lease(Protocol):
    """The right to send."""

    @property
    def lost(self) -> bool:
        """Whether somebody else may be sending."""


class UploadStore(Protocol):
    """What an attempt records for the next one: the part of the ledger that it needs."""

    def uploading(self, row: UploadState, session_url: str) -> UploadState | None:
        """Record an open session; None when the upload has ended meanwhile."""

    def next_generation(self, row: UploadState) -> None:
        """Forget the session and the name."""

    def progress(self, ticket: str, sent_bytes: int) -> bool:
        """Record bytes sent; False when the upload has ended meanwhile."""


class MemoryStore:
    """The state of one upload, in memory."""

    def __init__(self, request: UploadRequest, source_url: str | None) -> None:
        self.row = UploadState(
            request=request, source_url=source_url, stage=Stage.QUEUED, queued_at=time.time()
        )

    def uploading(self, row: UploadState, session_url: str) -> UploadState:
        """Remember the session: the next try goes on where it stands."""
        begun = row.upload_at or time.time()
        self.row = row.model_copy(update={"session_url": session_url, "upload_at": begun})
        return self.row

    def next_generation(self, row: UploadState) -> None:
        """Forget the session and the name."""
        self.row = row.model_copy(update={"session_url": None, "generation": row.generation + 1})

    def progress(self, ticket: str, sent_bytes: int) -> bool:
        """Nobody asks."""
        return True

    def processing(self, file: ProviderFile) -> UploadState:
        """Record that the provider has all bytes."""
        self.row = self.row.model_copy(
            update={"stage": Stage.PROCESSING, "file": file, "processing_at": time.time()}
        )
        return self.row

    def active(self, file: ProviderFile, polls: int) -> UploadState:
        """Record the good end."""
        polled = self.row.model_copy(update={"polls": polls})
        self.row = polled.activated(file, time.time())
        return self.row


def transfer(
    store: UploadStore,
    provider: Provider,
    row: UploadState,
    source: Source,
    *,
    lease: Lease,
    stopping: Callable[[], bool],
    progress_every_s: float,
    in_one: bool = False,
) -> tuple[UploadState, ProviderFile]:
    """Start or resume the session, send what the server lacks, verify; return row and file.

    With ``in_one`` a small source goes in one request, without a session; the row must be UPLOADING
    then, so that whoever finds it knows that there may be a file. Where the service refuses that, a
    session is used.

    Raises Interrupted when ``stopping()`` turns true or the lease is lost, Ended when the upload
    has ended otherwise;
    a TransientError where another attempt may succeed (the store says how it must begin);
    SourceChangedError when an earlier attempt began with another version of the source; another
    PermanentError otherwise.
    """
    capabilities = provider.capabilities
    if source.size_bytes == 0 and not capabilities.takes_empty_files:
        raise UnsupportedOperationError(
            capabilities.name, "upload empty", "a file of at least one byte"
        )
    if source.size_bytes > capabilities.max_file_bytes:
        raise SourceTooLargeError(source.path, source.size_bytes, capabilities.max_file_bytes)
    if row.source_fingerprint not in {None, source.fingerprint}:
        # What an earlier attempt sent is of another version: nobody wants a mixture.
        expected = source.size_bytes if row.expected_bytes is None else row.expected_bytes
        raise SourceChangedError(source.path, expected, source.size_bytes)
    row = row.model_copy(
        update={"size_bytes": source.size_bytes, "source_fingerprint": source.fingerprint}
    )
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
                if not store.progress(row.request.upload_id, sent_bytes):
                    raise Ended

    one_request = in_one_request(provider) if in_one else None
    try:
        if one_request:
            try:
                return row, one_request.send_in_one(row.name, row.request, source)
            except ProviderRefusedError as error:
                if error.http_status not in _NOT_THIS_WAY:
                    raise
        session_url, resume = row.session_url, True
        if session_url is None:
            # Killed between the answer and its record, a worker leaves an empty session that nobody
            # can name: its URL is the provider's choice and stands in the answer alone. It holds no
            # bytes and no name, and ends by itself.
            session_url = provider.start(row.name, row.request, source.size_bytes)
            resume = False
            try:
                moved = store.uploading(row, session_url)
            except QueueUnavailableError:
                # Nobody else will ever know of it. Should the note have arrived all the same, the
                # next attempt finds the session gone and the name free.
                with suppress(TransientError):
                    provider.cancel(session_url)
                raise
            if moved is None:
                provider.cancel(session_url)
                raise Ended
            row = moved
        file = provider.send(session_url, source, name=row.name, resume=resume, on_progress=watch)
    except (SessionLostError, NameTakenError) as error:
        # An attempt whose answer was lost may have finished the file: take it, or leave the name.
        file = _adopt(store, provider, row, source, error, watch)
    except VerificationError:
        _abandon(store, provider, row)
        raise
    if one_request:  # it was refused for the way, and not for the file
        one_request.forgo_one_request()
    if not capabilities.keeps_mime_type:
        file = file.model_copy(update={"mime_type": row.request.mime_type})
    return row, file


def _adopt(
    store: UploadStore,
    provider: Provider,
    row: UploadState,
    source: Source,
    reason: SessionLostError | NameTakenError,
    watch: Progress,
) -> ProviderFile:
    try:
        return verify(provider.get(row.name), source, watch)
    except FileGoneError:
        store.next_generation(row)
        raise reason from None
    except VerificationError:
        _abandon(store, provider, row)
        raise


def _abandon(store: UploadStore, provider: Provider, row: UploadState) -> None:
    """Delete a damaged copy; one that cannot be deleted now is met again by the next attempt."""
    provider.delete(row.name)
    store.next_generation(row)
