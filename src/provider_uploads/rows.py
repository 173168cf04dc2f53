"""One upload as the ledger has it, and what may be done about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self, cast

from pydantic import ConfigDict, Field

from provider_uploads import contract, errors
from provider_uploads.records import (
    Copy,
    ProviderFile,
    Record,
    Stage,
    UploadRequest,
    UploadResult,
    UploadStatus,
)


class Verdict(StrEnum):
    """What a delivery of a message may do."""

    GO = "go"
    #: The work is done and written down, but its publication may be lost: publish it again.
    ANSWER = "answer"
    #: A copy whose living twin goes on: end quietly.
    STALE = "stale"


class Row(Record):
    """An upload as the ledger has it; times are seconds since the epoch on Redis's clock."""

    # A complaint about a row must not print it: it holds the session URL.
    model_config = ConfigDict(hide_input_in_errors=True)

    request: UploadRequest
    stage: Stage
    generation: int = 0
    #: A credential: it never leaves the ledger.
    session_url: str | None = Field(default=None, repr=False)
    #: The whole URL of a source, where it holds a credential: it never leaves the ledger either.
    source_url: str | None = Field(default=None, repr=False)
    #: The source's size as the worker found it.
    size_bytes: int | None = None
    #: The source's version as the first attempt found it.
    source_mark: str | None = None
    sent_bytes: int = 0
    #: The sha256 of the source, where the file is to be shared.
    content: str | None = None
    #: Whether the file is another upload's.
    reused: bool = False
    look: int = -1
    tag: str | None = None
    polls: int = 0
    file: ProviderFile | None = None
    copy_at_provider: Copy = Copy.NONE
    error: dict[str, Any] | None = None
    note: str | None = None
    stumbles: int = 0
    queued_at: float = 0.0
    upload_at: float | None = None
    processing_at: float | None = None
    deadline_at: float | None = None
    ended_at: float | None = None
    #: When its user had it deleted.
    let_go_at: float | None = None

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Self:
        """Return the row that a Redis hash holds; raises NewerPayloadError if we cannot read it."""
        values: dict[str, Any] = dict(fields)
        for field in ("request", "file", "error"):
            if field in values:
                values[field] = json.loads(values[field])
        values["request"] = UploadRequest.read(values["request"])
        return cls.model_validate(values)

    def claim_upload(self) -> Verdict:
        """Say what a delivery of the upload's message may do.

        Until a look is taken, the message that asks for it may never have been published: the
        stored answer is given again. A fence by stage alone would lose the work of a worker that
        died between this ledger's write and Celery's publication.
        """
        if self.stage in (Stage.QUEUED, Stage.UPLOADING):
            return Verdict.GO
        return Verdict.ANSWER if self.look < 0 else Verdict.STALE

    @property
    def location(self) -> str:
        """What to open. It may hold a credential: show ``request.source`` instead."""
        return self.source_url or self.request.source

    @property
    def expected_bytes(self) -> int | None:
        """The source's size as submitted, else as the first attempt found it; None before that."""
        return self.size_bytes if self.request.size_bytes is None else self.request.size_bytes

    @property
    def names(self) -> list[str]:
        """The provider's names of all generations so far, and the one it chose itself.

        Of a file that was taken from another upload, that one.
        """
        if self.reused and self.file is not None:
            return [self.file.name]
        ours = [
            contract.file_name(self.request.upload_id, generation)
            for generation in range(self.generation + 1)
        ]
        return ours if self.file is None or self.file.name in ours else [self.file.name, *ours]

    @property
    def name(self) -> str:
        """The provider's name for this generation."""
        return contract.file_name(self.request.upload_id, self.generation)

    def seconds(self, now: float) -> dict[str, float]:
        """Return the seconds spent in each step, so far or in all."""
        end = self.ended_at or now
        bytes_done = self.processing_at or end
        begun = self.upload_at or end
        return {
            "queued_s": _span(self.queued_at, begun),
            "upload_s": _span(begun, bytes_done),
            "processing_s": _span(bytes_done, end),
        }

    def result(self) -> UploadResult:
        """Return an ACTIVE row's result."""
        file = cast(ProviderFile, self.file)
        return UploadResult(
            ticket=self.request.upload_id,
            provider=file.provider,
            id=file.name,
            uri=file.uri,
            state=file.state,
            mime_type=file.mime_type,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            display_name=self.request.display_name,
            expires_at=file.expires_at,
            polls=self.polls,
            reused=self.reused,
            **self.seconds(self.ended_at or 0.0),
        )

    def failure(self) -> errors.ProviderUploadsError:
        """Return the error an ended row holds, as the class that was raised."""
        record = self.error or {"type": "UnexpectedError", "args": [self.stage, "no error stored"]}
        return errors.from_record(record)

    def status(self, now: float) -> UploadStatus:
        """Return what a user may see."""
        request = self.request
        return UploadStatus(
            ticket=request.upload_id,
            stage=self.stage,
            source=request.source,
            display_name=request.display_name,
            mime_type=request.mime_type,
            size_bytes=self.expected_bytes,
            profile=request.profile,
            sent_bytes=self.sent_bytes,
            polls=self.polls,
            id=self.file.name if self.file else None,
            uri=self.file.uri if self.file else None,
            expires_at=self.file.expires_at if self.file else None,
            copy_at_provider=self.copy_at_provider,
            reused=self.reused,
            note=self.note,
            error=self.error,
            **self.seconds(now),
        )


def _span(begin: float, end: float) -> float:
    return round(max(end - begin, 0.0), 3)
