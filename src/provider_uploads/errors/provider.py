"""What the provider, or the way to it, answers."""

from __future__ import annotations

from provider_uploads.errors.base import PermanentError, TransientError


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
    """The account's storage at the provider is full; by its own word if ``limit_bytes`` is 0."""

    def __init__(self, profile: str, missing_bytes: int, limit_bytes: int) -> None:
        super().__init__(profile, missing_bytes, limit_bytes)
        self.profile = profile
        self.missing_bytes = missing_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        if not self.limit_bytes:
            return (
                "the provider says that the account's storage is full. Delete files, or upload "
                'with evict="oldest"; files expire after 48 h.'
            )
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
            f"(HTTP {self.http_status} {self.status}). Check GEMINI_API_KEY where the file is "
            "sent from."
        )


class FileGoneError(ProviderRefusedError):
    """No such file for this key: deleted, expired, or never ours; the provider does not say.

    ``hint`` is what is known here of the reason.
    """

    def __init__(
        self, operation: str, http_status: int, status: str, message: str, hint: str = ""
    ) -> None:
        super().__init__(operation, http_status, status, message)
        self.args = (*self.args, hint) if hint else self.args
        self.hint = hint

    def __str__(self) -> str:
        return (
            f"{self.operation}: the file is not there for this API key (HTTP {self.http_status}): "
            "deleted, expired after 48 h, or of another project. Upload it again."
            f"{self.hint and ' '}{self.hint}"
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
