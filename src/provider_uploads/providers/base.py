"""What a provider is: the protocol that every one implements, and the facts it states.

A provider is one module with one class. Its ``ProviderFile.state`` speaks the Gemini API's words,
whatever its service calls them: ACTIVE can be used, FAILED never will be, and anything else means
that it is still being processed. docs/architecture.md shows how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, Self

from provider_uploads.errors import UnsupportedOperationError
from provider_uploads.protocol import KEPT_S, MAX_FILE_BYTES, MAX_INLINE_BYTES
from provider_uploads.questions import Answer, Attachment
from provider_uploads.schemas import BatchJob, ProviderFile, UploadRequest
from provider_uploads.sources.base import Source

#: Told the bytes sent so far; what it raises stops the transfer.
Progress = Callable[[int], None]


class Operation(StrEnum):
    """What may be asked of a provider."""

    UPLOAD = "upload"
    LIST = "list"
    GET = "get"
    DELETE = "delete"
    REGISTER = "register"
    GENERATE = "generate"
    BATCH_FILE = "batch from a file"
    BATCH_INLINE = "batch of inline requests"
    ANSWERS = "answers of a batch"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one provider can do, and its limits."""

    #: As results and errors call it: ``google``, ``openai`` …
    name: str
    #: The operations it does not have, each with what to use instead.
    unsupported: Mapping[Operation, str] = field(default_factory=dict)
    #: Whether a file gets the name that its uploader chose.
    takes_names: bool = True
    #: Whether an upload session outlives a broken connection.
    resumes: bool = True
    takes_empty_files: bool = True
    #: Whether it stores the MIME type it was given.
    keeps_mime_type: bool = True
    max_file_bytes: int = MAX_FILE_BYTES
    #: Seconds that it keeps a file.
    kept_s: int = KEPT_S
    #: Whether its input files hold OpenAI's lines instead of Gemini's.
    openai_batches: bool = False
    #: Whether a batch's job keeps the display name that its creator chose.
    keeps_batch_names: bool = True
    max_inline_bytes: int = MAX_INLINE_BYTES
    max_inline_requests: int | None = None

    def require(self, operation: Operation) -> None:
        """Raise UnsupportedOperationError, naming the alternative, for what it cannot do."""
        if operation in self.unsupported:
            raise UnsupportedOperationError(self.name, operation.value, self.unsupported[operation])

    def can(self, operation: Operation) -> bool:
        """Whether it has an operation."""
        return operation not in self.unsupported


class Provider(Protocol):
    """One account at one provider; safe to share between threads; a context manager.

    Every method raises this library's errors only: a TransientError where another attempt may
    succeed, a PermanentError otherwise, UnsupportedOperationError before any request.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def start(self, name: str, request: UploadRequest, size_bytes: int) -> str:
        """Open an upload session for a file of this name; return what names it, a secret.

        Raises NameTakenError when the provider holds a file of this name.
        """

    def send(
        self,
        session_url: str,
        source: Source,
        *,
        name: str,
        resume: bool = False,
        on_progress: Progress = lambda sent_bytes: None,
    ) -> ProviderFile:
        """Send the source, or with ``resume`` what is missing, and return the verified file.

        Size and, where the provider gives one, sha256 must be the source's (``verification``).
        Raises SessionLostError, NameTakenError, VerificationError.
        """

    def query(self, session_url: str, name: str) -> int | ProviderFile:
        """Return the bytes that a session has received, or its finished file.

        Raises SessionLostError.
        """

    def cancel(self, session_url: str) -> None:
        """Give a session up; one that is gone or finished is fine."""

    def get(self, name: str) -> ProviderFile:
        """Return a file by its name; raises FileGoneError when it is not there."""

    def list(self, page_size: int = 100) -> Iterator[ProviderFile]:
        """Yield all files of the account."""

    def delete(self, name: str) -> bool:
        """Delete a file by its name; return whether it was there. Gone is success."""

    def registers(self, location: str) -> bool:
        """Whether the provider can read a source by itself, so that no bytes are sent."""

    def register(self, uris: Sequence[str], credentials: Any = None) -> Sequence[ProviderFile]:
        """Make files of a bucket known to the provider, uncopied; return them in order.

        ``credentials`` are those of the bucket's cloud, by default the environment's.
        """

    def generate(
        self,
        prompt: str,
        files: Sequence[Attachment],
        *,
        model: str,
        config: dict[str, Any] | None = None,
        timeout_s: float = 600.0,
        ticket: str = "",
    ) -> Answer:
        """Ask a model about files, the prompt first; each file after its label.

        Raises FileExpiredError, FileGoneError or FileNotActiveError naming a file that cannot be
        used.
        """

    def close(self) -> None:
        """Close the connections."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class SendsInOne(Protocol):
    """What a provider that takes a small file in one request has besides."""

    @property
    def takes_one_request(self) -> bool:
        """Whether it still may be tried."""

    def send_in_one(self, name: str, request: UploadRequest, source: Source) -> ProviderFile:
        """Send a small source in one request, without a session; return the verified file.

        Raises ProviderRefusedError where the service takes no file that way, NameTakenError,
        VerificationError.
        """

    def forgo_one_request(self) -> None:
        """Never try it again: the service refuses it."""


def in_one_request(provider: Provider) -> SendsInOne | None:
    """Return a provider's calls for files in one request; None where it has none."""
    calls: Any = provider
    return calls if getattr(provider, "takes_one_request", False) else None


class FilePages(Protocol):
    """What a provider has as ``pages`` whose list can be read page by page; raises likewise."""

    def page(self, token: str = "", size: int = 100) -> tuple[Sequence[ProviderFile], str]:
        """Return a page of the account's files and the token of the next one, empty for none."""


def pages_of(provider: Provider) -> FilePages | None:
    """Return a provider's list by pages, where a file's name there is the one we know it by.

    Without it each file is asked for by itself.
    """
    named = provider.capabilities.can(Operation.LIST) and provider.capabilities.takes_names
    return getattr(provider, "pages", None) if named else None


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to create: either ``input_file``, the name of a file, or ``inline``.

    ``inline`` gives requests as they stand within the call, once. ``webhooks`` are the URLs that
    are told of its end, where the provider can do that.
    """

    model: str
    display_name: str
    input_file: str | None = None
    inline: Iterable[Mapping[str, Any]] = ()
    webhooks: Sequence[str] = ()


class BatchCalls(Protocol):
    """What a provider that runs batches has as ``batches``; raises as ``Provider`` does."""

    def create(self, job: NewJob) -> BatchJob:
        """Create a job. Twice makes two of them: whoever calls looks for the first one before."""

    def get(self, name: str) -> BatchJob:
        """Return a job; raises FileGoneError when it is not there."""

    def list(self, page_size: int = 100) -> Iterator[Sequence[BatchJob]]:
        """Yield all jobs of the account, a page for each request."""

    def cancel(self, name: str) -> bool:
        """Ask for a job's end; return whether it was still under way."""

    def delete(self, name: str) -> bool:
        """Delete a job; return whether it was there. One under way is not stopped by it."""

    def answers(self, job: BatchJob) -> Iterator[dict[str, Any]]:
        """Yield a job's answers, one after another, as the provider writes them."""


def batches_of(provider: Provider) -> BatchCalls:
    """Return a provider's batch calls; raises UnsupportedOperationError where it has none."""
    calls: BatchCalls | None = getattr(provider, "batches", None)
    if calls is None:
        raise UnsupportedOperationError(
            provider.capabilities.name, "batch", "a gemini profile, or one question a file"
        )
    return calls
