"""Every kind of fault: where it fits, and what it does.

One table. A kind strikes at one point in the life of a request, and its effect is in the column
for that point: instead of anything else (``refusal``), while bytes arrive (``at_bytes``), when
the file is made (``fate``, ``takes_name``), or when all is done and the answer is due
(``at_answer``, ``corrupt``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, Flag, StrEnum, auto

from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.errors import (
    ApiError,
    internal,
    rate_limited,
    rate_limited_bare,
    rate_limited_for_the_day,
    unavailable,
)
from provider_uploads.emulator.files import Fate


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
class FaultPoint:
    """One chance for a fault to strike.

    ``labels`` are what ``match`` is looked for in; ``length_bytes`` is how long the request's
    body is, where the client says it beforehand.
    """

    operation: Operation
    labels: tuple[str, ...] = ()
    traits: Trait = Trait.NONE
    length_bytes: int | None = None
    moment: Moment = Moment.REQUEST


class FaultKind(StrEnum):
    """What goes wrong."""

    RATE_LIMITED = "rate_limited"  # 429 with RetryInfo
    RATE_LIMITED_BARE = "rate_limited_bare"  # 429 without details
    RATE_LIMITED_DAY = "rate_limited_day"  # 429 for a quota of the day
    INTERNAL = "internal"  # 500
    UNAVAILABLE = "unavailable"  # 503 with nothing in it
    RESET = "reset"  # the connection, before or among the bytes
    STALL = "stall"  # nothing is read and nothing done for a while
    ACTIVE_ERROR = "active_error"  # 503 and "active": who goes on leaves a hole
    EARLY_FINAL = "early_final"  # "final" and a file, though bytes are missing
    FILE_FAILED = "file_failed"  # the file ends in FAILED
    FILE_STUCK = "file_stuck"  # the file stays in PROCESSING
    NAME_TAKEN = "name_taken"  # 409 when all bytes are there; no file of that name can be read
    LOST_FINALIZE = "lost_finalize"  # the file is made, the answer never arrives
    NO_FILE = "no_file"  # the file is made, the answer is {}
    LOST_ANSWER = "lost_answer"  # done as asked, the answer never arrives
    LATE_ANSWER = "late_answer"  # done at once, the answer comes after a while
    BAD_JSON = "bad_json"  # done as asked, the answer is cut off


class AtBytes(Enum):
    """What happens while a request's bytes are taken, after some of them or before any."""

    HANG_UP = auto()
    STALL = auto()
    END = auto()  # the rest is thrown away, the upload counts as complete
    DROP = auto()  # all are thrown away, and an error says that the upload goes on


class AtAnswer(Enum):
    """What happens to the answer of a request that was handled as usual."""

    HANG_UP = auto()
    STALL = auto()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A row of the table: ``needs`` is about the request, ``takes`` about the order."""

    operations: frozenset[Operation]
    needs: Trait = Trait.NONE
    takes: frozenset[str] = frozenset()
    moment: Moment = Moment.REQUEST
    refusal: Callable[[float], ApiError] | None = None  # given retry_delay_s
    at_bytes: AtBytes | None = None
    fate: Fate = Fate.ACTIVE
    takes_name: bool = False
    at_answer: AtAnswer | None = None
    corrupt: Callable[[bytes], bytes] | None = None


_ANY = frozenset(Operation)
_JSON = _ANY - {Operation.DOWNLOAD}
_UPLOAD = frozenset({Operation.UPLOAD})
_DELAY = frozenset({"retry_delay_s"})
_STALL = frozenset({"stall_s"})
_PLACE = frozenset({"after_bytes"})


def _cut(body: bytes) -> bytes:
    return body[: len(body) // 2]


RULES: dict[FaultKind, Rule] = {
    # Nothing is done, this is the answer. No upload status: the SDK sends a chunk again.
    FaultKind.RATE_LIMITED: Rule(operations=_ANY, takes=_DELAY, refusal=rate_limited),
    FaultKind.RATE_LIMITED_BARE: Rule(operations=_ANY, refusal=lambda _: rate_limited_bare()),
    FaultKind.RATE_LIMITED_DAY: Rule(
        operations=_ANY, takes=_DELAY, refusal=rate_limited_for_the_day
    ),
    FaultKind.INTERNAL: Rule(operations=_ANY, refusal=lambda _: internal()),
    FaultKind.UNAVAILABLE: Rule(operations=_ANY, refusal=lambda _: unavailable()),
    # The connection, before anything is done or in the middle of the bytes.
    FaultKind.RESET: Rule(operations=_ANY, takes=_PLACE, at_bytes=AtBytes.HANG_UP),
    FaultKind.STALL: Rule(operations=_ANY, takes=_PLACE | _STALL, at_bytes=AtBytes.STALL),
    # The bytes: a hole, a truncation.
    FaultKind.ACTIVE_ERROR: Rule(
        operations=_UPLOAD, needs=Trait.BYTES | Trait.SESSION, at_bytes=AtBytes.DROP
    ),
    FaultKind.EARLY_FINAL: Rule(
        operations=_UPLOAD, needs=Trait.BYTES, takes=_PLACE, at_bytes=AtBytes.END
    ),
    # The file.
    FaultKind.FILE_FAILED: Rule(
        operations=_UPLOAD, needs=Trait.FINISHES, moment=Moment.FILE, fate=Fate.FAILED
    ),
    FaultKind.FILE_STUCK: Rule(
        operations=_UPLOAD, needs=Trait.FINISHES, moment=Moment.FILE, fate=Fate.STUCK
    ),
    FaultKind.NAME_TAKEN: Rule(
        operations=_UPLOAD,
        needs=Trait.FINISHES | Trait.NAMED,
        moment=Moment.FILE,
        takes_name=True,
    ),
    FaultKind.LOST_FINALIZE: Rule(
        operations=_UPLOAD,
        needs=Trait.FINISHES,
        moment=Moment.FILE,
        at_answer=AtAnswer.HANG_UP,
    ),
    FaultKind.NO_FILE: Rule(
        operations=_UPLOAD, needs=Trait.FINISHES, moment=Moment.FILE, corrupt=lambda _: b"{}"
    ),
    # All is done as asked, only the answer suffers.
    FaultKind.LOST_ANSWER: Rule(operations=_ANY, at_answer=AtAnswer.HANG_UP),
    FaultKind.LATE_ANSWER: Rule(operations=_ANY, takes=_STALL, at_answer=AtAnswer.STALL),
    FaultKind.BAD_JSON: Rule(operations=_JSON, corrupt=_cut),
}
