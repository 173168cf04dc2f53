"""Questions over files: what is asked, what came of it, and where both are kept.

A question is a Redis hash under ``provider_uploads:question:<id>``. It names the uploads it waits
for by their tickets; their rows say when the files are ACTIVE.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field

from provider_uploads import contract, errors
from provider_uploads.ledger import ROW_KEPT_S, Ledger
from provider_uploads.profiles import DEFAULT_PROFILE, ProfileName
from provider_uploads.records import Record, UploadResult, UploadStatus, received

#: The quickstart's model.
DEFAULT_MODEL: Final = "gemini-3-flash-preview"

#: The questions without an end, by the time somebody last took care of them.
OPEN_KEY: Final = f"{contract.KEY_PREFIX}open_questions"

_OURS = frozenset({"http_options", "httpOptions"})


class Question(Record):
    """What to ask a model about uploads that may still be on their way.

    ``config`` holds fields of google-genai's ``GenerateContentConfig``, such as
    ``{"temperature": 0}``.
    """

    version: Literal[1] = contract.PAYLOAD_VERSION
    question_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    prompt: Annotated[str, Field(min_length=1)]
    model: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)*$")] = DEFAULT_MODEL
    profile: ProfileName = DEFAULT_PROFILE
    uploads: tuple[str, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict)


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


class Questions:
    """The questions in a ledger's Redis; raises QueueUnavailableError as the ledger does."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def open(self, question: Question) -> None:
        """Write a question down."""
        key = _key(question.question_id)
        with self._ledger.reached(), self._ledger.redis.pipeline() as pipe:
            pipe.hset(key, "question", question.model_dump_json())
            pipe.expire(key, ROW_KEPT_S)
            pipe.zadd(OPEN_KEY, {question.question_id: time.time()})
            pipe.execute()

    def read(self, ticket: str) -> tuple[Question, Answer | None]:
        """Return a question and its answer, if there is one by now.

        Raises UnknownTicketError, NewerPayloadError, or what ended it without an answer.
        """
        with self._ledger.reached():
            fields = self._ledger.redis.hgetall(_key(ticket))
        if "question" not in fields:
            raise errors.UnknownTicketError(ticket)
        if "error" in fields:
            raise errors.from_record(json.loads(fields["error"]))
        answer = fields.get("answer")
        return (
            received(Question, json.loads(fields["question"])),
            Answer.model_validate_json(answer) if answer else None,
        )

    def profile_of(self, ticket: str) -> str:
        """Return whose account a question is for; of one that nobody knows, the default."""
        with self._ledger.reached():
            question = self._ledger.redis.hget(_key(ticket), "question")
        return str(json.loads(question or "{}").get("profile", DEFAULT_PROFILE))

    def answered(self, answer: Answer) -> None:
        """Record the good end."""
        self._end(answer.ticket, "answer", answer.model_dump_json())

    def failed(
        self, ticket: str, error: errors.ProviderUploadsError
    ) -> errors.ProviderUploadsError:
        """Record the bad end; return it."""
        self._end(ticket, "error", json.dumps(error.as_record()))
        return error

    def _end(self, ticket: str, field: str, value: str) -> None:
        with self._ledger.reached(), self._ledger.redis.pipeline() as pipe:
            pipe.hset(_key(ticket), field, value)
            pipe.expire(_key(ticket), ROW_KEPT_S)
            pipe.zrem(OPEN_KEY, ticket)
            pipe.execute()

    def unmoved(self, quiet_s: float, most: int = 10_000) -> list[str]:
        """Return questions without an end that nobody has touched for ``quiet_s`` seconds."""
        until = time.time() - quiet_s
        with self._ledger.reached():
            return [
                str(ticket)
                for ticket in self._ledger.redis.zrangebyscore(
                    OPEN_KEY, 0, until, start=0, num=most
                )
            ]

    def touch(self, ticket: str) -> None:
        """Record that somebody takes care of it."""
        with self._ledger.reached():
            self._ledger.redis.zadd(OPEN_KEY, {ticket: time.time()}, xx=True)

    def forget(self, ticket: str) -> None:
        """Take a question off the list of those without an end."""
        with self._ledger.reached():
            self._ledger.redis.zrem(OPEN_KEY, ticket)

    def stumbled(self, ticket: str) -> int:
        """Count a try that failed; return how many there are."""
        with self._ledger.reached():
            return int(self._ledger.redis.hincrby(_key(ticket), "stumbles", 1))


def checked_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return ``config`` if it may travel; raises InvalidRequestError."""
    if _OURS & set(config):
        raise errors.InvalidRequestError(
            "config", repr(sorted(_OURS & set(config))), "are the worker's; use a profile"
        )
    try:
        json.dumps(config)
    except (TypeError, ValueError) as error:
        raise errors.InvalidRequestError(
            "config", type(config).__name__, f"must be JSON: {error}"
        ) from None
    return config


def _key(ticket: str) -> str:
    return f"{contract.KEY_PREFIX}question:{ticket}"
