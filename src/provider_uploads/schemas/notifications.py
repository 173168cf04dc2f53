"""Who is told of an end, and how that fares."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from provider_uploads.profiles import ProfileName
from provider_uploads.schemas.base import Record


class Notification(Record):
    """Whom to tell once an upload or a question has ended; names are of the workers' settings.

    Either ``callback``, the name of a webhook, or ``broker`` and ``signature``: a Celery signature
    of a host application as JSON, and the broker to send it to. ``on`` says after which end. With
    ``keyword``, the signature gets what is said as this argument, else as its first one.
    """

    on: Literal["success", "failure", "end"] = "end"
    callback: ProfileName | None = None
    broker: ProfileName | None = None
    signature: dict[str, Any] | None = None
    keyword: str | None = None

    @property
    def to(self) -> str:
        """Who is told, in words."""
        if self.callback is not None:
            return f"callback {self.callback}"
        return f"task {(self.signature or {}).get('task')} at broker {self.broker}"


class DeliveryState(StrEnum):
    """How a notification fares. The last three are ends."""

    #: Nothing to send yet.
    WAITING = "waiting"
    #: An attempt failed; there will be another one.
    RETRYING = "retrying"
    SENT = "sent"
    #: The other end was not the one it is for.
    NOT_NEEDED = "not needed"
    GIVEN_UP = "given up"

    @property
    def ended(self) -> bool:
        """Whether no attempt will follow."""
        return self in {DeliveryState.SENT, DeliveryState.NOT_NEEDED, DeliveryState.GIVEN_UP}


class Delivery(Record):
    """How one notification fares: to whom, how many attempts, and why the last one failed."""

    to: str
    state: DeliveryState
    attempts: int = 0
    error: str | None = None
