"""Uploads and questions as steps of your own Celery canvases.

    chain(canvas.upload("talk.mp4"), summarize.s()).apply_async()

The steps are tasks of *your* app, run by your workers on your queues. A step queues the upload,
and ends without a result; once the upload has ended, our workers send the rest of the step to your
broker (``PROVIDER_UPLOADS_BROKERS__<NAME>__URL`` where they run), with the chain, the chord and the
links it came with. Nothing waits meanwhile, and a step that is lost is sent again.

Your workers import this module: ``include=["provider_uploads.canvas"]``.
"""

from __future__ import annotations

import functools
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from celery import Task, shared_task
from celery.exceptions import Ignore
from kombu.utils.json import dumps

from provider_uploads.client import UploadQueue
from provider_uploads.client.callbacks import DEFAULT_BROKER
from provider_uploads.errors import (
    InvalidRequestError,
    ProviderUploadsError,
    QueueUnavailableError,
    from_record,
)
from provider_uploads.schemas import Notification

if TYPE_CHECKING:
    from celery.canvas import Signature

#: The state of a step whose upload or question is under way; its meta holds the ticket.
SUBMITTED: Final = "SUBMITTED"

#: Waits between attempts of a step while our Redis is away.
_RETRY_S: Final = 2.0


def upload(
    path: str | os.PathLike[str] | None = None, *, broker: str = DEFAULT_BROKER, **options: Any
) -> Signature[Any]:
    """Return a step that uploads a file; its result is the UploadResult as a dictionary.

    Without ``path``, the path or URL is the result of the step before. ``options`` are those of
    ``UploadQueue.submit``. ``broker`` is the name that our workers know your broker by. An upload
    that fails raises here what the worker raised: ``link_error`` and chords see it.
    """
    args = () if path is None else (os.fspath(path),)
    return _upload.signature(args, {"broker": broker, "options": options})


def ask(
    prompt: str,
    paths: Sequence[str | os.PathLike[str]] | None = (),
    *,
    broker: str = DEFAULT_BROKER,
    **options: Any,
) -> Signature[Any]:
    """Return a step that asks one question over files; its result is the Answer as a dictionary.

    With ``paths=None``, what the step before returned is asked about: paths, UploadResults as
    dictionaries, or one of them. So it can be the body of a chord over uploads. ``options`` are
    those of ``UploadQueue.ask``.
    """
    args = () if paths is None else ([os.fspath(path) for path in paths],)
    return _ask.signature(args, {"prompt": prompt, "broker": broker, "options": options})


def batch(
    requests: str | os.PathLike[str] | Sequence[Any] | None = None,
    *,
    model: str,
    broker: str = DEFAULT_BROKER,
    **options: Any,
) -> Signature[Any]:
    """Return a step that runs a batch; its result is the BatchResult as a dictionary.

    Without ``requests``, they are the result of the step before: a path or a list. The answers are
    read by ``UploadQueue.batch_answers(result["ticket"])``, or where ``results`` says. ``options``
    are those of ``UploadQueue.batch``.
    """
    args = () if requests is None else (_travels(requests),)
    return _batch.signature(args, {"model": model, "broker": broker, "options": options})


def _travels(requests: Any) -> Any:
    return os.fspath(requests) if isinstance(requests, os.PathLike) else requests


def ticket_of(step_id: str) -> str:
    """Return the ticket of the step with this task id: for ``status``, ``events``, ``cancel``."""
    try:
        return uuid.UUID(step_id).hex
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, step_id).hex


@shared_task(
    name="provider_uploads.canvas.upload",
    bind=True,
    max_retries=None,
    acks_late=True,
    throws=(ProviderUploadsError,),
)
def _upload(
    self: Task[Any, Any],
    path: Any = None,
    *,
    broker: str,
    options: dict[str, Any],
    outcome: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Submit at first; with ``outcome``, which our workers send, end as the upload did."""
    if outcome is not None:
        return _ended(outcome)
    if not isinstance(path, str):
        raise InvalidRequestError("path", repr(path)[:80], "is no path; the step before gave it")
    if self.request.is_eager:
        return _queue().result(_queue().submit(path, **options)).model_dump(mode="json")
    ticket, rest = _submitted(self, broker)
    with _again_if_away(self):
        _queue().submit(path, ticket=ticket, notifications=(rest,), **options)
    raise Ignore


@shared_task(
    name="provider_uploads.canvas.ask",
    bind=True,
    max_retries=None,
    acks_late=True,
    throws=(ProviderUploadsError,),
)
def _ask(
    self: Task[Any, Any],
    over: Any = (),
    *,
    prompt: str,
    broker: str,
    options: dict[str, Any],
    outcome: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask at first; with ``outcome``, end as the question did."""
    if outcome is not None:
        return _ended(outcome)
    paths, tickets = _files(over)
    if self.request.is_eager:
        asked = _queue().ask(prompt, paths, tickets=tickets, **options)
        return _queue().answer(asked).model_dump(mode="json")
    ticket, rest = _submitted(self, broker)
    with _again_if_away(self):
        _queue().ask(
            prompt, paths, tickets=tickets, ticket=ticket, notifications=(rest,), **options
        )
    raise Ignore


@shared_task(
    name="provider_uploads.canvas.batch",
    bind=True,
    max_retries=None,
    acks_late=True,
    throws=(ProviderUploadsError,),
)
def _batch(
    self: Task[Any, Any],
    requests: Any = None,
    *,
    model: str,
    broker: str,
    options: dict[str, Any],
    outcome: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Submit at first; with ``outcome``, end as the batch did."""
    if outcome is not None:
        return _ended(outcome)
    if not isinstance(requests, str | list):
        raise InvalidRequestError(
            "requests", repr(requests)[:80], "is neither a path nor a list; the step before gave it"
        )
    if self.request.is_eager:
        ticket = _queue().batch(requests, model=model, **options)
        return _queue().batch_result(ticket).model_dump(mode="json")
    ticket, rest = _submitted(self, broker)
    with _again_if_away(self):
        _queue().batch(requests, model=model, ticket=ticket, notifications=(rest,), **options)
    raise Ignore


def _files(over: Any) -> tuple[list[str], list[str]]:
    """Return paths and tickets among what the step before returned."""
    paths, tickets = [], []
    for one in over if isinstance(over, list | tuple) else [over]:
        if isinstance(one, str):
            paths.append(one)
        elif isinstance(one, dict) and isinstance(one.get("ticket"), str):
            tickets.append(one["ticket"])
        else:
            raise InvalidRequestError(
                "paths", repr(one)[:80], "is neither a path nor an upload's result"
            )
    return paths, tickets


def _submitted(task: Task[Any, Any], broker: str) -> tuple[str, Notification]:
    """Return the ticket of a step, and what our workers send to go on with it."""
    ticket = ticket_of(str(task.request.id))
    rest = task.signature_from_request(expires=None)  # it has begun
    if not task.ignore_result:
        task.update_state(state=SUBMITTED, meta={"ticket": ticket})
    signature = json.loads(dumps(rest))
    return ticket, Notification(broker=broker, signature=signature, keyword="outcome")


def _ended(outcome: dict[str, Any]) -> dict[str, Any]:
    if outcome.get("error"):
        raise from_record(outcome["error"])
    return outcome


@contextmanager
def _again_if_away(task: Task[Any, Any]) -> Iterator[None]:
    """Retry the step later when our Redis is away."""
    try:
        yield
    except QueueUnavailableError as error:
        raise task.retry(exc=error, countdown=_RETRY_S) from error


@functools.cache
def _queue() -> UploadQueue:
    return UploadQueue()
