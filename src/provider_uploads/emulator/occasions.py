"""When a fault may strike: at a request that has come in, or at a file that is being made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, Flag, auto

from provider_uploads.emulator.operations import Operation


class Moment(Enum):
    """When a kind of fault is decided, which is also what its ``nth`` counts."""

    REQUEST = auto()
    FILE = auto()


class Trait(Flag):
    """What there is about an upload that a kind of fault may need."""

    NONE = 0
    BYTES = auto()  # the request brings some
    SESSION = auto()  # it belongs to a resumable upload that is not over
    FINISHES = auto()  # it makes a file, if all goes well
    NAMED = auto()  # the client chose the file's name


@dataclass(frozen=True, kw_only=True)
class Occasion:
    """One chance for a fault to strike.

    ``labels`` are what ``match`` is looked for in; ``length_bytes`` is how long the request's
    body is, where the client says it beforehand.
    """

    operation: Operation
    labels: tuple[str, ...] = ()
    traits: Trait = Trait.NONE
    length_bytes: int | None = None
    moment: Moment = Moment.REQUEST
