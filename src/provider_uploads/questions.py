"""Questions over files: what is asked, and what came of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field

from provider_uploads import errors
from provider_uploads.profiles import DEFAULT_PROFILE, ProfileName
from provider_uploads.schemas import ModelName, Record, UploadResult, UploadStatus, checked

#: The quickstart's model.
DEFAULT_MODEL: Final = "gemini-3-flash-preview"

_RESERVED = frozenset({"http_options", "httpOptions"})


class Question(Record):
    """What to ask a model about uploads that may still be on their way.

    ``config`` holds fields of google-genai's ``GenerateContentConfig``, such as
    ``{"temperature": 0}``.
    """

    version: Literal[1, 2] = 1
    question_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    prompt: Annotated[str, Field(min_length=1)]
    model: ModelName = DEFAULT_MODEL
    profile: ProfileName = DEFAULT_PROFILE
    uploads: tuple[str, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict)
    #: Whether the outbox holds somebody to tell of its end; since version 2.
    notify: bool = False

    def to_json(self) -> str:
        """Return the question as Redis keeps it; what version 1 does not know only where used."""
        return self.model_dump_json(exclude=set() if self.notify else {"notify"})


class Attachment(Record):
    """An ACTIVE file as a part of a prompt; the label, if any, stands before it."""

    name: str
    uri: str
    mime_type: str
    label: str | None = None
    expires_at: datetime | None = None

    @classmethod
    def of(cls, upload: UploadStatus | UploadResult, *, labelled: bool) -> Self:
        """Return the file of an upload that has ended well."""
        return cls(
            name=upload.id or "",
            uri=upload.uri or "",
            mime_type=upload.mime_type,
            label=f"<<<File: {upload.display_name}>>>" if labelled else None,
            expires_at=upload.expires_at,
        )


def attachments(uploads: Sequence[UploadStatus | UploadResult]) -> list[Attachment]:
    """Return the files as parts of one prompt: of several, each comes after its name."""
    return [Attachment.of(upload, labelled=len(uploads) > 1) for upload in uploads]


class Answer(Record):
    """What a model said; tokens as the provider counts them for its bill."""

    ticket: str
    model: str
    text: str
    finish_reason: str
    files: int
    prompt_tokens: int
    answer_tokens: int
    thought_tokens: int
    total_tokens: int


def question_for(
    prompt: str,
    uploads: Sequence[str],
    model: str = DEFAULT_MODEL,
    profile: str = DEFAULT_PROFILE,
    config: dict[str, Any] | None = None,
    *,
    notify: bool = False,
) -> Question:
    """Return a new question over uploads, with a new id; raises InvalidRequestError."""
    return checked(
        Question,
        {
            "version": 2 if notify else 1,
            "notify": notify,
            "question_id": uuid.uuid4().hex,
            "prompt": prompt,
            "model": model,
            "profile": profile,
            "uploads": tuple(uploads),
            "config": checked_config(config or {}),
        },
    )


def checked_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return ``config`` if it may travel; raises InvalidRequestError."""
    if _RESERVED & set(config):
        raise errors.InvalidRequestError(
            "config", repr(sorted(_RESERVED & set(config))), "are the worker's; use a profile"
        )
    try:
        json.dumps(config)
    except (TypeError, ValueError) as error:
        raise errors.InvalidRequestError(
            "config", type(config).__name__, f"must be JSON: {error}"
        ) from None
    return config
