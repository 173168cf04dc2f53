"""``provider_uploads.poll_until_active``: one poll per delivery, countdown retries as backoff."""

from __future__ import annotations

import math
import time
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
from provider_uploads.ledger.parked import claim_seen
from provider_uploads.ledger.state import ClaimResult, UploadState
from provider_uploads.ledger.uploads import Finish
from provider_uploads.messages import PARKED, poll_shown
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.schemas import ProviderFile, Stage
from tasks.admission import cool_down_on_429, permit_or_retry
from tasks.arguments import Ticket
from tasks.celery import app
from tasks.connections import ledger, provider, through_breaker
from tasks.later import retry_later
from tasks.outcomes import (
    asked_for_s,
    end_upload,
    is_stored,
    recording_end,
    result_of,
    stored,
)
from tasks.waiting import park_among_many


@app.task(name=protocol.POLL, bind=True)
def poll_until_active(
    self: Task[Any, Any], upload_id: Ticket, profile: str = DEFAULT_PROFILE, turn: str = ""
) -> dict[str, Any]:
    """Poll once: ACTIVE is the result, FAILED an error, and anything else means another poll.

    The deadline is absolute. A poll that comes late still counts: ACTIVE wins over the clock.
    ``turn`` is the token of a permit that was reserved for this poll, or says that it was parked:
    then a watcher may just have seen the file, and nothing is asked.
    """
    with recording_end(self, upload_id, end_upload):
        attempt = self.request.retries
        tag = str((self.request.properties or {})["delivery_tag"])
        seen = None
        if turn == PARKED:
            seen = ledger().run(claim_seen(upload_id, attempt, tag))
        if seen is not None:
            claim, now, row = seen.claim, seen.now, seen.row
        else:
            token = permit_or_retry(
                self,
                Work.POLL,
                profile,
                "" if turn == PARKED else turn,
                upload_id=upload_id,
                left_s=lambda: _left_s(upload_id),
            )
            claim, now, row = ledger().claim_poll(upload_id, attempt, tag)
        claimed_at = time.monotonic()
        if claim is ClaimResult.STALE:
            raise Ignore
        if claim is ClaimResult.ANSWER:
            return result_of(row)
        left_s = (row.deadline_at or 0.0) - now
        file: ProviderFile | None
        error: TransientError | None
        if seen is not None:
            file, error = _known(row, seen.file), None
        else:
            file, error = _poll(row, token, last=left_s <= 0)
        if file is not None and file.state == Stage.ACTIVE:
            at = now + time.monotonic() - claimed_at
            ended = ledger().active(row, file, Finish(at, result=stored(self, row, file, at)))
            if ended is None:  # cancelled at the last moment
                return result_of(ledger().read(upload_id))
            is_stored(self)
            return result_of(ended)
        if file is not None and file.failed:
            raise UploadFailedError(file.name, file.state, file.error, file.provider)
        if left_s <= 0:
            raise _timed_out(row, file, error)
        wait_s = row.request.poll_policy.backoff.delay(self.request.retries + 1)
        if error is not None:
            wait_s = max(wait_s, asked_for_s(error))
        park_among_many(self, row, wait_s)
        # The last poll comes just after the deadline, however long the next wait would be.
        shown = poll_shown(row.request.source, self.request.retries + 1)
        return retry_later(self, min(wait_s, left_s + SHORTEST_S), shown=shown)


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
    return _known(row, file), None


def _known(row: UploadState, file: ProviderFile) -> ProviderFile:
    """Return a file with what was known of it before."""
    return row.file.updated(file) if row.file else file


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
