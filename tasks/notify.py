"""``provider_uploads.notify``: host applications are told that something of theirs has ended.

What is to be said is in the outbox, so a message that is lost is sent again by the sweep, and one
that comes twice finds nothing to do. Receivers see each notification at least once.
"""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any, NamedTuple

from celery import Task

from config.policy import policy
from provider_uploads import protocol
from provider_uploads.errors import (
    ConfigurationError,
    NewerPayloadError,
    NotDeliveredError,
    ProviderUploadsError,
    ReceiverGoneError,
    UnknownTicketError,
    UnreadableStateError,
)
from provider_uploads.messages import notification_of
from provider_uploads.notifications import host_broker, webhook
from provider_uploads.schemas import Delivery, DeliveryState, Notification, Stage
from provider_uploads.settings import settings
from tasks.arguments import Ticket
from tasks.celery import app
from tasks.connections import batches, ledger, log, outbox, questions
from tasks.later import retry_later

#: A slow receiver may hold only so many slots of this worker.
_slots = threading.BoundedSemaphore(policy.notify_slots)


class End(NamedTuple):
    """What there is to say of an upload, a question or a batch that has ended."""

    #: As webhooks name it: ``upload.active``, ``upload.failed``, ``question.answered`` …
    event: str
    good: bool
    #: In seconds since 1970.
    at: float
    #: An UploadResult, an Answer or a BatchResult; after a bad end an UploadStatus, a BatchStatus,
    #: or a question's error.
    data: dict[str, Any]


@app.task(name=protocol.NOTIFY, bind=True, ignore_result=True)
def notify(self: Task[Any, Any], ticket: Ticket) -> None:
    """Tell those who wait for the end of ``ticket``; retry those who did not take it."""
    try:
        end = _end_of(ticket)
    except UnknownTicketError:
        log.warning("%s is older than the ledger remembers: nobody is told", ticket)
        outbox().settled(ticket)
        return
    if end is None:
        return
    if not _slots.acquire(timeout=policy.notify_slot_wait_s):
        retry_later(self, policy.notify_retry.delay(0))
    try:
        with ledger().lease(notification_of(ticket), policy.lease_s) as lease:
            if lease is None:
                retry_later(self, policy.lease_held_retry_s)
            wait_s = _deliver(ticket, end)
    finally:
        _slots.release()
    if wait_s is not None:
        retry_later(self, wait_s)
    outbox().settled(ticket)


def _end_of(ticket: str) -> End | None:
    """Return how an upload, a question or a batch ended; None if it has not."""
    try:
        row = ledger().read(ticket)
    except UnknownTicketError:
        return _end_of_batch(ticket)
    if not row.stage.ended:
        return None
    at = row.ended_at or 0.0
    good = row.stage is Stage.ACTIVE
    said = row.result() if good else row.status(at)
    return End(f"upload.{row.stage.lower()}", good, at, said.model_dump(mode="json"))


def _end_of_batch(ticket: str) -> End | None:
    try:
        row = batches().read(ticket)
    except UnknownTicketError:
        return _end_of_question(ticket)
    if not row.stage.ended:
        return None
    at = row.ended_at or 0.0
    good = row.result is not None
    said = row.result or row.status(at)
    return End(f"batch.{row.stage.lower()}", good, at, said.model_dump(mode="json"))


def _end_of_question(ticket: str) -> End | None:
    try:
        _, answer = questions().read(ticket)
    except (UnknownTicketError, NewerPayloadError, UnreadableStateError):
        raise
    except ProviderUploadsError as error:
        said = {"ticket": ticket, "stage": Stage.FAILED.value, "error": error.as_record()}
        return End("question.failed", False, time.time(), said)
    if answer is None:
        return None
    return End("question.answered", True, time.time(), answer.model_dump(mode="json"))


def _deliver(ticket: str, end: End) -> float | None:
    """Make one attempt of everything that is still to be sent.

    Returns the seconds until the next attempt, or None when all is settled.
    """
    waits = []
    for index, (notification, before) in enumerate(outbox().read(ticket)):
        if before.state.ended:
            continue
        after, wait_s = _attempt(ticket, index, notification, before, end)
        outbox().record(ticket, index, after)
        if not after.state.ended:
            # What a receiver asks for counts, within the longest wait.
            asked_s = min(wait_s, policy.notify_retry_max_s)
            waits.append(max(asked_s, policy.notify_retry.delay(after.attempts - 1)))
    return min(waits, default=None)


def _attempt(
    ticket: str, index: int, notification: Notification, before: Delivery, end: End
) -> tuple[Delivery, float]:
    if notification.on == ("failure" if end.good else "success"):
        return before.model_copy(update={"state": DeliveryState.NOT_NEEDED}), 0.0
    wait_s = 0.0
    changes: dict[str, Any] = {"attempts": before.attempts + 1, "error": None}
    try:
        _send(ticket, index, notification, end)
        changes["state"] = DeliveryState.SENT
    except ReceiverGoneError as error:
        changes |= {"state": DeliveryState.GIVEN_UP, "error": str(error)}
    except (NotDeliveredError, ConfigurationError) as error:
        late = time.time() > end.at + policy.notify_for_s
        state = DeliveryState.GIVEN_UP if late else DeliveryState.RETRYING
        changes |= {"state": state, "error": str(error)}
        wait_s = getattr(error, "retry_after_s", None) or 0.0
    if changes["error"]:
        log.warning("%s: %s: %s", ticket, notification.to, changes["error"])
    return before.model_copy(update=changes), wait_s


def _send(ticket: str, index: int, notification: Notification, end: End) -> None:
    delivery_id = uuid.uuid5(uuid.UUID(ticket), str(index))
    if notification.callback is not None:
        webhook.post(
            settings().callback(notification.callback),
            f"msg_{delivery_id.hex}",
            end.event,
            end.data,
            at=end.at,
            timeout_s=policy.notify_timeout_s,
        )
    else:
        broker = settings().broker(notification.broker or "")
        host_broker.send(broker, notification, str(delivery_id), end.data)
