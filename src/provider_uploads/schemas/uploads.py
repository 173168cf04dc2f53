"""An upload, from its request to its result."""

from __future__ import annotations

import math
import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from provider_uploads import locations, protocol
from provider_uploads.backoff import Backoff
from provider_uploads.profiles import DEFAULT_PROFILE, ProfileName
from provider_uploads.schemas.base import Record, received
from provider_uploads.schemas.notifications import Delivery

_MIME_TYPE = re.compile(r"[A-Za-z0-9][\w!#$&^.+-]*/[A-Za-z0-9][\w!#$&^.+-]*", re.ASCII)


class Stage(StrEnum):
    """Where an upload is. The last four are ends."""

    QUEUED = "QUEUED"
    UPLOADING = "UPLOADING"
    PROCESSING = "PROCESSING"
    ACTIVE = "ACTIVE"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in _ENDS


_ENDS = frozenset({Stage.ACTIVE, Stage.FAILED, Stage.TIMED_OUT, Stage.CANCELLED})


class Copy(StrEnum):
    """What is left of an upload at the provider."""

    NONE = "none"
    PRESENT = "present"
    DELETED = "deleted"


#: Longer waits than this are no policy but a slip: files are kept for two days.
_LONGEST_S: Final = 30 * 86_400.0


def _positive(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError("must be a positive, finite number of seconds")
    return _not_endless(value)


def _not_endless(value: float) -> float:
    if value > _LONGEST_S:
        raise ValueError("must be at most 30 days, in seconds")
    return value


def _not_negative(value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError("must be zero or a positive, finite number of seconds")
    return _not_endless(value)


def _growing(value: float) -> float:
    if not (math.isfinite(value) and value >= 1):
        raise ValueError("must be a finite number of at least 1")
    return value


def _mime_type(value: str) -> str:
    bare = value.split(";")[0].strip()  # the provider refuses parameters such as charset
    if not _MIME_TYPE.fullmatch(bare):
        raise ValueError("is not a MIME type; write it as type/subtype, for example video/mp4")
    return bare.lower()


def _display_name(value: str) -> str:
    if len(value) > protocol.MAX_DISPLAY_NAME:
        raise ValueError(
            f"has {len(value)} characters; the provider takes at most {protocol.MAX_DISPLAY_NAME}"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone surrogate), which is not text") from None
    return value


def _without_credential(value: str) -> str:
    if locations.credential(value) is not None:
        raise ValueError("holds user info or a query; those stay out of messages")
    return value


PositiveSeconds = Annotated[float, AfterValidator(_positive)]


#: How long to wait for ACTIVE, and how often to poll, unless a call says otherwise.
TIMEOUT_S: Final = 120.0
POLL_S: Final = 2.0
MAX_POLL_S: Final = 10.0
BACKOFF_FACTOR: Final = 1.5
JITTER_S: Final = 0.2


class PollPolicy(Record):
    """How long to wait for ACTIVE, and how often to poll.

    ``timeout_s`` runs from the moment the provider has all bytes; waiting in the queue and
    sending do not count. ``max_poll_s=None`` lifts the cap on the time between polls.
    """

    timeout_s: PositiveSeconds = TIMEOUT_S
    poll_s: PositiveSeconds = POLL_S
    max_poll_s: PositiveSeconds | None = MAX_POLL_S
    backoff_factor: Annotated[float, AfterValidator(_growing)] = BACKOFF_FACTOR
    jitter_s: Annotated[float, AfterValidator(_not_negative)] = JITTER_S

    @property
    def backoff(self) -> Backoff:
        """The waits between polls."""
        return Backoff(self.poll_s, self.backoff_factor, self.max_poll_s, self.jitter_s)


#: Which of our finished files may be deleted to free storage for an upload.
Evict = Literal["oldest"]


class UploadRequest(Record):
    """One file to upload: the payload of ``provider_uploads.upload``. It never holds a secret.

    ``source`` is a path or a URL, the latter without user info and query: where there are such,
    the whole URL is in the ledger. ``size_bytes`` is None for what only the worker can open.
    ``reuse`` lets uploads of the same bytes share a file; ``evict`` says which files of ours go
    when the storage is full.
    """

    model_config = ConfigDict(populate_by_name=True)

    version: Literal[1, 2] = 1
    upload_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    source: Annotated[str, Field(min_length=1), AfterValidator(_without_credential)]
    display_name: Annotated[str, AfterValidator(_display_name)]
    mime_type: Annotated[str, AfterValidator(_mime_type)]
    size_bytes: Annotated[int, Field(ge=0)] | None
    profile: ProfileName = DEFAULT_PROFILE
    #: In messages: ``patience``.
    poll_policy: PollPolicy = Field(default=PollPolicy(), alias="patience")
    cleanup_on_timeout: bool = True
    reuse: bool = False
    evict: Evict | None = None
    #: Whether the outbox holds somebody to tell of its end; since version 2.
    notify: bool = False

    @model_validator(mode="after")
    def _stages_its_own(self) -> Self:
        if self.staged and locations.staged_id(self.source) != self.upload_id:
            raise ValueError("names a staged copy of another upload")
        return self

    @property
    def staged(self) -> bool:
        """Whether the source is a copy that was made for this upload, and ends with it."""
        return locations.scheme_of(self.source) == locations.STAGED

    @classmethod
    def read(cls, payload: dict[str, Any]) -> Self:
        """Return the request in ``payload``; raises what ``received`` raises."""
        return received(cls, payload)

    def to_payload(self) -> dict[str, Any]:
        """Return the request as it travels in messages."""
        return self.model_dump(mode="json", by_alias=True, exclude=self._unused)

    def to_json(self) -> str:
        """Return the request as the ledger keeps it."""
        return self.model_dump_json(by_alias=True, exclude=self._unused)

    @property
    def _unused(self) -> set[str]:
        """What a reader of version 1 does not know, and need not."""
        return set() if self.notify else {"notify"}


class ProviderFile(Record):
    """A file as the provider describes it.

    ``provider`` is whose it is: ``google``, or another one behind a gateway.
    ``sha256`` is lowercase hex; ``source`` is UPLOADED, GENERATED or REGISTERED; ``video`` is the
    service's ``videoMetadata``, such as ``{"videoDuration": "596s"}``. None is "not given".
    """

    name: str
    uri: str
    state: str
    mime_type: str
    size_bytes: int
    display_name: str | None = None
    sha256: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    source: str | None = None
    video: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    provider: str = "google"

    @property
    def failed(self) -> bool:
        """Whether it never will be ACTIVE."""
        return self.state in {"FAILED", "ERROR", "CANCELLED"}

    def updated(self, later: ProviderFile) -> ProviderFile:
        """Return ``later`` with what it leaves out: answers to a poll may say less.

        The hash verified at upload stays.
        """
        return later.model_copy(
            update={
                "uri": later.uri or self.uri,
                "mime_type": later.mime_type or self.mime_type,
                "sha256": self.sha256 or later.sha256,
            }
        )


class UploadResult(Record):
    """An ACTIVE file, ready to be used: pass ``uri`` and ``mime_type`` to ``generate_content``.

    A provider behind a gateway may give no ``uri``; there the ``id`` is what its calls take.

    ``id`` is the provider's name (``files/…``), which get and delete take; times are seconds.
    ``reused`` says that another upload had sent these bytes.
    """

    # Defaults for a test of yours that builds one; the library fills all of them.
    ticket: str = ""
    provider: str = "google"
    id: str
    uri: str
    state: str = "ACTIVE"
    mime_type: str
    size_bytes: int = 0
    sha256: str | None = None
    display_name: str = ""
    expires_at: datetime | None = None
    polls: int = 0
    queued_s: float = 0.0
    upload_s: float = 0.0
    processing_s: float = 0.0
    reused: bool = False


class UploadStatus(Record):
    """What is known about an upload right now.

    ``queued_s``, ``upload_s`` and ``processing_s`` are seconds in each step, so far or in all;
    ``error`` is ``{"type", "args", "message"}``; ``note`` says what it waits for, if anything.
    ``size_bytes`` is None as long as no worker has opened the source.
    """

    ticket: str
    stage: Stage
    source: str
    display_name: str
    mime_type: str
    size_bytes: int | None
    profile: str = DEFAULT_PROFILE
    sent_bytes: int = 0
    polls: int = 0
    queued_s: float = 0.0
    upload_s: float = 0.0
    processing_s: float = 0.0
    id: str | None = None
    uri: str | None = None
    expires_at: datetime | None = None
    copy_at_provider: Copy = Copy.NONE
    reused: bool = False
    note: str | None = None
    error: dict[str, Any] | None = None
    owner: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    deliveries: tuple[Delivery, ...] = ()
