"""``provider_uploads.ingest``: many files, and perhaps a question, in one message."""

from __future__ import annotations

from typing import Any

from celery import Task

from provider_uploads import contract
from provider_uploads.contract import Lane
from provider_uploads.errors import NewerPayloadError
from provider_uploads.lanes import Lanes
from provider_uploads.records import UploadRequest
from tasks import canvases
from tasks.celery import app
from tasks.context import handed_back, ledger, questions
from tasks.waiting import leave_for_newer


@app.task(name=contract.INGEST, bind=True, ignore_result=True)
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
        leave_for_newer(self, [payload["upload_id"] for payload in payloads], error)
    with handed_back(f"ingest of {len(requests)}"), app.producer_or_acquire() as producer:
        profiles = {request.profile for request in requests}
        lanes = Lanes(ledger())
        queues = {name: lanes.queue_of(name, Lane.BULK) for name in profiles}
        for request in requests:
            queue = queues[request.profile]
            canvases.upload_one(request, queue).apply_async(producer=producer)
        if question_id is not None:
            queue = lanes.queue_of(questions().profile_of(question_id), Lane.QUESTIONS)
            canvases.ask(question_id, queue).apply_async(producer=producer)
