"""The queue itself: Redis, messages, tickets, waiting."""

from __future__ import annotations

from provider_uploads.errors.base import PermanentError, TransientError


class QueueUnavailableError(TransientError):
    """Redis cannot be reached or does not answer in time."""

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(server, reason)
        self.server = server
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"Redis at {self.server} cannot be used ({self.reason}). "
            "Start it, or point PROVIDER_UPLOADS_REDIS_URL at one that runs. "
            "Whatever has a ticket goes on when it is back."
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
