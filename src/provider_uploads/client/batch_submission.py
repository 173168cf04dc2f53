"""From a caller's batch to what is written and sent."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from provider_uploads import locations
from provider_uploads.batches import results as places
from provider_uploads.batches.attached import with_absolute_paths
from provider_uploads.batches.index import KeyIndex
from provider_uploads.batches.lines import Entry, entries
from provider_uploads.batches.reading import checked, line_for
from provider_uploads.client.callbacks import DEFAULT_BROKER, notifications_for
from provider_uploads.client.submission import checked_ticket
from provider_uploads.errors import BatchTooLargeError, InvalidRequestError
from provider_uploads.ledger.batch_steps import NewBatch, blocks_of
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.requests import own_source_policy, refuse_key, request_for
from provider_uploads.schemas import (
    DEADLINE_S,
    BatchRequest,
    Notification,
    OnDeadline,
)
from provider_uploads.schemas import (
    checked as checked_record,
)
from provider_uploads.sources.open import open_source

#: Bytes, deflated, that Redis keeps of a batch's requests; more belong into a file.
_MOST_KEPT: Final = 64 * 1024**2
#: What an iterable of requests is called in errors; its lines are its requests.
_GIVEN: Final = "the requests"


@dataclass(frozen=True)
class BatchSubmission:
    """One batch to submit, and who is told of its end."""

    batch: NewBatch
    notifications: tuple[Notification, ...] = ()


def batch_submission(
    requests: str | os.PathLike[str] | Iterable[Any],
    *,
    model: str,
    profile: str = DEFAULT_PROFILE,
    display_name: str = "",
    results: str | os.PathLike[str] | None = None,
    deadline_s: float = DEADLINE_S,
    on_deadline: OnDeadline = "wait",
    parts: int = 2,
    resubmissions: int = 2,
    cleanup: bool = True,
    check: bool = True,
    check_fields: bool = True,
    ticket: str | None = None,
    on_success: Any = None,
    on_failed: Any = None,
    broker: str = DEFAULT_BROKER,
    callback: str | None = None,
    notifications: Sequence[Notification] = (),
    api_key: None = None,
) -> BatchSubmission:
    """Return what to submit; ``UploadQueue.batch`` explains the options.

    Reads and checks the requests, which blocks. Raises BatchInputError, a SourceError or an
    InvalidRequestError.
    """
    refuse_key(api_key)
    told = (
        *notifications_for(on_success, on_failed, callback, broker, good="on_success"),
        *notifications,
    )
    source, source_url = None, None
    if isinstance(requests, str | os.PathLike):
        source = request_for(requests).source
        source_url = locations.credential(os.fspath(requests))
    elif isinstance(requests, dict | bytes):
        raise InvalidRequestError(
            "requests", type(requests).__name__, "must be a path, or a list of requests"
        )
    request = checked_record(
        BatchRequest,
        {
            "batch_id": uuid.uuid4().hex if ticket is None else checked_ticket(ticket),
            "model": model,
            "profile": profile,
            "display_name": display_name,
            "source": source,
            "results": None if results is None else places.check_place(os.fspath(results)),
            "deadline_s": deadline_s,
            "on_deadline": on_deadline,
            "parts": parts,
            "resubmissions": resubmissions,
            "cleanup": cleanup,
            "check_fields": check_fields,
            "notify": bool(told),
        },
    )
    blocks: tuple[str, ...] = ()
    if source is None:
        blocks = tuple(_kept(requests, check_fields))
    elif check and locations.scheme_of(source) is None:
        _check(source, check_fields)
    return BatchSubmission(NewBatch(request, source_url, blocks), told)


def _check(source: str, check_fields: bool) -> None:
    with open_source(source, own_source_policy()) as opened, KeyIndex() as keys:
        for _ in checked(entries(opened.stream, source), source, keys, check_fields=check_fields):
            pass


def _kept(requests: Any, check_fields: bool) -> Iterator[str]:
    size = 0
    with KeyIndex() as keys:
        for block in blocks_of(_lines(requests, keys, check_fields)):
            size += len(block)
            if size > _MOST_KEPT:
                raise BatchTooLargeError("bytes of requests, deflated,", size, _MOST_KEPT)
            yield block


def _lines(requests: Any, keys: KeyIndex, check_fields: bool) -> Iterator[bytes]:
    given = (_entry(number, one) for number, one in enumerate(requests, 1))
    for request in checked(given, _GIVEN, keys, check_fields=check_fields):
        yield line_for(request, with_absolute_paths(request).body)


def _entry(number: int, given: Any) -> Entry:
    try:
        text = given if isinstance(given, str) else json.dumps(given, default=_plain)
        value = json.loads(text)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(
            "requests", f"number {number}", f"must be JSON: {error}"
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequestError("requests", f"number {number}", "must be an object")
    return Entry(number, 1, text, value)


def _plain(value: Any) -> Any:
    """Return one of google-genai's own objects as JSON."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_none=True)
    raise TypeError(f"{type(value).__name__} is none")
