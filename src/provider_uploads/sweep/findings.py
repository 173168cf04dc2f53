"""What a sweep finds."""

from __future__ import annotations

from enum import StrEnum

from provider_uploads.schemas import Record


class Kind(StrEnum):
    """What was found."""

    LOST = "lost"
    LEFTOVER = "leftover"
    PARKED = "parked"
    UNTOLD = "untold"
    STAGED = "staged"
    STRAY = "stray"
    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"


class Finding(Record):
    """One thing to bring to its end; ``subject`` is a ticket, or a file's name at the provider."""

    kind: Kind
    subject: str
    #: None where no account has to do with it.
    profile: str | None = None
    why: str
