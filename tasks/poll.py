"""``provider_uploads.poll_until_active``: one look per delivery, countdown retries as backoff."""

from __future__ import annotations

import math
from typing import Any

from celery import Task
from celery.exceptions import Ignore

from provider_uploads import contract
from provider_uploads.backoff import SHORTEST_S
from provider_uploads.errors import (
    NewerPayloadError,
    TransientError,
    UnknownTicketError,
    UploadFailedError,
    UploadInactiveError,
)
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.records import ProviderFile, Stage
from provider_uploads.rows import Row, Verdict
from provider_uploads.tiers import Work
from tasks.celery import app
from tasks.context import end_upload, files_service, gemini, ledger, recorded
from tasks.turns import limited, turn_or_come_back
from tasks.waiting import come_back


@app.task(name=contract.POLL, bind=True)
def poll_until_active(
    self: Task[Any, Any], upload_id: str, profile: str = DEFAULT_PROFILE, turn: str = ""
) -> dict[str, Any]:
    """Look once: ACTIVE is the result, FAILED an error, and anything else means another look.

    The deadline is absolute. A look that comes late still counts: ACTIVE wins over the clock.
    """
    with recorded(upload_id, end_upload):
        turn = turn_or_come_back(
            self,
            Work.POLL,
            profile,
            turn,
            upload_id=upload_id,
            left_s=lambda: _left_s(upload_id),
        )
        tag = str((self.request.properties or {})["delivery_tag"])
        verdict, now, row = ledger().claim_look(upload_id, self.request.retries, tag)
        if verdict is Verdict.STALE:
            raise Ignore
        if verdict is Verdict.ANSWER:
            return _settled(row)
        left_s = (row.deadline_at or 0.0) - now
        file, trouble = _look(row, turn, last=left_s <= 0)
        if file is not None and file.state == Stage.ACTIVE:
            ended = ledger().active(row, file)
            # None: cancelled at the last moment.
            return _settled(ended or ledger().read(upload_id))
        if file is not None and file.state == Stage.FAILED:
            raise UploadFailedError(file.name, file.state, file.error)
        if left_s <= 0:
            raise _too_late(row, file, trouble)
        wait_s = row.request.patience.looks.delay(self.request.retries + 1)
        if trouble is not None:
            wait_s = max(wait_s, trouble.retry_after_s or 0.0)
        # The last look falls just behind the deadline, however long the next wait would be.
        return come_back(self, min(wait_s, left_s + SHORTEST_S))


def _left_s(upload_id: str) -> float:
    """Return the seconds until the last look, which is taken at any rate."""
    try:
        deadline_at = ledger().read(upload_id).deadline_at
    except (UnknownTicketError, NewerPayloadError):
        return math.inf
    return math.inf if deadline_at is None else deadline_at - ledger().now()


def _look(row: Row, turn: str, *, last: bool) -> tuple[ProviderFile | None, TransientError | None]:
    """Ask the provider once; trouble on its side is a look that saw nothing."""
    profile = row.request.profile
    try:
        with limited(Work.POLL, profile, turn), files_service(profile, at_any_rate=last):
            file = gemini(profile).get(row.file.name if row.file else row.name)
    except TransientError as error:
        return None, error
    return row.file.updated(file) if row.file else file, None


def _too_late(
    row: Row, file: ProviderFile | None, trouble: TransientError | None
) -> UploadInactiveError:
    return UploadInactiveError(
        row.name,
        file.state if file else Stage.PROCESSING.value,
        row.request.patience.timeout_s,
        row.polls,
        "deleting" if row.request.cleanup_on_timeout else "kept",
        str(trouble) if trouble else "",
    )


def _settled(row: Row) -> dict[str, Any]:
    if row.stage is Stage.ACTIVE:
        return row.result().model_dump(mode="json")
    raise row.failure()
