"""``provider_uploads.poll_until_active``: one poll per delivery, countdown retries as backoff."""

from __future__ import annotations

import time
from typing import Any

from celery import Task
from celery.exceptions import Ignore

from config.policy import policy
from provider_uploads import protocol
from provider_uploads.backoff import SHORTEST_S
from provider_uploads.errors import (
    TransientError,
    UploadFailedError,
    UploadInactiveError,
)
from provider_uploads.fleet.polls import PollBeginning
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.finish import Finish
from provider_uploads.ledger.state import ClaimResult, UploadState
from provider_uploads.messages import PARKED, poll_shown
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.schemas import ProviderFile, Stage
from tasks.admission import cool_down_on_429, wait_for_poll_permit
from tasks.arguments import Ticket
from tasks.celery import app
from tasks.connections import ledger, polls, provider, through_breaker
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
        begun = polls().begin(
            upload_id,
            profile,
            self.request.retries,
            str((self.request.properties or {})["delivery_tag"]),
            permit="" if turn == PARKED else turn,
            watched=turn == PARKED,
            soon_s=policy.permit_soon_s,
        )
        begun_at = time.monotonic()
        row, now, left_s = begun.row, begun.now, begun.left_s
        if begun.claim is None:
            wait_for_poll_permit(self, begun)
        if begun.claim is ClaimResult.STALE:
            raise Ignore
        if begun.claim is ClaimResult.ANSWER:
            return result_of(row)
        file, error = _seen_or_polled(begun)
        if file is not None and file.state == Stage.ACTIVE:
            at = now + time.monotonic() - begun_at
            result = stored(self, row.activated(file, at).result())
            ended = ledger().active(row, file, Finish(at, result=result))
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


def _seen_or_polled(begun: PollBeginning) -> tuple[ProviderFile | None, TransientError | None]:
    """Return the file as it is now, or the error that says nothing about it."""
    row = begun.row
    if begun.seen is not None:
        return _known(row, begun.seen), None
    profile = row.request.profile
    try:
        with (
            cool_down_on_429(Work.POLL, profile, begun.token),
            through_breaker(profile, begun.breaker, at_any_rate=begun.left_s <= 0),
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
