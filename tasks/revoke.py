"""Celery's revoke is a cancellation: the upload ends in the ledger, and nothing of it stays.

Celery only remembers the id in the memory of the workers alive just then, and discards the message
when one of them meets it: an upload under way went on, and a waiting one stayed PROCESSING.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery.signals import task_revoked
from celery.utils.log import get_logger
from celery.worker.control import Panel, control_command
from kombu.exceptions import OperationalError

from provider_uploads import protocol
from provider_uploads.errors import (
    ProviderUploadsError,
    QueueUnavailableError,
    UploadCancelledError,
)
from provider_uploads.ledger import parked
from tasks import canvases
from tasks.batches import after_end
from tasks.connections import batches, ledger, questions
from tasks.outcomes import end_question, remove_staged_copy

log = get_logger(__name__)

#: The tasks whose id is the ticket that they move.
_MOVES = frozenset(
    {protocol.UPLOAD, protocol.POLL, protocol.GENERATE}
    | {protocol.CREATE_BATCH, protocol.POLL_BATCH, protocol.COLLECT_BATCH}
)

_celery_revoke = Panel.data["revoke"]


@control_command(name="revoke", variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: str | Sequence[str], **options: Any) -> Any:
    """Revoke tasks, and cancel the uploads, questions and batches among them.

    Celery's own command, as Flower and ``celery control revoke`` send it. Every worker gets it;
    cancelling twice is harmless.
    """
    for ticket in [task_id] if isinstance(task_id, str) else task_id:
        _cancel(ticket)
    return _celery_revoke(state, task_id, **options)


@task_revoked.connect
def _discarded(sender: Any, request: Any, expired: bool = False, **_: Any) -> None:
    """Cancel what a worker discards because it was revoked before."""
    if sender.name in _MOVES and not expired:
        _cancel(str(request.id))


def _cancel(ticket: str) -> None:
    try:
        if ledger().cancelled(ticket):
            log.warning("%s was revoked: cancelled", ticket)
            for profile in ledger().run(parked.profiles()):  # the row may be a newer version's
                ledger().run(parked.wake(profile, [ticket]))
            if ledger().staged(ticket):
                remove_staged_copy(ticket)
            if ledger().left_behind(ticket):
                canvases.clean_up(ticket).apply_async()
            if ledger().notifies(ticket):
                canvases.notify(ticket).apply_async()
        elif batches().cancelled(ticket):
            log.warning("%s was revoked: cancelled", ticket)
            after_end(ticket)
        elif questions().is_open(ticket):
            end_question(ticket, UploadCancelledError(ticket))
    except (ProviderUploadsError, OperationalError) as error:
        if not isinstance(error, QueueUnavailableError):
            log.exception("%s was revoked, and could not be cancelled", ticket)
        else:
            log.warning("%s was revoked, and is not cancelled yet: %s", ticket, error)
