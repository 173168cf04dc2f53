"""How an upload waits for its next poll: by countdown where few wait, parked where many do."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

from celery import Task
from celery.exceptions import Retry

from config.policy import policy
from provider_uploads import messages
from provider_uploads.errors import ProviderUploadsError
from provider_uploads.fleet.items import ITEMS
from provider_uploads.ledger import parked
from provider_uploads.ledger.state import UploadState
from provider_uploads.providers.base import pages_of
from tasks.connections import ledger, provider

#: Profiles of which the last poll was parked.
_many: set[str] = set()


def park_among_many(task: Task[Any, Any], row: UploadState, wait_s: float) -> None:
    """Park a row's next poll where many of its profile wait; Retry says that it is.

    Returns where it is not: then the caller sends it with a countdown. ``row`` is as the last
    claim, or the upload itself, left it. Whoever dies in between leaves a message behind that is
    delivered again, and parks the same poll once more or finds it claimed.
    """
    if _continues(task) or not _listed(row.request.profile):
        return
    # Writing a message costs more than asking whether it is needed.
    if row.request.profile not in _many and not _parked(row, "", wait_s):
        return
    message = messages.parked_poll_signature(ITEMS, row.request, row.claimed_poll + 1).text()
    if _parked(row, message, wait_s):
        _many.add(row.request.profile)
        raise Retry(
            f"Parked among many, polled alone in {wait_s:.1f} s at the latest",
            when=cast(Any, wait_s),
        )
    _many.discard(row.request.profile)


def _parked(row: UploadState, message: str, wait_s: float) -> bool:
    return ledger().run(parked.park(row, message, wait_s, park_from=policy.park_from))


def _continues(task: Task[Any, Any]) -> bool:
    """Whether Celery is to do something after this task, which a parked message could not carry."""
    request = task.request
    return any((request.callbacks, request.errbacks, request.chain, request.chord, request.group))


def _listed(profile: str) -> bool:
    """Whether a profile's files can be watched by its list, as far as this worker can tell."""
    with suppress(ProviderUploadsError):
        return pages_of(provider(profile)) is not None
    return False
