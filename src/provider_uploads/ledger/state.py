"""One upload's state as the ledger has it, and what may be done about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self, cast

from pydantic import ConfigDict, Field

from provider_uploads import errors, protocol
from provider_uploads.ledger.encryption import decrypted
from provider_uploads.schemas import (
    Copy,
    Delivery,
    ProviderFile,
    Record,
    Stage,
    UploadRequest,
    UploadResult,
    UploadStatus,
    stored,
)


class ClaimResult(StrEnum):
    """What a delivery of a message may do."""

    GO = "go"
    #: The work is done and recorded, but its result may not have been published: publish it again.
    ANSWER = "answer"
    #: A copy of a message that is being handled: end quietly.
    STALE = "stale"


def copy_wanted(stage: str, *, released: bool, cleanup_on_timeout: bool) -> bool:
    """Whether the provider is to keep an upload's file.

    It is while the upload lives and once it is ACTIVE, until its user releases it; of an upload
    that failed or timed out, only with ``cleanup_on_timeout=False``; of a cancelled one, never.
    """
    if released or stage == Stage.CANCELLED:
        return False
    failed = stage in (Stage.FAILED, Stage.TIMED_OUT)
    return not (failed and cleanup_on_timeout)


class UploadState(Record):
    """An upload as the ledger has it; times are seconds since the epoch on Redis's clock."""

    # An error about a row must not print it: it holds the session URL. An alias is the name of the
    # field in Redis, where it differs.
    model_config = ConfigDict(hide_input_in_errors=True, populate_by_name=True)

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
    source_fingerprint: str | None = Field(default=None, alias="source_mark")
    sent_bytes: int = 0
    #: The sha256 of the source, where the file is to be shared.
    content: str | None = None
    #: Whether the file is another upload's.
    reused: bool = False
    #: The last poll that a message claimed: its attempt number and delivery tag.
    claimed_poll: int = Field(default=-1, alias="look")
    delivery_tag: str | None = Field(default=None, alias="tag")
    polls: int = 0
    file: ProviderFile | None = None
    copy_at_provider: Copy = Copy.NONE
    error: dict[str, Any] | None = None
    note: str | None = None
    #: Whose upload it is, and what else its submitter says of it.
    owner: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    failed_attempts: int = Field(default=0, alias="stumbles")
    queued_at: float = 0.0
    upload_at: float | None = None
    processing_at: float | None = None
    deadline_at: float | None = None
    ended_at: float | None = None
    #: When its user released the file.
    released_at: float | None = Field(default=None, alias="let_go_at")

    @classmethod
    def of(cls, ticket: str, fields: Mapping[str, str]) -> Self:
        """Return the row that a Redis hash holds of an upload.

        Raises NewerRowError where only a newer version can read it, UnreadableStateError where
        nobody can.
        """
        values: dict[str, Any] = dict(fields)
        subject = f"upload {ticket}"
        try:
            for field in ("request", "file", "error", "tags"):
                if field in values:
                    values[field] = json.loads(values[field])
            values["request"] = UploadRequest.read(values["request"])
        except errors.NewerPayloadError as error:
            raise errors.NewerRowError(subject, f"version {error.payload_version}") from None
        except (errors.InvalidRequestError, ValueError, KeyError, AttributeError) as error:
            problem = f"{type(error).__name__} in its request or another field"
            raise errors.UnreadableStateError(subject, problem) from None
        return stored(cls, subject, values)

    @classmethod
    def seen(cls, ticket: str, fields: Mapping[str, str]) -> Self:
        """Return the row as ``of`` does, for showing it: fields of a newer version are left out."""
        known = {one.alias or name for name, one in cls.model_fields.items()}
        return cls.of(ticket, {name: value for name, value in fields.items() if name in known})

    def claim_upload(self) -> ClaimResult:
        """Say what a delivery of the upload's message may do.

        Until a poll is claimed, the message that asks for it may never have been published: the
        stored answer is given again. A fence by stage alone would lose the work of a worker that
        died between the ledger's write and Celery's publication.
        """
        if self.stage in (Stage.QUEUED, Stage.UPLOADING):
            return ClaimResult.GO
        return ClaimResult.ANSWER if self.claimed_poll < 0 else ClaimResult.STALE

    @property
    def copy_wanted(self) -> bool:
        """Whether the provider is to keep its file; see the function of this name."""
        return copy_wanted(
            self.stage,
            released=self.released_at is not None,
            cleanup_on_timeout=self.request.cleanup_on_timeout,
        )

    @property
    def location(self) -> str:
        """What to open. It may hold a credential: show ``request.source`` instead."""
        return decrypted(self.source_url) if self.source_url else self.request.source

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
            protocol.file_name(self.request.upload_id, generation)
            for generation in range(self.generation + 1)
        ]
        return ours if self.file is None or self.file.name in ours else [self.file.name, *ours]

    @property
    def name(self) -> str:
        """The provider's name for this generation."""
        return protocol.file_name(self.request.upload_id, self.generation)

    def activated(self, file: ProviderFile, at: float, *, reused: bool = False) -> Self:
        """Return the state of this upload once it ended well with ``file``: the only way there.

        ``reused`` says that another upload sent the file.
        """
        changes: dict[str, Any] = {"stage": Stage.ACTIVE, "file": file, "ended_at": at}
        if reused:
            changes |= {"sent_bytes": 0, "reused": True}
        else:
            changes["processing_at"] = self.processing_at or at
        return self.model_copy(update=changes)

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

    def status(self, now: float, deliveries: tuple[Delivery, ...] = ()) -> UploadStatus:
        """Return what a user may see; ``deliveries`` say who was told of the end."""
        request = self.request
        gone = self.copy_at_provider is Copy.DELETED
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
            # Nobody can use what is gone.
            uri=self.file.uri if self.file and not gone else None,
            expires_at=self.file.expires_at if self.file and not gone else None,
            copy_at_provider=self.copy_at_provider,
            reused=self.reused,
            note=self.note,
            error=self.error,
            owner=self.owner,
            tags=self.tags,
            deliveries=deliveries,
            **self.seconds(now),
        )


def _span(begin: float, end: float) -> float:
    return round(max(end - begin, 0.0), 3)
