"""A batch, from its request to its result."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field

from provider_uploads import protocol
from provider_uploads.profiles import DEFAULT_PROFILE, ProfileName
from provider_uploads.schemas.base import ModelName, Record, received
from provider_uploads.schemas.notifications import Delivery
from provider_uploads.schemas.uploads import PositiveSeconds, _display_name, _without_credential

#: How long one job may take: 24 h after the service's own target is missed, which is also when the
#: Gemini service lets a job expire.
DEADLINE_S: Final = float(protocol.BATCH_TARGET_S + 24 * 3600)

_PREFIXES = ("JOB_STATE_", "BATCH_STATE_")
#: What gateways and the providers behind them call a state.
_OTHER_WORDS = {
    "": "UNSPECIFIED",
    "VALIDATING": "QUEUED",
    "IN_PROGRESS": "RUNNING",
    "FINALIZING": "RUNNING",
    "COMPLETED": "SUCCEEDED",
    "ENDED": "SUCCEEDED",
    "CANCELED": "CANCELLED",
    "CANCELING": "CANCELLING",
}

#: The states of a job that are ends, and those of them that come with results.
ENDED_STATES: Final = frozenset(
    {"SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"}
)
#: RESOURCE_EXHAUSTED, as google.rpc.Code and as HTTP number it.
_NO_ROOM = (8, 429)
GOOD_STATES: Final = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED"})


def job_state(text: str | None) -> str:
    """Return a job's state in one spelling: ``RUNNING``; a word nobody knows stays as it is."""
    word = (text or "").upper()
    for prefix in _PREFIXES:
        word = word.removeprefix(prefix)
    return _OTHER_WORDS.get(word, word)


class BatchStage(StrEnum):
    """Where a batch is. The last four are ends."""

    #: Waits for a worker, for its files, or for room among the jobs at the provider.
    QUEUED = "QUEUED"
    #: Its jobs are at the provider.
    RUNNING = "RUNNING"
    #: Its results are being fetched.
    COLLECTING = "COLLECTING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in _ENDS


_ENDS = frozenset(
    {BatchStage.SUCCEEDED, BatchStage.FAILED, BatchStage.TIMED_OUT, BatchStage.CANCELLED}
)

#: What to do with a job that has no results at its deadline, or that the service let expire.
OnDeadline = Literal["wait", "cancel", "resubmit"]


def _model(value: str) -> str:
    return value.removeprefix("models/")


class BatchRequest(Record):
    """Many requests to one model: what ``provider_uploads.create_batch`` reads from the ledger.

    ``source`` is the path or URL of the input, None when the requests are kept in the ledger.
    ``results`` is where a worker writes the results: a path or an fsspec URL that ends in
    ``.jsonl`` or ``.parquet``. After ``deadline_s`` seconds a job is dealt with as ``on_deadline``
    says; ``resubmit`` sends what has no answer again in ``parts``, up to ``resubmissions`` times.
    """

    version: Literal[1, 2] = 1
    batch_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    model: Annotated[ModelName, AfterValidator(_model)]
    profile: ProfileName = DEFAULT_PROFILE
    display_name: Annotated[str, AfterValidator(_display_name)] = ""
    source: Annotated[str, Field(min_length=1), AfterValidator(_without_credential)] | None = None
    results: Annotated[str, Field(min_length=1), AfterValidator(_without_credential)] | None = None
    deadline_s: PositiveSeconds = DEADLINE_S
    on_deadline: OnDeadline = "wait"
    parts: Annotated[int, Field(ge=1, le=100)] = 2
    resubmissions: Annotated[int, Field(ge=0, le=20)] = 2
    #: Whether job, input and output are deleted at the provider once the results are here.
    cleanup: bool = True
    #: Whether fields of a request that are not known here are refused.
    check_fields: bool = True
    #: Whether the outbox holds somebody to tell of its end.
    notify: bool = False

    @classmethod
    def read(cls, payload: dict[str, Any]) -> Self:
        """Return the request in ``payload``; raises what ``received`` raises."""
        return received(cls, payload)

    def to_json(self) -> str:
        """Return the request as the ledger keeps it."""
        return self.model_dump_json()


class BatchCounts(Record):
    """How many requests, and what became of them so far."""

    requests: int = 0
    succeeded: int = 0
    failed: int = 0

    def __add__(self, other: BatchCounts) -> BatchCounts:
        """Return the counts of both together."""
        return BatchCounts(
            requests=self.requests + other.requests,
            succeeded=self.succeeded + other.succeeded,
            failed=self.failed + other.failed,
        )


class BatchJob(Record):
    """A job as the provider describes it.

    ``state`` is in one spelling for all providers (``job_state``); ``error`` is the service's own
    object; ``output_file`` is the file that holds its answers, ``inlined`` says that the job
    itself does. None is "not given".
    """

    name: str
    state: str
    display_name: str | None = None
    model: str | None = None
    input_file: str | None = None
    output_file: str | None = None
    inlined: bool = False
    done: bool = False
    counts: BatchCounts = BatchCounts()
    error: dict[str, Any] | None = None
    created_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen; an unknown state with ``done`` is an end too."""
        return self.state in ENDED_STATES or self.done

    @property
    def has_answers(self) -> bool:
        """Whether there is anything to collect."""
        return self.output_file is not None or self.inlined


class JobPart(Record):
    """One job of a batch, in the ledger: which lines of the input it is for, and how it fares.

    ``number`` counts all jobs of the batch; lines ``start`` to ``end`` (from 0, end excluded)
    without those that an earlier job answered. ``generation`` counts the names it was created
    under; ``attempt`` the submissions of its lines; ``refusals`` how often the service took them
    and then had no room for their tokens.
    """

    number: int
    start: int
    end: int
    attempt: int = 1
    generation: int = 0
    refusals: int = 0
    #: Seconds since the epoch: since when a create may be under way; when the job was created.
    creating_at: float | None = None
    created_at: float | None = None
    name: str | None = None
    state: str = "NEW"
    #: The upload that carries its input, where that goes by file.
    input_ticket: str | None = None
    input_file: str | None = None
    output_file: str | None = None
    inlined: bool = False
    counts: BatchCounts = BatchCounts()
    error: dict[str, Any] | None = None
    #: When it was given up at its deadline, and cancelled.
    given_up_at: float | None = None
    #: Whether later jobs are for the lines that it did not answer.
    replaced: bool = False

    @property
    def refused(self) -> bool:
        """Whether it failed because the account's enqueued tokens are taken: it may be again."""
        error = self.error or {}
        full = error.get("code") in _NO_ROOM or error.get("status") == "RESOURCE_EXHAUSTED"
        return self.state == "FAILED" and full and not self.has_answers

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in ENDED_STATES or self.state == "GONE"

    @property
    def has_answers(self) -> bool:
        """Whether there is anything to collect."""
        return self.output_file is not None or self.inlined


class BatchAnswer(NamedTuple):
    """What came of one request: either ``response`` or ``error`` is None."""

    key: str
    response: dict[str, Any] | None
    error: dict[str, Any] | None


class BatchResult(Record):
    """A batch that ended well, also if some of its requests failed.

    ``failed_keys`` are the keys of failed requests, the first thousand of them; ``place`` is where
    a worker has written the results, None when they are in the ledger; ``jobs`` are the names at
    the provider.
    """

    ticket: str
    state: str = "SUCCEEDED"
    model: str = ""
    counts: BatchCounts = BatchCounts()
    failed_keys: tuple[str, ...] = ()
    place: str | None = None
    jobs: tuple[str, ...] = ()
    #: Whether the answers are here; a gateway may not give them, and then ``outputs`` names the
    #: files that hold them at the provider.
    answers: bool = True
    outputs: tuple[str, ...] = ()
    provider: str = "google"
    queued_s: float = 0.0
    running_s: float = 0.0


class BatchStatus(Record):
    """What is known about a batch right now.

    ``state`` is the word of the provider for the job that is furthest behind; ``note`` says what it
    waits for, if anything; ``error`` is ``{"type", "args", "message"}``.
    """

    ticket: str
    stage: BatchStage
    state: str | None = None
    model: str
    profile: str = DEFAULT_PROFILE
    display_name: str = ""
    source: str | None = None
    counts: BatchCounts = BatchCounts()
    jobs: tuple[str, ...] = ()
    attempt: int = 1
    tokens: int | None = None
    polls: int = 0
    queued_s: float = 0.0
    running_s: float = 0.0
    deadline_at: datetime | None = None
    place: str | None = None
    #: What is left at the provider: none, present, deleted.
    at_provider: str = "none"
    note: str | None = None
    error: dict[str, Any] | None = None
    deliveries: tuple[Delivery, ...] = ()
