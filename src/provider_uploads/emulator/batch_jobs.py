"""One batch: what was asked for, how far it has come, and its Operation as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from provider_uploads.emulator.batch_lines import BatchLine, Dialect
from provider_uploads.emulator.batch_orders import FAILED, BatchFate
from provider_uploads.emulator.cached_contents import CachedContents
from provider_uploads.emulator.config import rfc3339
from provider_uploads.emulator.files import FileStore, StoredFile

_TYPES = "type.googleapis.com/google.ai.generativelanguage.v1main."

CANCELLED = "BATCH_STATE_CANCELLED"
EXPIRED = "BATCH_STATE_EXPIRED"
# States that end a job without any results.
WITHOUT_RESULTS = {FAILED, CANCELLED, EXPIRED}


class Phase(StrEnum):
    """Where a job stands, whatever its state is called."""

    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class WebhookConfig:
    """Where the end of a job is to be told instead of at the project's webhooks."""

    uris: tuple[str, ...] = ()
    user_metadata: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Where jobs are done: a provider with its files, its lines, and its way to name jobs.

    With ``all_in_files`` the answers to inline requests become a file too.
    """

    provider: str
    files: FileStore
    caches: CachedContents
    dialect: Dialect
    new_id: Callable[[], str]
    output_id: Callable[[str], str]
    all_in_files: bool = False


@dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """What was asked for: requests from a file, or those given inline."""

    model: str
    display_name: str | None = None
    input_file: StoredFile | None = None
    inline: tuple[BatchLine, ...] = ()
    priority: int | None = None
    webhook: WebhookConfig | None = None
    backend: Backend = field(repr=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """What an order or a fault may be aimed at."""
        named = () if self.input_file is None else self.input_file.labels
        given = (f"models/{self.model}", self.display_name, *named)
        return tuple(label for label in given if label)


@dataclass(kw_only=True)
class BatchJob:
    """A job; the store moves it on as time passes."""

    batch_id: str
    owner: str = field(repr=False)
    spec: BatchSpec
    fate: BatchFate
    create_ns: int
    expire_ns: int
    sequence: int
    requests: int
    tokens: int = 0  # those of its requests once it has started, where they are limited
    pending_ns: int
    running_ns: int
    phase: Phase = Phase.PENDING
    state: str = "BATCH_STATE_PENDING"
    start_ns: int | None = None
    cancel_ns: int | None = None
    end_ns: int | None = None
    error: dict[str, Any] | None = None
    succeeded: int = 0
    failed: int = 0
    work: Iterator[None] | None = field(default=None, repr=False)  # until all is answered
    inline_output: list[dict[str, Any]] | None = None
    output_path: Path | None = None
    output_file: str | None = None  # its id
    deleted: bool = False

    @property
    def name(self) -> str:
        """``batches/<id>``, whatever the provider's own spelling is."""
        return f"batches/{self.batch_id}"

    @property
    def labels(self) -> tuple[str, ...]:
        """What a fault may be aimed at."""
        return (self.name, *self.spec.labels)

    def belongs_to(self, owner: str, backend: Backend) -> bool:
        """Is it a job of that key, at that provider?"""
        return self.owner == owner and self.spec.backend == backend

    @property
    def ended(self) -> bool:
        """Is it over?"""
        return self.phase is Phase.ENDED

    @property
    def update_ns(self) -> int:
        """When something was last seen to change."""
        return self.end_ns or self.cancel_ns or self.start_ns or self.create_ns

    def counts(self, now_ns: int) -> dict[str, int]:
        """How many requests there are, wait, succeeded, failed; while it runs, evenly over time."""
        succeeded, failed = self.succeeded, self.failed
        if self.phase is not Phase.ENDED:
            passed_ns = 0 if self.start_ns is None else now_ns - self.start_ns
            share = min(1.0, passed_ns / self.running_ns) if self.running_ns else 0.0
            if self.fate.stuck == "running":
                share = min(share, 0.5)
            succeeded, failed = int(succeeded * share), int(failed * share)
        elif self.state in WITHOUT_RESULTS:
            succeeded, failed = 0, 0
        return {
            "requestCount": self.requests,
            "pendingRequestCount": self.requests - succeeded - failed,
            "successfulRequestCount": succeeded,
            "failedRequestCount": failed,
        }

    def output(self) -> dict[str, Any] | None:
        """Where the answers are, or the answers; None while there are none."""
        if self.output_file is not None:
            return {"responsesFile": f"files/{self.output_file}"}
        if self.phase is Phase.ENDED and self.inline_output is not None:
            return {"inlinedResponses": {"inlinedResponses": self.inline_output}}
        return None

    def operation(self, now_ns: int) -> dict[str, Any]:
        """The job as the service shows it: a long-running operation. Zero counts are left out."""
        spec, output = self.spec, self.output()
        metadata: dict[str, Any] = {
            "@type": f"{_TYPES}GenerateContentBatch",
            "model": f"models/{spec.model}",
        }
        if spec.display_name is not None:
            metadata["displayName"] = spec.display_name
        if spec.input_file is not None:
            metadata["inputConfig"] = {"fileName": spec.input_file.name}
        metadata["createTime"] = rfc3339(self.create_ns, fraction_digits=9)
        if self.end_ns is not None:
            metadata["endTime"] = rfc3339(self.end_ns, fraction_digits=9)
        metadata["updateTime"] = rfc3339(self.update_ns, fraction_digits=9)
        metadata["batchStats"] = {
            name: str(count) for name, count in self.counts(now_ns).items() if count
        }
        metadata["state"] = self.state
        metadata["name"] = self.name
        if spec.priority is not None:
            metadata["priority"] = str(spec.priority)
        if output is not None:
            metadata["output"] = output
        operation: dict[str, Any] = {"name": self.name, "metadata": metadata}
        if self.ended:
            operation["done"] = True
        if self.error is not None:
            operation["error"] = self.error
        elif output is not None:
            operation["response"] = {"@type": f"{_TYPES}GenerateContentBatchOutput", **output}
        return operation

    def json(self, now_ns: int) -> dict[str, Any]:
        """The job for the control endpoints, without its owner's key."""
        return {
            "name": self.name,
            "provider": self.spec.backend.provider,
            "model": self.spec.model,
            "display_name": self.spec.display_name,
            "input_file": None if self.spec.input_file is None else self.spec.input_file.name,
            "phase": str(self.phase),
            "state": self.state,
            "error": self.error,
            "output_file": self.output_file,
            "deleted": self.deleted,
            "create_time": rfc3339(self.create_ns),
            **self.counts(now_ns),
        }
