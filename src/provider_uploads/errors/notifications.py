"""Telling a host application of an end."""

from __future__ import annotations

from provider_uploads.errors.base import PermanentError, TransientError


class NotDeliveredError(TransientError):
    """A webhook or a host's broker did not take a notification; it will be sent again."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason, retry_after_s)
        self.reason = reason
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"not delivered: {self.reason}. Check the receiver; it is sent again."


class ReceiverGoneError(PermanentError):
    """A webhook wants no more of these."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        return (
            f"the receiver answered {self.status} Gone, so nothing more is sent. Correct its URL "
            "in the workers' settings if that was a mistake."
        )
