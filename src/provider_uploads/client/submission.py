"""From a caller's arguments to what is written and sent."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, Unpack

from provider_uploads.client.callbacks import DEFAULT_BROKER, notifications_for
from provider_uploads.errors import InvalidRequestError
from provider_uploads.ledger.upload_steps import NewUpload
from provider_uploads.locations import credential, is_upload_id
from provider_uploads.requests import (
    RequestOptions,
    refuse_key,
    request_for,
    request_of,
    staged_request,
)
from provider_uploads.schemas import Notification, UploadRequest

F = TypeVar("F", bound=Callable[..., Any])

_LONGEST_OWNER: Final = 128
_MOST_TAGS: Final = 16
_LONGEST_TAG: Final = 256


class SubmitOptions(RequestOptions, total=False):
    """What a caller may say of an upload; ``UploadQueue.submit`` explains each."""

    ticket: str | None
    owner: str | None
    tags: Mapping[str, str] | None
    on_active: Any
    on_failed: Any
    broker: str
    callback: str | None
    notifications: Sequence[Notification]
    api_key: None


@dataclass(frozen=True)
class Submission:
    """One upload to submit, and who is told of its end."""

    upload: NewUpload
    notifications: tuple[Notification, ...] = ()

    @property
    def request(self) -> UploadRequest:
        """What is sent to the workers."""
        return self.upload.request


def submission_for(path: str | os.PathLike[str], **options: Unpack[SubmitOptions]) -> Submission:
    """Return what to submit for a path or URL; raises a SourceError or an InvalidRequestError."""
    own, rest = _split(options)
    return _submission(request_for(path, **rest), credential(os.fspath(path)), **own)


def staged_submission(filename: str | None, **options: Unpack[SubmitOptions]) -> Submission:
    """Return what to submit for a stream that is to be staged; raises an InvalidRequestError."""
    own, rest = _split(options)
    return _submission(staged_request(filename, **rest), None, **own)


def _split(options: SubmitOptions) -> tuple[dict[str, Any], RequestOptions]:
    of_request = RequestOptions.__optional_keys__
    own = {name: value for name, value in options.items() if name not in of_request}
    rest: Any = {name: value for name, value in options.items() if name in of_request}
    return own, rest


def _submission(
    request: UploadRequest,
    source_url: str | None,
    *,
    ticket: str | None = None,
    owner: str | None = None,
    tags: Mapping[str, str] | None = None,
    on_active: Any = None,
    on_failed: Any = None,
    broker: str = DEFAULT_BROKER,
    callback: str | None = None,
    notifications: Sequence[Notification] = (),
    api_key: None = None,
) -> Submission:
    refuse_key(api_key)
    told = (*notifications_for(on_active, on_failed, callback, broker), *notifications)
    changes: dict[str, Any] = {"notify": True, "version": 2} if told else {}
    if ticket is not None:
        changes["upload_id"] = checked_ticket(ticket)
    request = request.model_copy(update=changes)
    upload = NewUpload(request, source_url, checked_owner(owner), _checked_tags(tags))
    return Submission(upload, told)


def checked_ticket(ticket: str) -> str:
    """Return a ticket of a caller's own making; raises InvalidRequestError."""
    if not is_upload_id(ticket):
        raise InvalidRequestError(
            "ticket", repr(ticket)[:80], "must be 32 hexadecimal digits, as uuid.uuid4().hex"
        )
    return ticket


def checked_owner(owner: str | None) -> str | None:
    """Return an owner's name if it can be one; raises InvalidRequestError."""
    if owner is None:
        return None
    if not (_text(owner) and 0 < len(owner) <= _LONGEST_OWNER):
        raise InvalidRequestError(
            "owner", repr(owner)[:80], f"must be text of 1 to {_LONGEST_OWNER} characters"
        )
    return owner


def _checked_tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    found = dict(tags or {})
    for name, value in found.items():
        if not (_text(name) and _text(value)):
            raise InvalidRequestError("tags", repr({name: value})[:80], "must be text to text")
        if max(len(name), len(value)) > _LONGEST_TAG:
            raise InvalidRequestError(
                "tags", repr(name)[:80], f"is longer than {_LONGEST_TAG} characters"
            )
    if len(found) > _MOST_TAGS:
        raise InvalidRequestError("tags", str(len(found)), f"are more than {_MOST_TAGS}")
    return found


def _text(value: object) -> bool:
    """Whether it is a string that UTF-8 can write."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def shows_options(method: F) -> F:
    """Let ``inspect.signature``, and so an editor, show the options with their defaults."""
    own = inspect.signature(method)
    shown = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
    names = {one.name for one in shown}
    for source in (request_of, _submission):
        shown += [
            one
            for one in inspect.signature(source).parameters.values()
            if one.kind is one.KEYWORD_ONLY and one.name not in names
        ]
    method.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
    return method
