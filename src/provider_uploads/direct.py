"""One file to ACTIVE without a queue: the caller waits.

The same sender, the same verification and the same names as in the workers; what the ledger
remembers there is kept in memory here, so an upload ends with its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from provider_uploads.backoff import SHORTEST_S, Backoff
from provider_uploads.errors import (
    MissingCredentialsError,
    ProviderUploadsError,
    TransientError,
    UnknownProviderError,
    UploadFailedError,
    UploadInactiveError,
)
from provider_uploads.intake import own_reach, request_for
from provider_uploads.locations import credential
from provider_uploads.questions import DEFAULT_MODEL, Answer, attachments
from provider_uploads.records import ProviderFile, Stage, UploadRequest, UploadResult
from provider_uploads.rows import Row
from provider_uploads.settings import settings
from provider_uploads.sources import open_source

if TYPE_CHECKING:
    from provider_uploads.gemini import Gemini

#: The road of one file: yields the seconds to wait before it goes on, returns the result.
_Road = Generator[float, None, UploadResult]


class Options(TypedDict, total=False):
    """The options of ``upload_and_wait_active``, which all four functions take."""

    provider: str
    timeout_s: float
    poll_s: float
    max_poll_s: float | None
    backoff_factor: float
    jitter_s: float
    cleanup_on_timeout: bool
    api_key: str | None
    profile: str


def upload_and_wait_active(
    path: str | os.PathLike[str],
    *,
    provider: str = "google",
    timeout_s: float = 120.0,
    poll_s: float = 2.0,
    max_poll_s: float | None = 10.0,
    backoff_factor: float = 1.5,
    jitter_s: float = 0.2,
    cleanup_on_timeout: bool = False,
    api_key: str | None = None,
    profile: str = "default",
) -> UploadResult:
    """Upload a file, wait until it is ACTIVE and return it; blocks the calling thread.

    ``timeout_s`` runs from the moment the provider has all bytes. The key is ``api_key``, else
    the profile's. With ``cleanup_on_timeout`` a file that timed out or FAILED is deleted.

    Raises FileNotFoundError, another SourceError or InvalidRequestError before anything is sent;
    NotImplementedError for a provider other than ``google``; MissingCredentialsError,
    MissingDependencyError; UploadFailedError with the provider's reason; UploadInactiveError when
    the time was up; a TransientError when all ``PROVIDER_UPLOADS_DIRECT_TRIES`` failed.
    """
    with _road(
        path,
        provider=provider,
        timeout_s=timeout_s,
        poll_s=poll_s,
        max_poll_s=max_poll_s,
        backoff_factor=backoff_factor,
        jitter_s=jitter_s,
        cleanup_on_timeout=cleanup_on_timeout,
        api_key=api_key,
        profile=profile,
    ) as road:
        while True:
            wait_s, result = _step(road)
            if result is not None:
                return result
            time.sleep(wait_s)


def preupload_and_wait_active(path: str | os.PathLike[str], **options: Unpack[Options]) -> str:
    """Do the same as ``upload_and_wait_active`` and return the ACTIVE file's URI.

    Where the provider gives none (OpenAI behind a gateway), it is the file's id.
    """
    result = upload_and_wait_active(path, **options)
    return result.uri or result.id


async def aupload_and_wait_active(
    path: str | os.PathLike[str], **options: Unpack[Options]
) -> UploadResult:
    """Do the same without blocking the event loop: each step in a thread, each wait in the loop.

    Cancelled, it stops at the next block of bytes and gives up its session.
    """
    stop = threading.Event()
    with await asyncio.to_thread(_road, path, stopping=stop.is_set, **options) as road:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(_step, road))
            try:
                wait_s, result = await asyncio.shield(step)
            except asyncio.CancelledError:
                stop.set()
                with contextlib.suppress(Exception):  # its end is that of the cancelled call
                    await step
                raise
            if result is not None:
                return result
            await asyncio.sleep(wait_s)


async def apreupload_and_wait_active(
    path: str | os.PathLike[str], **options: Unpack[Options]
) -> str:
    """Do the same as ``aupload_and_wait_active`` and return the ACTIVE file's URI, or its id."""
    result = await aupload_and_wait_active(path, **options)
    return result.uri or result.id


def generate(
    prompt: str,
    files: Sequence[UploadResult] = (),
    *,
    model: str = DEFAULT_MODEL,
    config: dict[str, Any] | None = None,
    api_key: str | None = None,
    profile: str = "default",
) -> Answer:
    """Ask a model one question over uploaded files; blocks the calling thread.

    Of several files, each comes after its name. Raises FileExpiredError, FileGoneError or
    FileNotActiveError naming the file that cannot be used; otherwise what the provider's refusal
    means.
    """
    from provider_uploads.gemini import Gemini

    with Gemini.of_profile(profile, api_key) as gemini:
        return gemini.generate(prompt, attachments(files), model=model, config=config)


def _step(road: _Road) -> tuple[float, UploadResult | None]:
    try:
        return next(road), None
    except StopIteration as end:
        return 0.0, end.value


def _road(
    path: str | os.PathLike[str],
    *,
    provider: str = "google",
    cleanup_on_timeout: bool = False,
    api_key: str | None = None,
    profile: str = "default",
    stopping: Callable[[], bool] = lambda: False,
    **patience: Any,
) -> contextlib.closing[_Road]:
    """Check everything that can be checked without a request, and return the road ahead."""
    if provider != "google":
        raise UnknownProviderError(provider)
    request = request_for(path, None, None, patience, cleanup_on_timeout, profile)
    from provider_uploads.gemini import Gemini  # may say that google-genai is missing

    if api_key is not None and not api_key:
        raise MissingCredentialsError("gemini", profile)
    gemini = Gemini.of_profile(profile, api_key)
    book = _Book(request, credential(os.fspath(path)))
    return contextlib.closing(_travel(gemini, book, stopping))


def _travel(gemini: Gemini, book: _Book, stopping: Callable[[], bool]) -> _Road:
    with gemini:
        try:
            file = yield from _send(gemini, book, stopping)
            sent = book.at(Stage.PROCESSING, file)
            file, polls = yield from _wait(gemini, sent, file)
        except BaseException:
            if book.row.session_url is not None:
                with contextlib.suppress(ProviderUploadsError):
                    gemini.sender.cancel(book.row.session_url)
            raise
    return book.at(Stage.ACTIVE, file).model_copy(update={"polls": polls}).result()


#: A provider that asks for a longer wait, as for a new day's quota, is the caller's to wait for.
_TOO_LONG_S = 300.0


def _tries() -> Iterator[float | None]:
    """Yield the wait after each try that failed; None after the last."""
    given = settings()
    backoff = Backoff(given.direct_retry_first_s, 2.0, 8.0)
    yield from (backoff.delay(attempt) for attempt in range(given.direct_tries - 1))
    yield None


def _send(
    gemini: Gemini, book: _Book, stopping: Callable[[], bool]
) -> Generator[float, None, ProviderFile]:
    from provider_uploads.transfer import transfer

    for wait_s in _tries():
        try:
            with open_source(book.row.location, book.reach) as source:
                _, file = transfer(
                    book,
                    gemini,
                    book.row,
                    source.unchanged(book.row.expected_bytes),
                    lease=_Unshared,
                    stopping=stopping,
                    progress_every_s=60.0,
                )
            book.row = book.row.model_copy(update={"session_url": None})
            return file
        except TransientError as error:
            if wait_s is None or (error.retry_after_s or 0.0) > _TOO_LONG_S:
                raise
            yield max(wait_s, error.retry_after_s or 0.0)
    raise AssertionError  # the last try returns or raises


def _wait(
    gemini: Gemini, row: Row, file: ProviderFile
) -> Generator[float, None, tuple[ProviderFile, int]]:
    """Look until ACTIVE; the last look falls just behind the deadline."""
    patience = row.request.patience
    deadline = time.monotonic() + patience.timeout_s
    trouble = ""
    for polls in itertools.count():
        if file.state == Stage.ACTIVE:
            return file, polls
        if file.state == Stage.FAILED:
            yield from _clean_up(gemini, row)
            raise UploadFailedError(file.name, file.state, file.error)
        left_s = deadline - time.monotonic()
        if polls and left_s <= 0:
            copy = yield from _clean_up(gemini, row)
            raise UploadInactiveError(
                file.name, file.state, patience.timeout_s, polls, copy, trouble
            )
        yield min(patience.looks.delay(polls), max(left_s, 0.0) + SHORTEST_S)
        try:
            looked = gemini.get(file.name)
            file, trouble = file.updated(looked), ""
        except TransientError as error:
            trouble = str(error)
    raise AssertionError  # count() does not end


def _clean_up(gemini: Gemini, row: Row) -> Generator[float, None, str]:
    """Delete what was sent, if that was asked for; return what became of it."""
    if not row.request.cleanup_on_timeout:
        return "kept"
    for wait_s in _tries():
        try:
            for name in row.names:
                gemini.delete(name)
            return "deleted"
        except TransientError as error:
            if wait_s is None or (error.retry_after_s or 0.0) > _TOO_LONG_S:
                break
            yield max(wait_s, error.retry_after_s or 0.0)
    return "undeleted"


class _Unshared:
    """The lease of an upload that nobody else knows of."""

    lost = False


class _Book:
    """The ledger of one upload, in memory."""

    def __init__(self, request: UploadRequest, source_url: str | None) -> None:
        self.reach = own_reach()
        self.row = Row(
            request=request, source_url=source_url, stage=Stage.QUEUED, queued_at=time.time()
        )

    def uploading(self, row: Row, session_url: str) -> Row:
        """Remember the session: the next try goes on where it stands."""
        begun = row.upload_at or time.time()
        self.row = row.model_copy(update={"session_url": session_url, "upload_at": begun})
        return self.row

    def next_generation(self, row: Row) -> None:
        """Forget the session and the name."""
        self.row = row.model_copy(update={"session_url": None, "generation": row.generation + 1})

    def progress(self, ticket: str, sent_bytes: int) -> bool:
        """Nobody asks."""
        return True

    def at(self, stage: Stage, file: ProviderFile) -> Row:
        """Enter a stage now."""
        field = "processing_at" if stage is Stage.PROCESSING else "ended_at"
        self.row = self.row.model_copy(update={"stage": stage, "file": file, field: time.time()})
        return self.row
