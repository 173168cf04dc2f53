"""How an upload ends badly."""

from __future__ import annotations

from typing import Any

from provider_uploads.errors.base import PermanentError


def _unless_google(provider: str) -> tuple[str, ...]:
    """Leave the usual provider out of ``args``: an older reader knows no such argument."""
    return () if provider == "google" else (provider,)


class UploadFailedError(PermanentError, RuntimeError):
    """The provider could not process the file; ``details`` is its own ``error`` object."""

    def __init__(
        self,
        name: str,
        state: str,
        details: dict[str, Any] | None = None,
        provider: str = "google",
    ) -> None:
        super().__init__(name, state, details, *_unless_google(provider))
        self.name = name
        self.state = state
        self.details = details
        self.provider = provider

    def __str__(self) -> str:
        said = (self.details or {}).get("message") or "no reason given"
        return f"{self.name} is {self.state} at the provider: {said}. Check that the file plays."


class UploadInactiveError(PermanentError, RuntimeError):
    """The file was still not ACTIVE when its time was up."""

    def __init__(
        self,
        name: str,
        state: str,
        waited_s: float = 0.0,
        polls: int = 0,
        copy: str = "kept",
        last_look: str = "",
        provider: str = "google",
    ) -> None:
        super().__init__(name, state, waited_s, polls, copy, last_look, *_unless_google(provider))
        self.name = name
        self.state = state
        self.waited_s = waited_s
        self.polls = polls
        self.copy = copy
        self.last_look = last_look
        self.provider = provider

    @property
    def details(self) -> dict[str, Any]:
        """The numbers, as one object."""
        return {"waited_s": self.waited_s, "polls": self.polls, "last_poll": self.last_look}

    def __str__(self) -> str:
        end = {
            "deleting": "Its copy at the provider is being deleted",
            "deleted": "Its copy at the provider is deleted",
            "undeleted": "Its copy at the provider could not be deleted and expires after 48 h",
        }.get(self.copy, "Its copy at the provider is kept (cleanup_on_timeout=False)")
        trouble = f"; the last poll failed: {self.last_look}" if self.last_look else ""
        return (
            f"{self.name} is still {self.state} after {self.waited_s:.1f} s and "
            f"{self.polls} polls{trouble}. {end}; submit again with a larger timeout_s."
        )


class UploadCancelledError(PermanentError):
    """Somebody cancelled the upload, or it was withdrawn before it began."""

    def __init__(self, ticket: str) -> None:
        super().__init__(ticket)
        self.ticket = ticket

    def __str__(self) -> str:
        return f"upload {self.ticket} was cancelled. Submit the file again if it is wanted."


class UnexpectedError(PermanentError):
    """A fault in this software; the worker's log has the traceback."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"unexpected {self.kind}: {self.message}. The worker's log has the traceback."
