"""The ledger: every upload's state in Redis, and the only way to change it.

The ledger is the truth about an upload; the broker only moves it along. A row is a Redis hash
under ``provider_uploads:upload:<ticket>``; a lease is a lock beside it. Every change goes through
one script (``upload_write.lua``) that stamps times on Redis's clock, renews the row's expiry,
refuses to touch a row that has moved on (a cancelled upload cannot become ACTIVE), and publishes
the stage on a channel of the row's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from provider_uploads import errors
from provider_uploads.ledger import upload_steps
from provider_uploads.ledger.connection import ROW_KEPT_S, Connection
from provider_uploads.ledger.finish import Finish, activation, sent
from provider_uploads.ledger.lease import Lease, lease_key
from provider_uploads.ledger.state import UploadState
from provider_uploads.ledger.steps import commands
from provider_uploads.ledger.upload_steps import LIVING, OPEN_KEY, NewUpload, change, row_key
from provider_uploads.locations import STAGED
from provider_uploads.schemas import Copy, ProviderFile, Stage, UploadRequest, UploadStatus


class Ledger(Connection):
    """The states of all uploads in one Redis; thread-safe.

    Every method raises QueueUnavailableError when Redis cannot be reached or does not answer
    within ``timeout_s``.
    """

    def __init__(self, url: str, *, timeout_s: float = 2.0) -> None:
        super().__init__(url, timeout_s=timeout_s)
        self._write = self.script("upload_functions", "upload_write")
        self._take_over = self.script("upload_functions", "upload_take_over")
        self._finish = self.script("upload_functions", "upload_finish")

    # -- reading -------------------------------------------------------------------------------

    def read(self, ticket: str) -> UploadState:
        """Return one upload's state; raises UnknownTicketError."""
        return self.run(upload_steps.read(ticket))

    def left_behind(self, ticket: str) -> bool:
        """Whether something of an upload may be at the provider that nobody wants.

        Reads single fields: the row may be of a newer client.
        """
        return self.run(upload_steps.left_behind(ticket))

    def staged(self, ticket: str) -> bool:
        """Whether an upload's source is a staged copy; as with ``left_behind``, single fields."""
        return str(self._request(ticket).get("source")).startswith(f"{STAGED}://")

    def notifies(self, ticket: str) -> bool:
        """Whether somebody is to be told of an upload's end; single fields, too."""
        return bool(self._request(ticket).get("notify"))

    def _request(self, ticket: str) -> dict[str, Any]:
        with self.reached():
            request = self.redis.hget(row_key(ticket), "request")
        try:
            return cast("dict[str, Any]", dict(json.loads(request or "{}")))
        except (ValueError, TypeError):
            return {}  # whoever reads the row says so

    def statuses(self, tickets: Sequence[str]) -> list[UploadStatus]:
        """Return the statuses of many uploads in one round trip; raises UnknownTicketError."""
        return self.run(upload_steps.statuses(tickets))

    def living(self, ticket: str) -> bool:
        """Whether an upload has not ended."""
        with self.reached():
            return self.redis.hget(row_key(ticket), "stage") in LIVING

    def living_among(self, tickets: Sequence[str]) -> set[str]:
        """Return those uploads that have not ended."""
        return self.run(upload_steps.living_among(tickets)) if tickets else set()

    # -- writing -------------------------------------------------------------------------------

    def open(self, requests: Sequence[UploadRequest], source_urls: Mapping[str, str] = {}) -> None:
        """Write a QUEUED row for each request, in one round trip.

        ``source_urls`` are the whole URLs, by ticket, of those sources that hold a credential.
        """
        opening = [
            upload_steps.opening(NewUpload(request, source_urls.get(request.upload_id)))
            for request in requests
        ]
        self.run(commands(opening))

    def uploading(self, row: UploadState, session_url: str) -> UploadState | None:
        """Record an open session; None when the upload has ended meanwhile."""
        values = {
            "stage": Stage.UPLOADING,
            "session_url": session_url,
            "generation": str(row.generation),
            "sent_bytes": "0",
            "copy_at_provider": Copy.PRESENT,
        }
        if row.size_bytes is not None:
            values["size_bytes"] = str(row.size_bytes)
        if row.source_fingerprint is not None:
            values["source_mark"] = row.source_fingerprint
        now = self._update(
            row.request.upload_id,
            (Stage.QUEUED, Stage.UPLOADING),
            stamp={} if row.upload_at else {"upload_at": 0.0},
            values=values,
            unset=("note",),
        )
        if now is None:
            return None
        begun_at = row.upload_at or now
        changes = {"stage": Stage.UPLOADING, "session_url": session_url, "upload_at": begun_at}
        return row.model_copy(update=changes)

    def unsent(self, ticket: str) -> None:
        """Record that the provider took nothing of the one request that was to make the file."""
        self._update(
            ticket,
            (Stage.UPLOADING,),
            values={"stage": Stage.QUEUED},
            unset=("upload_at", "size_bytes", "source_mark", "sent_bytes", "copy_at_provider"),
        )

    def next_generation(self, row: UploadState) -> None:
        """Forget the session and the name: the next attempt sends from the first byte."""
        self._update(
            row.request.upload_id,
            (Stage.QUEUED, Stage.UPLOADING),
            values={"generation": str(row.generation + 1), "sent_bytes": "0"},
            unset=("session_url",),
        )

    def progress(self, ticket: str, sent_bytes: int) -> bool:
        """Record bytes sent; False when the upload has ended meanwhile."""
        return bool(
            self._update(ticket, (Stage.UPLOADING,), values={"sent_bytes": str(sent_bytes)})
        )

    def touch(self, ticket: str) -> None:
        """Record that it is being taken care of."""
        self._update(ticket, tuple(Stage))

    def note(self, ticket: str, text: str) -> bool:
        """Say what a living upload waits for; False when it has ended meanwhile."""
        return bool(self._update(ticket, LIVING, values={"note": text}))

    def content(self, row: UploadState, sha256: str, size_bytes: int) -> UploadState | None:
        """Record what is in the source; None when the upload has ended meanwhile."""
        known = {"content": sha256, "size_bytes": str(size_bytes)}
        if self._update(row.request.upload_id, (Stage.QUEUED,), values=known) is None:
            return None
        return row.model_copy(update={"content": sha256, "size_bytes": size_bytes})

    def release_copy(self, ticket: str) -> bool:
        """Record that nobody wants an ended upload's file any more; False while it lives."""
        return self.run(upload_steps.release_copy(ticket))

    def attempt_failed(self, ticket: str, text: str) -> None:
        """Count a failed attempt, and say what comes next."""
        self._update(ticket, LIVING, values={"note": text}, count=("stumbles",))

    def processing(
        self, row: UploadState, file: ProviderFile, finish: Finish | None = None
    ) -> UploadState | None:
        """Record that the provider has all bytes; the deadline begins now, on Redis's clock."""
        wanted = change(
            (Stage.QUEUED, Stage.UPLOADING),
            stamp={"processing_at": 0, "deadline_at": row.request.poll_policy.timeout_s},
            values={"stage": Stage.PROCESSING, **sent(row, file)},
            unset=("session_url", "source_url", "note"),
        )
        now = self._finished(row.request.upload_id, wanted, finish)
        changes = {"stage": Stage.PROCESSING, "file": file, "processing_at": now}
        return None if now is None else row.model_copy(update=changes)

    def active(
        self,
        row: UploadState,
        file: ProviderFile,
        finish: Finish | None = None,
        *,
        sender: str = "",
        sharing_key: str = "",
    ) -> UploadState | None:
        """Record the good end; None when the upload has ended otherwise meanwhile.

        With ``sender``, the file is the one that this other upload sent: both join the set of
        tickets under ``sharing_key``. None also when the sender has released the file.
        """
        ticket, reused = row.request.upload_id, bool(sender)
        at = finish.at if finish else None
        wanted = activation(row, file, at, reused=reused)
        if not reused:
            now = self._finished(ticket, wanted, finish)
        else:
            keys = [row_key(ticket), OPEN_KEY, row_key(sender), sharing_key]
            with self.reached():
                now = self._take_over(keys=keys, args=[wanted, sender, ticket, ROW_KEPT_S])
        return None if now is None else row.activated(file, float(now), reused=reused)

    def _finished(self, ticket: str, wanted: str, finish: Finish | None) -> float | None:
        """Write a change, and with it what else ends; return Redis's time, or None."""
        finish = finish or Finish()
        with self.reached():
            now = self._finish(keys=finish.keys(ticket), args=finish.args(wanted))
        if finish.lease:
            finish.lease.released()
        return None if now is None else float(now)

    def failed(self, ticket: str, error: errors.ProviderUploadsError) -> bool:
        """Record a bad end, TIMED_OUT for an UploadInactiveError, else FAILED.

        False when it has ended already, or is unknown.
        """
        timed_out = isinstance(error, errors.UploadInactiveError)
        stage = Stage.TIMED_OUT if timed_out else Stage.FAILED
        return self.run(upload_steps.ended(ticket, stage, error, LIVING))

    def withdrawn(self, tickets: Iterable[str]) -> None:
        """Record that uploads were never sent: a message that arrives after all does nothing."""
        self.run(upload_steps.withdrawn(tickets))

    def cancelled(self, ticket: str, stages: tuple[Stage, ...] = LIVING) -> bool:
        """Record that nobody wants it any more; False when it is in none of ``stages``."""
        return self.run(upload_steps.cancelled(ticket, stages))

    def present_again(self, ticket: str) -> None:
        """Record that a worker may have finished a file after its deletion."""
        with self.reached():
            deleted = self.redis.hget(row_key(ticket), "copy_at_provider") == Copy.DELETED
        if deleted:
            self._update(ticket, (Stage.CANCELLED,), values={"copy_at_provider": Copy.PRESENT})

    def deleted(self, ticket: str) -> None:
        """Record that nothing is left at the provider."""
        self.run(commands([upload_steps.deleting(ticket)]))

    # -- who may do what -----------------------------------------------------------------------

    @contextmanager
    def lease(self, ticket: str, ttl_s: float) -> Iterator[Lease | None]:
        """Hold the right to send this upload's bytes; None when another delivery holds it."""
        with self.new_lease(ticket, ttl_s) as lease:
            with self.reached():
                held = lease.acquire()
            yield lease if held else None

    def new_lease(self, ticket: str, ttl_s: float) -> Lease:
        """Return an upload's lease, to be taken."""
        return Lease(self.redis, ticket, ttl_s)

    def leased(self, ticket: str) -> bool:
        """Whether a worker holds the right to send this upload's bytes."""
        with self.reached():
            return bool(self.redis.exists(lease_key(ticket)))

    def _update(
        self,
        ticket: str,
        stages: tuple[Stage, ...],
        *,
        stamp: Mapping[str, float] = {},
        values: Mapping[str, str] = {},
        unset: tuple[str, ...] = (),
        count: tuple[str, ...] = (),
    ) -> float | None:
        """Write if the row is in one of ``stages``; return Redis's time, or None if it is not."""
        return self.run(
            upload_steps.update(
                ticket, stages, stamp=stamp, values=values, unset=unset, count=count
            )
        )
