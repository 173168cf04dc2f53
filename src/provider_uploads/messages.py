"""The messages of our tasks: how each is written, and which tickets it holds."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from provider_uploads import protocol
from provider_uploads.errors import ConfigurationError

if TYPE_CHECKING:
    from celery import Celery
    from celery.canvas import Signature

    from provider_uploads.schemas import UploadRequest

#: A message as kombu keeps it in Redis:
#:     {"headers": {"id": "<ticket>", "task": "provider_uploads.upload", …},
#:      "body": "<base64 of [args, kwargs, …]>", …}
Message = Mapping[str, Any]


def upload_signature(
    app: Celery[Any], request: UploadRequest, queue: str = protocol.TRANSFER_QUEUE
) -> Signature[Any]:
    """Return the message that uploads one file; its id is the ticket."""
    return app.signature(
        protocol.UPLOAD,
        args=(request.to_payload(),),
        task_id=request.upload_id,
        queue=queue,
        immutable=True,
        # What logs and Flower show of the arguments. Celery's own walk through the payload would
        # be 15 % of a submit's time.
        argsrepr=repr((request.source,)),
        kwargsrepr="{}",
    )


def poll_signature(app: Celery[Any], request: UploadRequest, attempt: int = 0) -> Signature[Any]:
    """Return the message that polls until the file is ACTIVE; ``attempt`` is its first number.

    The first poll comes after one ``poll_s``, a later one at once.
    """
    when = {"countdown": request.poll_policy.backoff.delay(0)} if attempt == 0 else {}
    return app.signature(
        protocol.POLL,
        args=(request.upload_id, request.profile),
        immutable=True,
        queue=protocol.CONTROL_QUEUE,
        **(when or {"retries": attempt}),
    )


def ingest_signature(
    app: Celery[Any], requests: Sequence[UploadRequest], question_id: str | None = None
) -> Signature[Any]:
    """Return the one message that sends many uploads, and perhaps a question over them."""
    payloads = [request.to_payload() for request in requests]
    return app.signature(
        protocol.INGEST,
        args=(payloads, question_id) if question_id else (payloads,),
        immutable=True,
        queue=protocol.CONTROL_QUEUE,
        argsrepr=f"({len(payloads)} files)",
    )


def ask_signature(app: Celery[Any], question_id: str, queue: str) -> Signature[Any]:
    """Return the message that waits for a question's files and asks. Its id is the ticket."""
    return app.signature(
        protocol.GENERATE,
        args=(question_id,),
        task_id=question_id,
        immutable=True,
        queue=queue,
    )


def delete_signature(app: Celery[Any], upload_id: str) -> Signature[Any]:
    """Return the message that deletes what an ended upload left at the provider."""
    return app.signature(
        protocol.DELETE, args=(upload_id,), immutable=True, queue=protocol.CONTROL_QUEUE
    )


def unstage_signature(app: Celery[Any], upload_id: str) -> Signature[Any]:
    """Return the message that removes an upload's staged copy."""
    return app.signature(
        protocol.UNSTAGE, args=(upload_id,), immutable=True, queue=protocol.CONTROL_QUEUE
    )


# -- which tickets a message holds -----------------------------------------------------------------


def _its_id(message: Message) -> Iterable[str]:
    return [message["headers"]["id"]]


def _its_argument(message: Message) -> Iterable[str]:
    (ticket,), *_ = _body(message)
    return [ticket]


def _its_uploads_and_question(message: Message) -> Iterable[str]:
    (payloads, *question), *_ = _body(message)
    return [*(payload["upload_id"] for payload in payloads), *filter(None, question)]


def _none(_: Message) -> Iterable[str]:
    return ()


#: Every task of ours, and the tickets that its message moves. The sweep submits a ticket again that
#: no message holds, so a task that is missing here would be doubled while it lives.
TICKETS: Final[Mapping[str, Callable[[Message], Iterable[str]]]] = {
    protocol.UPLOAD: _its_id,
    protocol.POLL: _its_id,
    protocol.GENERATE: _its_id,
    protocol.DELETE: _its_argument,
    protocol.INGEST: _its_uploads_and_question,
    protocol.UNSTAGE: _none,
    protocol.SWEEP: _none,
}


def tickets_of(message: Message) -> Iterable[str]:
    """Return the tickets that a message moves.

    Raises ConfigurationError for a task of ours that is not in ``TICKETS``.
    """
    task = str((message.get("headers") or {}).get("task"))
    if task in TICKETS:
        return TICKETS[task](message)
    check_tasks([task])
    return ()


def check_tasks(names: Iterable[str]) -> None:
    """Raise ConfigurationError if a task of ours is not in ``TICKETS``."""
    for name in names:
        if name.startswith("provider_uploads.") and name not in TICKETS:
            raise ConfigurationError(
                f"task {name} is not in provider_uploads.messages.TICKETS: which tickets its "
                "messages hold is not known, so nothing is submitted again. If the task is of a "
                "newer version, upgrade provider-uploads here; if it is yours, add it."
            )


def _body(message: Message) -> Any:
    return json.loads(base64.b64decode(message["body"]))
