"""What a user wants, as canvases of tasks.

upload ──▶ ACTIVE at once: the UploadResult
   └─ replaced, under the same ticket, by wait_until_active
          poll_until_active ⟲ retry(countdown=backoff) ──▶ the UploadResult
(on error, whichever step) ──▶ delete_on_timeout

uploads, each under its own ticket ┐
generate ⟲ retry(countdown) ───────┴──▶ once all are ACTIVE, the Answer

create_batch ⟲ retry(countdown) ──▶ replaced, under the same ticket, by
   poll_batch ⟲ retry(countdown=backoff) ──▶ replaced by
      collect_batch ──▶ the BatchResult           (what is to be sent again: create_batch once more)
(at any end) ──▶ clean_up_batch ⟲ retry(countdown)
"""

from __future__ import annotations

from typing import Any

from celery.canvas import Signature

from provider_uploads import messages, protocol
from provider_uploads.schemas import UploadRequest
from tasks.celery import app


def upload_one(request: UploadRequest, queue: str = protocol.TRANSFER_QUEUE) -> Signature[Any]:
    """Upload one file and wait until it is ACTIVE."""
    return messages.upload_signature(app, request, queue)


def wait_until_active(request: UploadRequest) -> Signature[Any]:
    """Poll until the file is ACTIVE; the first poll comes after one ``poll_s``."""
    return messages.poll_signature(app, request)


def ask(question_id: str, queue: str) -> Signature[Any]:
    """Wait for a question's files, which have tickets of their own, and ask.

    Not a chord: one whose member is lost never ends, and here the ledger knows when all are done.
    """
    return messages.ask_signature(app, question_id, queue)


def unstage(upload_id: str) -> Signature[Any]:
    """Remove an upload's staged copy, retried until it is gone."""
    return messages.unstage_signature(app, upload_id)


def clean_up(upload_id: str) -> Signature[Any]:
    """Delete what an ended upload left at the provider."""
    return messages.delete_signature(app, upload_id)


def notify(ticket: str) -> Signature[Any]:
    """Tell whom the outbox names that an upload or a question has ended."""
    return messages.notify_signature(app, ticket)


def batch(ticket: str, queue: str = protocol.TRANSFER_QUEUE) -> Signature[Any]:
    """Create a batch's jobs, wait for them and collect their answers."""
    return messages.create_batch_signature(app, ticket, queue)


def wait_for_batch(ticket: str, attempt: int, countdown: float = 0.0) -> Signature[Any]:
    """Poll a batch's jobs until they have ended."""
    return messages.poll_batch_signature(app, ticket, attempt, countdown)


def collect_batch(ticket: str, queue: str) -> Signature[Any]:
    """Fetch a batch's answers."""
    return messages.collect_batch_signature(app, ticket, queue)


def clean_up_batch(ticket: str) -> Signature[Any]:
    """Leave nothing of an ended batch at the provider."""
    return messages.clean_up_batch_signature(app, ticket)
