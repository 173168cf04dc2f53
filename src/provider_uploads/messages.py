"""The messages of our tasks: how each is written, and which tickets it holds."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from provider_uploads import protocol
from provider_uploads.backoff import SHORTEST_S
from provider_uploads.errors import ConfigurationError

if TYPE_CHECKING:
    from provider_uploads.schemas import UploadRequest

MessageT = TypeVar("MessageT")
_Made = TypeVar("_Made", covariant=True)


class Writer(Protocol[_Made]):
    """What makes messages: a Celery app, or ``fleet.items.ITEMS``."""

    def signature(self, *args: Any, **options: Any) -> _Made:
        """Return a message of a task."""


#: A message as kombu keeps it in Redis:
#:     {"headers": {"id": "<ticket>", "task": "provider_uploads.upload", …},
#:      "body": "<base64 of [args, kwargs, …]>", …}
Message = Mapping[str, Any]


#: In a poll's message, in place of a permit: it was parked, so a watcher may have seen its file. To
#: older workers it is a permit that is void.
PARKED: Final = "parked"


def upload_signature(
    app: Writer[MessageT], request: UploadRequest, queue: str = protocol.TRANSFER_QUEUE
) -> MessageT:
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


def poll_signature(app: Writer[MessageT], request: UploadRequest, attempt: int = 0) -> MessageT:
    """Return the message that polls until the file is ACTIVE; ``attempt`` is its first number.

    The first poll comes after one ``poll_s``, or just after the deadline; a later one at once.
    """
    polls = request.poll_policy
    first_s = min(polls.backoff.delay(0), polls.timeout_s + SHORTEST_S)
    when = {"countdown": first_s} if attempt == 0 else {}
    return app.signature(
        protocol.POLL,
        args=(request.upload_id, request.profile),
        immutable=True,
        queue=protocol.CONTROL_QUEUE,
        argsrepr=poll_shown(request.source, attempt),
        kwargsrepr="{}",
        **(when or {"retries": attempt}),
    )


def parked_poll_signature(app: Writer[MessageT], request: UploadRequest, attempt: int) -> MessageT:
    """Return the message of a poll that waits in the ledger (``ledger.parked``): due when sent."""
    return app.signature(
        protocol.POLL,
        args=(request.upload_id, request.profile),
        kwargs={"turn": PARKED},
        task_id=request.upload_id,
        immutable=True,
        queue=protocol.CONTROL_QUEUE,
        argsrepr=poll_shown(request.source, attempt),
        kwargsrepr="{}",
        retries=attempt,
    )


def poll_shown(source: str, attempt: int) -> str:
    """Return what Flower and logs show of a poll's arguments: its row was the upload's before."""
    return repr((source, "uploaded", f"poll {attempt + 1}"))


def ingest_signature(
    app: Writer[MessageT], requests: Sequence[UploadRequest], question_id: str | None = None
) -> MessageT:
    """Return the one message that sends many uploads, and perhaps a question over them."""
    payloads = [request.to_payload() for request in requests]
    return app.signature(
        protocol.INGEST,
        args=(payloads, question_id) if question_id else (payloads,),
        immutable=True,
        queue=protocol.CONTROL_QUEUE,
        argsrepr=f"({len(payloads)} files)",
    )


def ask_signature(app: Writer[MessageT], question_id: str, queue: str) -> MessageT:
    """Return the message that waits for a question's files and asks. Its id is the ticket."""
    return app.signature(
        protocol.GENERATE,
        args=(question_id,),
        task_id=question_id,
        immutable=True,
        queue=queue,
    )


def create_batch_signature(
    app: Writer[MessageT], ticket: str, queue: str = protocol.TRANSFER_QUEUE
) -> MessageT:
    """Return the message that checks a batch's input and creates its jobs. Its id is the ticket."""
    return app.signature(
        protocol.CREATE_BATCH, args=(ticket,), task_id=ticket, immutable=True, queue=queue
    )


def poll_batch_signature(
    app: Writer[MessageT], ticket: str, attempt: int = 0, countdown: float = 0.0
) -> MessageT:
    """Return the message that polls a batch's jobs, beginning with poll number ``attempt``."""
    return app.signature(
        protocol.POLL_BATCH,
        args=(ticket,),
        immutable=True,
        queue=protocol.CONTROL_QUEUE,
        retries=attempt,
        **({"countdown": countdown} if countdown else {}),
    )


def wake_batch_signature(app: Writer[MessageT], ticket: str) -> MessageT:
    """Return the message that polls a batch's jobs once, beside the polls that wait."""
    return app.signature(
        protocol.POLL_BATCH,
        args=(ticket,),
        kwargs={"woken": True},
        immutable=True,
        queue=protocol.CONTROL_QUEUE,
    )


def collect_batch_signature(
    app: Writer[MessageT], ticket: str, queue: str = protocol.TRANSFER_QUEUE
) -> MessageT:
    """Return the message that fetches a batch's answers."""
    return app.signature(protocol.COLLECT_BATCH, args=(ticket,), immutable=True, queue=queue)


def clean_up_batch_signature(app: Writer[MessageT], ticket: str) -> MessageT:
    """Return the message that leaves nothing of an ended batch at the provider."""
    return app.signature(
        protocol.CLEAN_UP_BATCH, args=(ticket,), immutable=True, queue=protocol.CONTROL_QUEUE
    )


def delete_signature(app: Writer[MessageT], upload_id: str) -> MessageT:
    """Return the message that deletes what an ended upload left at the provider."""
    return app.signature(
        protocol.DELETE, args=(upload_id,), immutable=True, queue=protocol.CONTROL_QUEUE
    )


def unstage_signature(app: Writer[MessageT], upload_id: str) -> MessageT:
    """Return the message that removes an upload's staged copy."""
    return app.signature(
        protocol.UNSTAGE, args=(upload_id,), immutable=True, queue=protocol.CONTROL_QUEUE
    )


def notify_signature(app: Writer[MessageT], ticket: str) -> MessageT:
    """Return the message that tells whom the outbox names of an end."""
    return app.signature(
        protocol.NOTIFY, args=(ticket,), immutable=True, queue=protocol.CONTROL_QUEUE
    )


# -- which tickets a message holds -----------------------------------------------------------------


def _its_id(message: Message) -> Iterable[str]:
    return [message["headers"]["id"]]


def _its_argument(message: Message) -> Iterable[str]:
    (ticket,), *_ = _body(message)
    return [ticket]


def _its_id_unless_woken(message: Message) -> Iterable[str]:
    """One that was woken ends without a successor: it moves nothing by itself."""
    _, kwargs, *_ = _body(message)
    return [] if kwargs.get("woken") else _its_id(message)


def _its_notification(message: Message) -> Iterable[str]:
    return map(notification_of, _its_argument(message))


def notification_of(ticket: str) -> str:
    """Return what a message holds that tells of a ticket's end: it does not move the ticket."""
    return f"notify:{ticket}"


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
    protocol.NOTIFY: _its_notification,
    protocol.CREATE_BATCH: _its_id,
    protocol.POLL_BATCH: _its_id_unless_woken,
    protocol.COLLECT_BATCH: _its_id,
    protocol.CLEAN_UP_BATCH: _its_argument,
    protocol.UNSTAGE: _none,
    protocol.SWEEP: _none,
}


def tickets_of(message: Message) -> Iterable[str]:
    """Return the tickets that a message moves.

    Of a task that only a newer version knows, all it names; of what nobody can read, none.
    """
    # One that cannot be read is set aside when a worker takes it.
    with suppress(ValueError, TypeError, LookupError, AttributeError):
        task = str(message["headers"]["task"])
        if task in TICKETS:
            return [*TICKETS[task](message)]
        if task.startswith(protocol.OUR_TASKS):
            named = _ANY_TICKET.findall(json.dumps([message["headers"], _body(message)]))
            return [*named, *map(notification_of, named)]
    return ()


_ANY_TICKET = re.compile(r"\b[0-9a-f]{32}\b")


def check_tasks(names: Iterable[str]) -> None:
    """Raise ConfigurationError if a task of ours is not in ``TICKETS``."""
    for name in names:
        if name.startswith(protocol.OUR_TASKS) and name not in TICKETS:
            raise ConfigurationError(
                f"task {name} is not in provider_uploads.messages.TICKETS: which tickets its "
                "messages hold is not known, and they would be submitted again while it lives. "
                "If the task is yours, add it."
            )


def _body(message: Message) -> Any:
    return json.loads(base64.b64decode(message["body"]))
