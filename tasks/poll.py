"""``provider_uploads.poll_until_active``: one poll per delivery, countdown retries as backoff."""

from __future__ import annotations

import math
from typing import Any

from celery import Task
from celery.exceptions import Ignore

from provider_uploads import protocol
from provider_uploads.backoff import SHORTEST_S
from provider_uploads.errors import (
    NewerPayloadError,
    TransientError,
    UnknownTicketError,
    UploadFailedError,
    UploadInactiveError,
)
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.state import ClaimResult, UploadState
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.schemas import ProviderFile, Stage
from tasks.admission import cool_down_on_429, permit_or_retry
from tasks.celery import app
from tasks.connections import ledger, provider, through_breaker
from tasks.outcomes import end_upload, recording_end, retry_later


@app.task(name=protocol.POLL, bind=True)
def poll_until_active(
    self: Task[Any, Any], upload_id: str, profile: str = DEFAULT_PROFILE, turn: str = ""
) -> dict[str, Any]:
    """Poll once: ACTIVE is the result, FAILED an error, and anything else means another poll.

    The deadline is absolute. A poll that comes late still counts: ACTIVE wins over the clock.
    ``turn`` is the token of a permit that was reserved for this poll.
    """
    with recording_end(upload_id, end_upload):
        token = permit_or_retry(
            self,
            Work.POLL,
            profile,
            turn,
            upload_id=upload_id,
            left_s=lambda: _left_s(upload_id),
        )
        tag = str((self.request.properties or {})["delivery_tag"])
        claim, now, row = ledger().claim_poll(upload_id, self.request.retries, tag)
        if claim is ClaimResult.STALE:
            raise Ignore
        if claim is ClaimResult.ANSWER:
            return _answer(row)
        left_s = (row.deadline_at or 0.0) - now
        file, error = _poll(row, token, last=left_s <= 0)
        if file is not None and file.state == Stage.ACTIVE:
            ended = ledger().active(row, file)
            # None: cancelled at the last moment.
            return _answer(ended or ledger().read(upload_id))
        if file is not None and file.failed:
            raise UploadFailedError(file.name, file.state, file.error, file.provider)
        if left_s <= 0:
            raise _timed_out(row, file, error)
        wait_s = row.request.poll_policy.backoff.delay(self.request.retries + 1)
        if error is not None:
            wait_s = max(wait_s, error.retry_after_s or 0.0)
        # The last poll comes just after the deadline, however long the next wait would be.
        return retry_later(self, min(wait_s, left_s + SHORTEST_S))


def _left_s(upload_id: str) -> float:
    """Return the seconds until the last poll, which comes whatever the rate limit says."""
    try:
        deadline_at = ledger().read(upload_id).deadline_at
    except (UnknownTicketError, NewerPayloadError):
        return math.inf
    return math.inf if deadline_at is None else deadline_at - ledger().now()


def _poll(
    row: UploadState, token: str, *, last: bool
) -> tuple[ProviderFile | None, TransientError | None]:
    """Ask the provider once; return the file, or the error that says nothing about it."""
    profile = row.request.profile
    try:
        with (
            cool_down_on_429(Work.POLL, profile, token),
            through_breaker(profile, at_any_rate=last),
        ):
            file = provider(profile).get(row.file.name if row.file else row.name)
    except TransientError as error:
        return None, error
    return row.file.updated(file) if row.file else file, None


def _timed_out(
    row: UploadState, file: ProviderFile | None, error: TransientError | None
) -> UploadInactiveError:
    return UploadInactiveError(
        row.name,
        file.state if file else Stage.PROCESSING.value,
        row.request.poll_policy.timeout_s,
        row.polls,
        "deleting" if row.request.cleanup_on_timeout else "kept",
        str(error) if error else "",
        row.file.provider if row.file else "google",
    )


def _answer(row: UploadState) -> dict[str, Any]:
    if row.stage is Stage.ACTIVE:
        return row.result().model_dump(mode="json")
    raise row.failure()
