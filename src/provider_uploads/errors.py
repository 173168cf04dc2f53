"""Everything that can go wrong, as one tree.

    ProviderUploadsError
    ├── TransientError                 worth trying again: the same call may succeed later
    │   ├── QueueUnavailableError      Redis cannot be reached or does not answer
    │   ├── ResultTimeoutError         the wait ended before the upload did; the upload goes on
    │   ├── NewerPayloadError          a newer client wrote this message; a newer worker can read it
    │   ├── SourceUnavailableError     the way to the bytes is broken: network, 5xx, cut off
    │   ├── ProviderUnavailableError   5xx, a reset, a timeout, an answer that makes no sense
    │   │   └── RateLimitedError       429
    │   ├── ServiceDownError           the provider has been failing for all; one worker probes it
    │   ├── StorageFullError           the account's files leave no room for this one
    │   ├── SessionLostError           the provider no longer knows the upload session
    │   ├── NameTakenError             409: the provider holds another file of this name
    │   └── VerificationError          the provider's copy differs from the source
    └── PermanentError                 trying again changes nothing
        ├── InvalidRequestError        an argument that cannot be meant (also a ValueError)
        ├── ConfigurationError         this process is set up in a way that cannot work
        │   ├── MissingDependencyError an optional package is not installed
        │   └── MissingCredentialsError no API key where one is needed
        ├── UnknownProviderError       (also a NotImplementedError)
        ├── UnsupportedOperationError  this provider cannot do that (also a NotImplementedError)
        ├── SourceError                the bytes cannot be had
        │   ├── SourceNotFoundError    (also a FileNotFoundError)
        │   ├── SourceKindError        a directory, a FIFO, a device
        │   ├── SourceNotAllowedError  outside the folders this worker may read
        │   ├── SourceSchemeError      a URL of a kind that is not read here
        │   ├── SourceAddressError     a host that is not on the public internet
        │   ├── SourceUnreadableError  the operating system, or the server, says no
        │   ├── SourceTooLargeError    more than the provider takes
        │   └── SourceChangedError     it changed while it was being sent
        ├── ProviderRefusedError       a 4xx that stays one
        │   ├── InvalidCredentialsError the provider does not know the API key
        │   └── FileGoneError          deleted, expired, or never ours: it does not say which
        ├── FileExpiredError           the provider deleted the file, 48 h after its upload
        ├── FileNotActiveError         a file was to be used that is not ACTIVE
        ├── UploadFailedError          the provider could not process the file
        ├── UploadInactiveError        still not ACTIVE when the time was up
        ├── UploadCancelledError       somebody cancelled the upload
        ├── UnknownTicketError         no upload is known under this ticket
        └── UnexpectedError            a fault in this software

Two branches decide everything: the class *is* the decision, and nobody reads message texts.

All data is positional and JSON-able and goes through ``args``, because that is what survives
Celery's JSON results: the class that a worker raised is the class that the client catches.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any


class ProviderUploadsError(Exception):
    """Whatever this library raises on purpose."""

    def __init__(self, *data: Any) -> None:
        super().__init__(*data)

    def as_record(self) -> dict[str, Any]:
        """Return the error as JSON: ``{"type": class name, "args": [...], "message": text}``."""
        return {"type": type(self).__name__, "args": list(self.args), "message": str(self)}


class TransientError(ProviderUploadsError):
    """Worth trying again: the same call may succeed later."""

    #: Seconds the other side asked us to wait, when it did.
    retry_after_s: float | None = None


class QueueUnavailableError(TransientError):
    """Redis cannot be reached or does not answer in time."""

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(server, reason)
        self.server = server
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"Redis at {self.server} cannot be used ({self.reason}). "
            "Start it, or point PROVIDER_UPLOADS_REDIS_URL at one that runs; then submit again."
        )


class ResultTimeoutError(TransientError, TimeoutError):
    """The wait for a result ended before the upload did; the upload goes on."""

    def __init__(self, ticket: str, stage: str, waited_s: float) -> None:
        super().__init__(ticket, stage, waited_s)
        self.args = (ticket, stage, waited_s)  # OSError keeps two of three
        self.ticket = ticket
        self.stage = stage
        self.waited_s = waited_s

    def __str__(self) -> str:
        return (
            f"upload {self.ticket} is {self.stage} after {self.waited_s:g} s of waiting. "
            "It goes on; ask again with the same ticket. "
            "If it stays QUEUED, no worker serves the queue."
        )


class NewerPayloadError(TransientError):
    """A newer client wrote this message; it is left for a newer worker."""

    def __init__(self, payload_version: int, known_version: int) -> None:
        super().__init__(payload_version, known_version)
        self.payload_version = payload_version
        self.known_version = known_version

    def __str__(self) -> str:
        return (
            f"the message has payload version {self.payload_version}, this worker reads up to "
            f"{self.known_version}. It is left for a newer worker: upgrade provider-uploads here."
        )


class SourceUnavailableError(TransientError):
    """The bytes cannot be had right now; nothing says that they are not there."""

    def __init__(self, path: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(path, reason, retry_after_s)
        self.path = path
        self.reason = reason
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.path} cannot be reached ({self.reason}). Try later."


class ProviderUnavailableError(TransientError):
    """The provider did not do its part: 5xx, a reset, a timeout, or a senseless answer."""

    def __init__(
        self,
        operation: str,
        reason: str,
        http_status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(operation, reason, http_status, retry_after_s)
        self.operation = operation
        self.reason = reason
        self.http_status = http_status
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        status = f"HTTP {self.http_status}, " if self.http_status else ""
        return f"{self.operation}: the provider is unavailable ({status}{self.reason}). Try later."


class RateLimitedError(ProviderUnavailableError):
    """429: more requests than the project's quota allows."""

    def __str__(self) -> str:
        wait = f"in {self.retry_after_s:g} s" if self.retry_after_s is not None else "later"
        return f"{self.operation}: over the provider's rate limit ({self.reason}). Try {wait}."


class ServiceDownError(TransientError):
    """The Files service fails for everybody; one worker probes it, and the others wait."""

    retry_after_s: float

    def __init__(self, profile: str, retry_after_s: float, reason: str = "") -> None:
        super().__init__(profile, retry_after_s, reason)
        self.profile = profile
        self.retry_after_s = retry_after_s
        self.reason = reason

    def __str__(self) -> str:
        last = f" ({self.reason})" if self.reason else ""
        return (
            f"the Files service of profile {self.profile!r} is down{last}. "
            f"Try in {self.retry_after_s:.1f} s."
        )


class StorageFullError(TransientError):
    """An account's files at the provider leave no room for another one."""

    def __init__(self, profile: str, missing_bytes: int, limit_bytes: int) -> None:
        super().__init__(profile, missing_bytes, limit_bytes)
        self.profile = profile
        self.missing_bytes = missing_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"the storage of profile {self.profile!r} ({self.limit_bytes:,} bytes) lacks "
            f"{self.missing_bytes:,} bytes for this file. Delete files, or upload with "
            'evict="oldest"; files expire after 48 h.'
        )


class SessionLostError(TransientError):
    """The provider no longer knows the upload session; the file must be sent from the start."""

    def __init__(self, http_status: int) -> None:
        super().__init__(http_status)
        self.http_status = http_status

    def __str__(self) -> str:
        return (
            f"the upload session is unknown to the provider (HTTP {self.http_status}). "
            "Send the file again in a new session."
        )


class NameTakenError(TransientError):
    """409: the provider holds a file of this name already, perhaps one nobody can read."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"{self.name} is taken at the provider. Send the file again under another name."


class VerificationError(TransientError):
    """The provider's copy differs from the source."""

    def __init__(self, name: str, what: str, expected: str, got: str) -> None:
        super().__init__(name, what, expected, got)
        self.name = name
        self.what = what
        self.expected = expected
        self.got = got

    def __str__(self) -> str:
        return (
            f"{self.name} arrived damaged: {self.what} is {self.got}, sent was {self.expected}. "
            "The copy is deleted; send the file again."
        )


class PermanentError(ProviderUploadsError):
    """Trying again changes nothing."""


class InvalidRequestError(PermanentError, ValueError):
    """An argument that cannot be meant."""

    def __init__(self, field: str, value: str, problem: str) -> None:
        super().__init__(field, value, problem)
        self.field = field
        self.value = value
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field}={self.value}: {self.problem}"


class ConfigurationError(PermanentError):
    """This process is set up in a way that cannot work."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class MissingDependencyError(ConfigurationError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package)
        self.args = (package, extra)
        self.package = package
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.package} is not installed. Run: pip install 'provider-uploads[{self.extra}]'"


class MissingCredentialsError(ConfigurationError):
    """No API key where one is needed."""

    def __init__(self, provider: str, profile: str = "default") -> None:
        super().__init__(provider)
        self.args = (provider, profile)
        self.provider = provider
        self.profile = profile

    def __str__(self) -> str:
        if self.provider == "Google Cloud":
            return (
                "no usable Google Cloud credentials. Run: gcloud auth application-default login, "
                "or set GOOGLE_APPLICATION_CREDENTIALS to a key file."
            )
        whose, variable = self.provider, "GEMINI_API_KEY"
        if self.profile != "default":
            whose = f"{self.provider} in profile {self.profile!r}"
            variable = f"PROVIDER_UPLOADS_PROFILES__{self.profile.upper()}__API_KEY"
        return (
            f"no API key for {whose}. Set {variable} in the environment of the worker "
            "(keys never travel in messages)."
        )


class UnknownProviderError(PermanentError, NotImplementedError):
    """A provider that this library does not know."""

    def __init__(self, provider: str) -> None:
        super().__init__(provider)
        self.provider = provider

    def __str__(self) -> str:
        return f"provider {self.provider!r} is not known here. Use provider='google'."


class UnsupportedOperationError(PermanentError, NotImplementedError):
    """This provider cannot do that, so it was not asked."""

    def __init__(self, provider: str, operation: str, instead: str) -> None:
        super().__init__(provider, operation, instead)
        self.provider = provider
        self.operation = operation
        self.instead = instead

    def __str__(self) -> str:
        return f"{self.provider} cannot {self.operation} files here. Use {self.instead}."


class SourceError(PermanentError):
    """The bytes to upload cannot be had."""

    def __init__(self, path: str, *data: Any) -> None:
        super().__init__(path, *data)
        self.path = path


class SourceNotFoundError(SourceError, FileNotFoundError):
    """There is nothing at this path."""

    def __str__(self) -> str:
        if "://" in self.path:
            return f"{self.path}: nothing is there. Check the URL, and that it is still valid."
        return f"{self.path}: no such file. Check the path; workers must see it under the same one."


class SourceKindError(SourceError):
    """Something is there, but it is not a regular file."""

    def __init__(self, path: str, kind: str) -> None:
        super().__init__(path, kind)
        self.kind = kind

    def __str__(self) -> str:
        hint = "Name the files inside it." if self.kind == "a directory" else "Copy it to a file."
        return f"{self.path} is {self.kind}, not a regular file. {hint}"


class SourceNotAllowedError(SourceError):
    """The path, after resolving links, leads outside the folders that may be read."""

    def __init__(self, path: str, resolved: str, roots: str) -> None:
        super().__init__(path, resolved, roots)
        self.resolved = resolved
        self.roots = roots

    def __str__(self) -> str:
        leads = "" if self.resolved == self.path else f" leads to {self.resolved}, which"
        return (
            f"{self.path}{leads} is outside the allowed roots ({self.roots}). "
            "Move the file there, or add its folder to PROVIDER_UPLOADS_ROOTS."
        )


class SourceSchemeError(SourceError):
    """A URL of a kind that is not read here: not switched on, not encrypted, or not known."""

    def __init__(self, path: str, scheme: str) -> None:
        super().__init__(path, scheme)
        self.scheme = scheme

    def __str__(self) -> str:
        own = self.path.lower().startswith(f"{self.scheme}:")
        subject = f"{self.scheme}://" if own else f"it leads to {self.scheme}://, which"
        why = "is not known here. Use a path, or s3://, gs:// or https://"
        if self.scheme == "http":
            why = "is not encrypted, so anybody on the way could change it. Use https://"
        elif self.scheme in {"s3", "gs", "https"}:
            why = (
                f"is not switched on. Set PROVIDER_UPLOADS_SOURCES={self.scheme} where the worker "
                "runs (several: s3,gs,https)"
            )
        return f"{self.path} is not read: {subject} {why}."


class SourceAddressError(SourceError):
    """The host is not on the public internet; a worker may reach what its users may not."""

    def __init__(self, path: str, host: str) -> None:
        super().__init__(path, host)
        self.host = host

    def __str__(self) -> str:
        return (
            f"{self.path} is not read: {self.host} has no public address. Upload the file itself, "
            "or add the network to PROVIDER_UPLOADS_HTTPS_NETWORKS where the worker runs."
        )


class SourceUnreadableError(SourceError):
    """The operating system, or the server that has it, refuses to give the file."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.reason = reason

    def __str__(self) -> str:
        if "://" in self.path:
            return f"{self.path} cannot be read ({self.reason}). Check what the worker may read."
        return f"{self.path} cannot be read ({self.reason}). Change its permissions or its owner."


class SourceTooLargeError(SourceError):
    """The file is larger than the provider takes."""

    def __init__(self, path: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(path, size_bytes, limit_bytes)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.path} has {self.size_bytes:,} bytes; the provider takes at most "
            f"{self.limit_bytes:,} a file. Split or compress it."
        )


class SourceChangedError(SourceError):
    """The file changed between the start of its upload and the end."""

    def __init__(self, path: str, expected_bytes: int, found_bytes: int) -> None:
        super().__init__(path, expected_bytes, found_bytes)
        self.expected_bytes = expected_bytes
        self.found_bytes = found_bytes

    def __str__(self) -> str:
        return (
            f"{self.path} changed since it was submitted: {self.expected_bytes:,} bytes at first, "
            f"{self.found_bytes:,} later. Submit it again when nobody writes to it."
        )


class ProviderRefusedError(PermanentError):
    """The provider refuses, and will refuse again."""

    def __init__(self, operation: str, http_status: int, status: str, message: str) -> None:
        super().__init__(operation, http_status, status, message)
        self.operation = operation
        self.http_status = http_status
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return (
            f"{self.operation}: the provider refuses with HTTP {self.http_status} "
            f"{self.status}: {self.message}. Correct what it names; a repetition changes nothing."
        )


class InvalidCredentialsError(ProviderRefusedError):
    """The provider does not accept the API key."""

    def __str__(self) -> str:
        return (
            f"{self.operation}: the provider does not accept the API key "
            f"(HTTP {self.http_status} {self.status}). Check GEMINI_API_KEY where the worker runs."
        )


class FileGoneError(ProviderRefusedError):
    """No such file for this key: deleted, expired, or never ours; the provider does not say."""

    def __str__(self) -> str:
        return (
            f"{self.operation}: the file is not there for this API key (HTTP {self.http_status}): "
            "deleted, expired after 48 h, or of another project. Upload it again."
        )


class FileExpiredError(PermanentError):
    """The provider keeps a file for 48 h, and they are over."""

    def __init__(self, name: str, expired_at: str) -> None:
        super().__init__(name, expired_at)
        self.name = name
        self.expired_at = expired_at

    def __str__(self) -> str:
        return f"{self.name} expired at {self.expired_at}. Upload it again."


class FileNotActiveError(PermanentError):
    """A file was to be used that the provider has not finished, or could not process."""

    def __init__(self, name: str, state: str) -> None:
        super().__init__(name, state)
        self.name = name
        self.state = state

    def __str__(self) -> str:
        hint = "Check that it plays" if self.state == "FAILED" else "Try again when it is ACTIVE"
        return f"{self.name} is {self.state} and cannot be used in a prompt. {hint}."


class UploadFailedError(PermanentError):
    """The provider could not process the file; ``details`` is its own ``error`` object."""

    def __init__(self, name: str, state: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(name, state, details)
        self.name = name
        self.state = state
        self.details = details

    def __str__(self) -> str:
        said = (self.details or {}).get("message") or "no reason given"
        return f"{self.name} is {self.state} at the provider: {said}. Check that the file plays."


class UploadInactiveError(PermanentError):
    """The file was still not ACTIVE when its time was up."""

    def __init__(
        self, name: str, state: str, waited_s: float, polls: int, copy: str, last_look: str = ""
    ) -> None:
        super().__init__(name, state, waited_s, polls, copy, last_look)
        self.name = name
        self.state = state
        self.waited_s = waited_s
        self.polls = polls
        self.copy = copy
        self.last_look = last_look

    def __str__(self) -> str:
        end = {
            "deleting": "Its copy at the provider is being deleted",
            "deleted": "Its copy at the provider is deleted",
            "undeleted": "Its copy at the provider could not be deleted and expires after 48 h",
        }.get(self.copy, "Its copy at the provider is kept (cleanup_on_timeout=False)")
        trouble = f"; the last look failed: {self.last_look}" if self.last_look else ""
        return (
            f"{self.name} is still {self.state} after {self.waited_s:.1f} s and "
            f"{self.polls} looks{trouble}. {end}; submit again with a larger timeout_s."
        )


class UploadCancelledError(PermanentError):
    """Somebody cancelled the upload, or it was withdrawn before it began."""

    def __init__(self, ticket: str) -> None:
        super().__init__(ticket)
        self.ticket = ticket

    def __str__(self) -> str:
        return f"upload {self.ticket} was cancelled. Submit the file again if it is wanted."


class UnknownTicketError(PermanentError, LookupError):
    """No upload is known under this ticket."""

    def __init__(self, ticket: str) -> None:
        super().__init__(ticket)
        self.ticket = ticket

    def __str__(self) -> str:
        return (
            f"no upload is known under ticket {self.ticket!r}: mistyped, of another Redis, "
            "or older than three days."
        )


class UnexpectedError(PermanentError):
    """A fault in this software; the worker's log has the traceback."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"unexpected {self.kind}: {self.message}. The worker's log has the traceback."


def _tree(cls: type[ProviderUploadsError]) -> dict[str, type[ProviderUploadsError]]:
    found = {cls.__name__: cls}
    for child in cls.__subclasses__():
        found |= _tree(child)
    return found


def from_record(record: dict[str, Any]) -> ProviderUploadsError:
    """Return the error that ``as_record`` wrote.

    A class that a newer worker knows, or knows with other data, becomes an UnexpectedError.
    """
    cls = _tree(ProviderUploadsError).get(record["type"])
    if cls is not None:
        with suppress(TypeError):
            return cls(*record["args"])
    return UnexpectedError(record["type"], record.get("message", ""))
