"""Callers' arguments, checked: what both queues do before anything is sent."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from provider_uploads.client.callbacks import DEFAULT_BROKER, notifications_for
from provider_uploads.client.submission import (
    Submission,
    SubmitOptions,
    checked_ticket,
    staged_submission,
    submission_for,
)
from provider_uploads.errors import InvalidRequestError, ProviderUploadsError
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.protocol import MAX_FILE_BYTES
from provider_uploads.questions import DEFAULT_MODEL, Question, question_for
from provider_uploads.requests import relative_names
from provider_uploads.schemas import Notification
from provider_uploads.settings import redis_url as checked_url
from provider_uploads.settings import settings
from provider_uploads.sources.staging import NewCopy, Readable, Staging, staging_at

#: What a stream may call its name: Starlette's and Flask's uploads, and Django's and files.
_NAMES: Final = ("filename", "name")


def server(redis_url: str | None) -> str:
    """Return the Redis to use; raises InvalidRequestError."""
    try:
        return checked_url(redis_url) if redis_url else settings().redis_url
    except ValueError as error:  # the URL may hold a password: it is not repeated
        raise InvalidRequestError("redis_url", "(not shown)", str(error)) from None


def many(paths: Iterable[str | os.PathLike[str]], options: SubmitOptions) -> list[Submission]:
    """Return what to submit for many files; all are checked."""
    _not_one("paths", paths)
    for field in ("display_name", "ticket"):
        if options.get(field) is not None:
            raise InvalidRequestError(field, repr(options.get(field)), "is for one file, not many")
    return [submission_for(path, **options) for path in paths]


class StagedUpload(NamedTuple):
    """A stream to be staged, and what is submitted then."""

    staging: Staging
    submission: Submission
    max_bytes: int

    def copy(self, stream: Readable) -> Submission:
        """Copy the stream; return what to submit, with its size. Blocks."""
        request = self.submission.request
        size_bytes = self.staging.put(
            request.upload_id, request.source, stream, limit_bytes=self.max_bytes
        )
        return self.sized(size_bytes)

    def begin(self) -> NewCopy:
        """Begin to copy, for whoever reads the stream itself. Blocks, as what is returned does."""
        request = self.submission.request
        return self.staging.begin(request.upload_id, request.source, limit_bytes=self.max_bytes)

    def sized(self, size_bytes: int) -> Submission:
        """Return what to submit for a copy of this size."""
        upload = self.submission.upload
        sized = upload.request.model_copy(update={"size_bytes": size_bytes})
        return replace(self.submission, upload=replace(upload, request=sized))

    def remove_after(self, error: BaseException) -> None:
        """Remove a copy that could not be queued; ``error`` is the one to tell."""
        try:
            self.staging.remove(self.submission.request.upload_id)
        except ProviderUploadsError as left:
            error.add_note(str(left))


def staged(
    stream: object, filename: str | None, max_bytes: int | None, options: SubmitOptions
) -> StagedUpload:
    """Return a stream's upload, named as the stream says unless ``filename`` does."""
    if max_bytes is not None and not max_bytes > 0:
        raise InvalidRequestError("max_bytes", repr(max_bytes), "must be positive")
    if filename is None:
        given = (getattr(stream, name, None) for name in _NAMES)
        filename = next((name for name in given if isinstance(name, str) and name), None)
    submission = staged_submission(filename, **options)
    limit = MAX_FILE_BYTES if max_bytes is None else min(max_bytes, MAX_FILE_BYTES)
    return StagedUpload(staging_at(settings().staging), submission, limit)


class AskedQuestion(NamedTuple):
    """A question, and what is submitted and told with it."""

    question: Question
    uploads: list[Submission]
    notifications: tuple[Notification, ...]
    earlier: tuple[str, ...]


def asked(
    prompt: str,
    paths: Iterable[str | os.PathLike[str]],
    tickets: Sequence[str],
    *,
    model: str = DEFAULT_MODEL,
    config: dict[str, Any] | None = None,
    profile: str = DEFAULT_PROFILE,
    ticket: str | None = None,
    on_answer: Any = None,
    on_failed: Any = None,
    broker: str = DEFAULT_BROKER,
    callback: str | None = None,
    notifications: Sequence[Notification] = (),
    **options: Any,
) -> AskedQuestion:
    """Return a question over files; each of several is named from the folder they share.

    Of a question with a ticket of its caller's, the uploads' tickets follow from it.
    """
    _not_one("paths", paths)
    _not_one("tickets", tickets)
    given = [os.fspath(path) for path in paths]
    uploads = [
        submission_for(
            path,
            display_name=name,
            profile=profile,
            ticket=None if ticket is None else _part_of(checked_ticket(ticket), number),
            **options,
        )
        for number, (path, name) in enumerate(zip(given, relative_names(given), strict=True))
    ]
    told = (
        *notifications_for(on_answer, on_failed, callback, broker, good="on_answer"),
        *notifications,
    )
    together = (*tickets, *(one.request.upload_id for one in uploads))
    question = question_for(prompt, together, model, profile, config, notify=bool(told))
    if ticket is not None:
        question = question.model_copy(update={"question_id": checked_ticket(ticket)})
    return AskedQuestion(question, uploads, told, tuple(tickets))


def _part_of(ticket: str, number: int) -> str:
    return uuid.uuid5(uuid.UUID(ticket), str(number)).hex


def _not_one(field: str, value: object) -> None:
    """Refuse one string where several belong: each of its letters would be one."""
    if isinstance(value, str | bytes | os.PathLike):
        raise InvalidRequestError(field, repr(value)[:80], "is one; give a list of them")
