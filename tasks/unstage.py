"""``provider_uploads.remove_staged``: a staged copy that could not be removed at once."""

from __future__ import annotations

from typing import Any

from celery import Task

from config.policy import policy
from provider_uploads import protocol
from provider_uploads.errors import (
    ProviderUploadsError,
    QueueUnavailableError,
    UnknownTicketError,
)
from provider_uploads.settings import settings
from provider_uploads.sources.staging import staging_at
from tasks.arguments import Ticket
from tasks.celery import app
from tasks.connections import ledger, log
from tasks.later import retry_later


@app.task(name=protocol.UNSTAGE, bind=True, ignore_result=True)
def remove_staged(self: Task[Any, Any], upload_id: Ticket) -> None:
    """Remove the copy; gone is success. Tried as long as the ledger remembers the upload."""
    try:
        if not ledger().staged(upload_id):
            raise UnknownTicketError(upload_id)
        staging_at(settings().staging).remove(upload_id)
    except QueueUnavailableError:
        raise
    except UnknownTicketError:
        log.warning("%s is older than the ledger remembers: its staged copy stays", upload_id)
    except ProviderUploadsError as error:
        log.info("%s: its staged copy is not removed yet: %s", upload_id, error)
        retry_later(self, policy.delete_retry.delay(self.request.retries))
