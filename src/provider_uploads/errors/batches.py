"""How a batch ends badly, and what is wrong with its input."""

from __future__ import annotations

from typing import Any

from provider_uploads.errors.base import PermanentError


class BatchInputError(PermanentError, ValueError):
    """A request of a batch cannot be sent; ``line`` and ``column`` count from 1."""

    def __init__(self, source: str, line: int, column: int, problem: str) -> None:
        super().__init__(source, line, column, problem)
        self.source = source
        self.line = line
        self.column = column
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"{self.source}, line {self.line}, column {self.column}: {self.problem}. "
            "Correct it and submit the batch again."
        )


class BatchFailedError(PermanentError, RuntimeError):
    """A job ended without results; ``details`` is the service's own ``error`` object."""

    def __init__(self, name: str, state: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(name, state, details)
        self.name = name
        self.state = state
        self.details = details

    def __str__(self) -> str:
        said = (self.details or {}).get("message") or "no reason given"
        return f"{self.name} is {self.state} at the provider: {said}. Correct that, submit again."


class BatchExpiredError(PermanentError, RuntimeError):
    """A job had no results when its time was up: the service's, or ``deadline_s``."""

    def __init__(self, name: str, state: str, waited_s: float, attempts: int = 1) -> None:
        super().__init__(name, state, waited_s, attempts)
        self.name = name
        self.state = state
        self.waited_s = waited_s
        self.attempts = attempts

    def __str__(self) -> str:
        return (
            f"{self.name} is {self.state} without results after {self.waited_s:.0f} s, in attempt "
            f"{self.attempts}. Submit it in smaller parts, as on_deadline='resubmit' does."
        )


class BatchCancelledError(PermanentError):
    """Somebody cancelled the batch."""

    def __init__(self, ticket: str) -> None:
        super().__init__(ticket)
        self.ticket = ticket

    def __str__(self) -> str:
        return f"batch {self.ticket} was cancelled. Submit it again if it is wanted."


class BatchTooLargeError(PermanentError, ValueError):
    """More than an account or a provider takes in one batch."""

    def __init__(self, what: str, found: int, limit: int) -> None:
        super().__init__(what, found, limit)
        self.what = what
        self.found = found
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{self.what} are {self.found:,}, and at most {self.limit:,} are taken at once. "
            "Split the input into several batches."
        )


class WebhookRefusedError(PermanentError):
    """A webhook is not signed by whom it says it is from, or not for us."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"webhook refused: {self.reason}. Check the secret, or the audience and the clock."
