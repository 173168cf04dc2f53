"""What becomes of webhook deliveries on order: late, doubled, forged, or never sent.

    POST /_emulator/webhooks/orders  {"absent": true, "share": 0.3, "seed": 7}
    POST /_emulator/webhooks/orders  {"late_s": 600, "match": "nightly"}
    POST /_emulator/webhooks/orders  {"copies": 3, "count": 10}
    POST /_emulator/webhooks/orders  {"forged": "secret"}

``match`` is a part of the event's type, the endpoint's address, or what a batch is called by.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from provider_uploads.emulator.errors import InvalidFaultError
from provider_uploads.emulator.faults import whole, word
from provider_uploads.emulator.orders import Fate, is_number


class Forgery(StrEnum):
    """What is wrong with a delivery that does not come from the service."""

    SECRET = "secret"  # noqa: S105 - signed with another secret, or another key of that name
    BODY = "body"  # the body was changed after it was signed
    UNSIGNED = "unsigned"  # no signature; as a token, one that says it needs none
    OLD = "old"  # well signed, an hour ago


@dataclass(frozen=True, kw_only=True)
class DeliveryFate(Fate):
    """What becomes of a delivery; unless something is said, it is sent once and at once.

    ``late_s`` are seconds on the server's clock. ``copies`` are sent one after another and have
    the same ``webhook-id``, as when an answer was lost.
    """

    absent: bool = False
    late_s: float = 0.0
    copies: int = 1
    forged: Forgery | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.absent, bool):
            raise InvalidFaultError("absent must be true or false")
        if not (is_number(self.late_s) and self.late_s >= 0):
            raise InvalidFaultError(f"late_s must be seconds from 0, not {self.late_s!r}")
        whole("copies", self.copies, least=1)
        if self.forged is not None:
            object.__setattr__(self, "forged", word(Forgery, self.forged, "forged"))
