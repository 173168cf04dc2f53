"""One file to ACTIVE without a queue: the caller waits.

The same sender, the same verification and the same names as in the workers; what the ledger
remembers there is kept in memory here, so an upload ends with its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from provider_uploads.backoff import SHORTEST_S, Backoff
from provider_uploads.errors import (
    MissingCredentialsError,
    ProviderUploadsError,
    TransientError,
    UnknownProviderError,
    UploadFailedError,
    UploadInactiveError,
)
from provider_uploads.ledger.state import UploadState
from provider_uploads.locations import credential
from provider_uploads.providers import open_provider
from provider_uploads.questions import DEFAULT_MODEL, Answer, attachments
from provider_uploads.requests import own_source_policy, request_for
from provider_uploads.schemas import (
    BACKOFF_FACTOR,
    JITTER_S,
    MAX_POLL_S,
    POLL_S,
    TIMEOUT_S,
    ProviderFile,
    Stage,
    UploadResult,
)
from provider_uploads.settings import settings
from provider_uploads.sources.open import open_source
from provider_uploads.transfer import MemoryStore, transfer

if TYPE_CHECKING:
    from provider_uploads.providers.base import Provider

F = TypeVar("F", bound=Callable[..., Any])

#: The steps of one file: yields the seconds to wait before the next, returns the result.
_Steps = Generator[float, None, UploadResult]


class Options(TypedDict, total=False):
    """The options of ``upload_and_wait_active``, which all four functions take."""

    provider: str
    display_name: str | None
    mime_type: str | None
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
    display_name: str | None = None,
    mime_type: str | None = None,
    timeout_s: float = TIMEOUT_S,
    poll_s: float = POLL_S,
    max_poll_s: float | None = MAX_POLL_S,
    backoff_factor: float = BACKOFF_FACTOR,
    jitter_s: float = JITTER_S,
    cleanup_on_timeout: bool = False,
    api_key: str | None = None,
    profile: str = "default",
) -> UploadResult:
    """Upload a file, wait until it is ACTIVE and return it; blocks the calling thread.

    ``display_name`` and ``mime_type`` are guessed from the file's name. ``timeout_s`` runs from the
    moment the provider has all bytes. The key is ``api_key``, else the profile's. With
    ``cleanup_on_timeout`` a file that timed out or FAILED is deleted.

    Raises FileNotFoundError, another SourceError or InvalidRequestError before anything is sent;
    NotImplementedError for a provider other than ``google``; MissingCredentialsError,
    MissingDependencyError; UploadFailedError with the provider's reason; UploadInactiveError when
    the time was up; a TransientError when all ``PROVIDER_UPLOADS_DIRECT_TRIES`` failed.
    """
    with _steps(
        path,
        provider=provider,
        display_name=display_name,
        mime_type=mime_type,
        timeout_s=timeout_s,
        poll_s=poll_s,
        max_poll_s=max_poll_s,
        backoff_factor=backoff_factor,
        jitter_s=jitter_s,
        cleanup_on_timeout=cleanup_on_timeout,
        api_key=api_key,
        profile=profile,
    ) as steps:
        while True:
            wait_s, result = _step(steps)
            if result is not None:
                return result
            time.sleep(wait_s)


def _same_options(function: F) -> F:
    """Let ``inspect.signature``, and so an editor, show the options with their defaults."""
    whole = inspect.signature(upload_and_wait_active)
    returned = inspect.signature(function).return_annotation
    shown = whole.replace(return_annotation=returned)
    function.__signature__ = shown  # type: ignore[attr-defined]  # what inspect asks for first
    return function


@_same_options
def preupload_and_wait_active(path: str | os.PathLike[str], **options: Unpack[Options]) -> str:
    """Do the same as ``upload_and_wait_active`` and return the ACTIVE file's URI.

    Where the provider gives none (OpenAI behind a gateway), it is the file's id.
    """
    result = upload_and_wait_active(path, **options)
    return result.uri or result.id


@_same_options
async def aupload_and_wait_active(
    path: str | os.PathLike[str], **options: Unpack[Options]
) -> UploadResult:
    """Do the same without blocking the event loop: each step in a thread, each wait in the loop.

    Cancelled, it stops at the next block of bytes and gives up its session.
    """
    stop = threading.Event()
    with await asyncio.to_thread(_steps, path, stopping=stop.is_set, **options) as steps:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(_step, steps))
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


@_same_options
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
    with open_provider(profile, api_key) as opened:
        return opened.generate(prompt, attachments(files), model=model, config=config)


def _step(steps: _Steps) -> tuple[float, UploadResult | None]:
    try:
        return next(steps), None
    except StopIteration as end:
        return 0.0, end.value


def _steps(
    path: str | os.PathLike[str],
    *,
    provider: str = "google",
    display_name: str | None = None,
    mime_type: str | None = None,
    cleanup_on_timeout: bool = False,
    api_key: str | None = None,
    profile: str = "default",
    stopping: Callable[[], bool] = lambda: False,
    **poll_policy: Any,
) -> contextlib.closing[_Steps]:
    """Check everything that can be checked without a request, and return the steps."""
    if provider != "google":
        raise UnknownProviderError(provider)
    request = request_for(
        path,
        display_name=display_name,
        mime_type=mime_type,
        cleanup_on_timeout=cleanup_on_timeout,
        profile=profile,
        **poll_policy,
    )
    if api_key is not None and not api_key:
        raise MissingCredentialsError("gemini", profile)
    opened = open_provider(profile, api_key)  # may say that google-genai is missing
    store = MemoryStore(request, credential(os.fspath(path)))
    return contextlib.closing(_run(opened, store, stopping))


def _run(provider: Provider, store: MemoryStore, stopping: Callable[[], bool]) -> _Steps:
    with provider:
        try:
            file = yield from _send(provider, store, stopping)
            sent = store.processing(file)
            file, polls = yield from _wait(provider, sent, file)
        except BaseException:  # Ctrl-C too leaves no session
            if store.row.session_url is not None:
                with contextlib.suppress(ProviderUploadsError):
                    provider.cancel(store.row.session_url)
            raise
    return store.active(file, polls).result()


def _retry_waits() -> Iterator[float | None]:
    """Yield the wait after each try that failed; None after the last."""
    given = settings()
    backoff = Backoff(
        given.direct_retry_first_s,
        given.direct_retry_factor,
        given.direct_retry_max_s,
        jitter=given.direct_retry_jitter,
    )
    yield from (backoff.delay(attempt) for attempt in range(given.direct_tries - 1))
    yield None


def _send(
    provider: Provider, store: MemoryStore, stopping: Callable[[], bool]
) -> Generator[float, None, ProviderFile]:
    for wait_s in _retry_waits():
        try:
            with open_source(store.row.location, own_source_policy()) as source:
                _, file = transfer(
                    store,
                    provider,
                    store.row,
                    source.unchanged(store.row.expected_bytes),
                    lease=_Unshared,
                    stopping=stopping,
                    progress_every_s=60.0,
                )
            store.row = store.row.model_copy(update={"session_url": None})
            return file
        except TransientError as error:
            if wait_s is None or (error.retry_after_s or 0.0) > settings().direct_longest_wait_s:
                raise
            yield max(wait_s, error.retry_after_s or 0.0)
    raise AssertionError  # the last try returns or raises


def _wait(
    provider: Provider, row: UploadState, file: ProviderFile
) -> Generator[float, None, tuple[ProviderFile, int]]:
    """Poll until ACTIVE; the last poll comes just after the deadline."""
    poll_policy = row.request.poll_policy
    deadline = time.monotonic() + poll_policy.timeout_s
    trouble = ""
    for polls in itertools.count():
        if file.state == Stage.ACTIVE:
            return file, polls
        if file.failed:
            yield from _clean_up(provider, row)
            raise UploadFailedError(file.name, file.state, file.error, file.provider)
        left_s = deadline - time.monotonic()
        if polls and left_s <= 0:
            copy = yield from _clean_up(provider, row)
            raise UploadInactiveError(
                file.name,
                file.state,
                poll_policy.timeout_s,
                polls,
                copy,
                trouble,
                file.provider,
            )
        yield min(poll_policy.backoff.delay(polls), max(left_s, 0.0) + SHORTEST_S)
        try:
            looked = provider.get(file.name)
            file, trouble = file.updated(looked), ""
        except TransientError as error:
            trouble = str(error)
    raise AssertionError  # count() does not end


def _clean_up(provider: Provider, row: UploadState) -> Generator[float, None, str]:
    """Delete what was sent, if that was asked for; return what became of it."""
    if not row.request.cleanup_on_timeout:
        return "kept"
    for wait_s in _retry_waits():
        try:
            for name in row.names:
                provider.delete(name)
            return "deleted"
        except TransientError as error:
            if wait_s is None or (error.retry_after_s or 0.0) > settings().direct_longest_wait_s:
                break
            yield max(wait_s, error.retry_after_s or 0.0)
    return "undeleted"


class _Unshared:
    """The lease of an upload that nobody else knows of."""

    lost = False
