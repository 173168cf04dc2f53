"""The bytes to upload."""

from __future__ import annotations

from typing import Any

from provider_uploads.errors.base import PermanentError, TransientError


class SourceUnavailableError(TransientError):
    """The bytes cannot be had right now; nothing says that they are not there."""

    def __init__(self, path: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(path, reason, retry_after_s)
        self.path = path
        self.reason = reason
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.path} cannot be reached ({self.reason}). Try later."


class SourceError(PermanentError):
    """The bytes to upload cannot be had."""

    def __init__(self, path: str, *data: Any) -> None:
        super().__init__(path, *data)
        self.path = path


class SourceNotFoundError(SourceError, FileNotFoundError):
    """There is nothing at this path."""

    def __str__(self) -> str:
        if self.path.startswith("staged://"):
            return (
                f"{self.path}: the staged copy is not in this worker's PROVIDER_UPLOADS_STAGING. "
                "Set it to the same place for web apps and workers, and submit again."
            )
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
