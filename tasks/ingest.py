"""``provider_uploads.ingest``: many files, and perhaps a question, in one message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from celery import Task

from provider_uploads import messages, protocol
from provider_uploads.errors import NewerPayloadError
from provider_uploads.fleet.items import ITEMS, Item
from provider_uploads.fleet.queues import Queues
from provider_uploads.ledger.steps import commands
from provider_uploads.protocol import PriorityQueue
from provider_uploads.schemas import UploadRequest
from tasks.arguments import Payload, Ticket
from tasks.celery import app
from tasks.connections import ledger, questions
from tasks.outcomes import note_newer

#: Messages in one round trip.
_AT_ONCE: Final = 500


@app.task(name=protocol.INGEST, bind=True, ignore_result=True)
def ingest(
    self: Task[Any, Any], payloads: list[Payload], question_id: Ticket | None = None
) -> None:
    """Send one upload per payload, and the question that waits for them.

    Killed halfway it is delivered again and sends copies of what it sent; the ledger's fences let
    one of each work.
    """
    try:
        requests = [UploadRequest.read(payload) for payload in payloads]
    except NewerPayloadError as error:
        for payload in payloads:
            note_newer(payload["upload_id"], error)
        raise
    known = Queues(ledger())
    profiles = {request.profile for request in requests}
    queues = {name: known.queue_of(name, PriorityQueue.BULK) for name in profiles}
    for start in range(0, len(requests), _AT_ONCE):
        some = requests[start : start + _AT_ONCE]
        _send(messages.upload_signature(ITEMS, one, queues[one.profile]) for one in some)
    if question_id is not None:
        queue = known.queue_of(questions().profile_of(question_id), PriorityQueue.QUESTIONS)
        _send([messages.ask_signature(ITEMS, question_id, queue)])


def _send(items: Iterable[Item]) -> None:
    """Put messages into their queues, in one round trip."""
    ledger().run(commands([item.sending() for item in items]))
