"""``provider_uploads.ingest``: many files, and perhaps a question, in one message."""

from __future__ import annotations

from typing import Any

from celery import Task

from provider_uploads import protocol
from provider_uploads.errors import NewerPayloadError
from provider_uploads.fleet.queues import Queues
from provider_uploads.protocol import PriorityQueue
from provider_uploads.schemas import UploadRequest
from tasks import canvases
from tasks.celery import app
from tasks.connections import ledger, questions
from tasks.outcomes import leave_for_newer_worker, requeued_if_unreachable


@app.task(name=protocol.INGEST, bind=True, ignore_result=True)
def ingest(
    self: Task[Any, Any], payloads: list[dict[str, Any]], question_id: str | None = None
) -> None:
    """Send one upload per payload, and the question that waits for them.

    Killed halfway it is delivered again and sends copies of what it sent; the ledger's fences let
    one of each work.
    """
    try:
        requests = [UploadRequest.read(payload) for payload in payloads]
    except NewerPayloadError as error:
        leave_for_newer_worker(self, [payload["upload_id"] for payload in payloads], error)
    with (
        requeued_if_unreachable(f"ingest of {len(requests)}"),
        app.producer_or_acquire() as producer,
    ):
        profiles = {request.profile for request in requests}
        known = Queues(ledger())
        queues = {name: known.queue_of(name, PriorityQueue.BULK) for name in profiles}
        for request in requests:
            queue = queues[request.profile]
            canvases.upload_one(request, queue).apply_async(producer=producer)
        if question_id is not None:
            queue = known.queue_of(questions().profile_of(question_id), PriorityQueue.QUESTIONS)
            canvases.ask(question_id, queue).apply_async(producer=producer)
