"""The good ends of parked uploads, recorded where a watcher saw them: many in three round trips.

Anything else goes through ``poll_until_active``: failed files, last polls, rows of a newer version.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from celery.app.base import Celery
from celery.utils.saferepr import saferepr
from kombu.exceptions import OperationalError

from provider_uploads import protocol
from provider_uploads.errors import UnreadableStateError
from provider_uploads.ledger import parked
from provider_uploads.ledger.finish import Finish
from provider_uploads.ledger.state import UploadState
from provider_uploads.schemas import ProviderFile
from tasks import canvases
from tasks.connections import ledger, log


class Settling:
    """Ends the uploads of one profile; ``dispatcher`` tells Flower, where anybody listens."""

    def __init__(self, profile: str, app: Celery[Any], dispatcher: Any) -> None:
        self._profile = profile
        self._backend: Any = app.backend
        self._dispatcher = dispatcher

    def __call__(self, active: Mapping[str, ProviderFile]) -> set[str]:
        """Record that these tickets' files are ACTIVE; return those that it was recorded of."""
        try:
            return self._settled(active)
        except UnreadableStateError:  # of one of them, whose poll says so: each by itself
            if len(active) == 1:
                return set()
            return {ticket for ticket, file in active.items() if self({ticket: file})}

    def _settled(self, active: Mapping[str, ProviderFile]) -> set[str]:
        now, rows = ledger().run(parked.processing([*active]))
        ended: dict[str, tuple[UploadState, dict[str, Any]]] = {}
        ends: list[tuple[UploadState, Finish]] = []
        for ticket, row in rows.items():
            file = row.file.updated(active[ticket]) if row.file else active[ticket]
            end = row.model_copy(update={"polls": row.polls + 1}).activated(file, now)
            result = end.result().model_dump(mode="json")
            ends.append((end, Finish(now, result=self._backend.success(ticket, result))))
            ended[ticket] = end, result
        done = ledger().run(parked.settle(self._profile, ends))
        for ticket in done:
            self._tell(*ended[ticket])
        return done

    def _tell(self, end: UploadState, result: dict[str, Any]) -> None:
        """Say that an upload has ended to those whom its poll would have told."""
        ticket = end.request.upload_id
        # As the line of a poll's message, which names its task.
        of_poll = {"task_name": protocol.POLL, "task_id": ticket}
        log.info("ACTIVE in the provider's list; polls: %d", end.polls, extra=of_poll)
        if end.request.notify:
            with suppress(OperationalError):  # the sweep finds who was not told
                canvases.notify(ticket).apply_async()
        self._dispatcher.send("task-succeeded", uuid=ticket, result=saferepr(result), runtime=0.0)
