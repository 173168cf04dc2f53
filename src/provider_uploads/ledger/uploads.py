"""The ledger: every upload's state in Redis, and the only way to change it.

The ledger is the truth about an upload; the broker only moves it along. A row is a Redis hash
under ``provider_uploads:upload:<ticket>``; a lease is a lock beside it. Every change goes through
one script (``upload_write.lua``) that stamps times on Redis's clock, renews the row's expiry,
refuses to touch a row that has moved on (a cancelled upload cannot become ACTIVE), and publishes
the stage on a channel of the row's name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from redis.exceptions import NoScriptError

from provider_uploads import errors, protocol
from provider_uploads.ledger.connection import ROW_KEPT_S, Connection
from provider_uploads.ledger.lease import Lease, lease_key
from provider_uploads.ledger.state import ClaimResult, UploadState, copy_wanted
from provider_uploads.locations import STAGED
from provider_uploads.schemas import Copy, ProviderFile, Stage, UploadRequest, UploadStatus

#: The open uploads: those that have not ended, and ended ones whose file is to be deleted, by the
#: time of their last change.
OPEN_KEY = f"{protocol.KEY_PREFIX}open"

_LIVING = (Stage.QUEUED, Stage.UPLOADING, Stage.PROCESSING)
_ENDED = tuple(stage for stage in Stage if stage.ended)


class Ledger(Connection):
    """The states of all uploads in one Redis; thread-safe.

    Every method raises QueueUnavailableError when Redis cannot be reached or does not answer
    within ``timeout_s``.
    """

    def __init__(self, url: str, *, timeout_s: float = 2.0) -> None:
        super().__init__(url, timeout_s=timeout_s)
        self._write = self.script("upload_write")
        self._take_over = self.script("upload_take_over", "upload_write")
        self._claim_poll = self.script("upload_claim_poll")

    # -- reading -------------------------------------------------------------------------------

    def read(self, ticket: str) -> UploadState:
        """Return one upload's state; raises UnknownTicketError."""
        with self.reached():
            fields = self.redis.hgetall(row_key(ticket))
        if not fields:
            raise errors.UnknownTicketError(ticket)
        return UploadState.of(cast("dict[str, str]", fields))

    def left_behind(self, ticket: str) -> bool:
        """Whether something of an upload may be at the provider that nobody wants.

        Reads single fields: the row may be of a newer client.
        """
        with self.reached():
            stage, copy, request, released_at = self.redis.hmget(
                row_key(ticket), "stage", "copy_at_provider", "request", "let_go_at"
            )
        cleanup = json.loads(request or "{}").get("cleanup_on_timeout", True)
        wanted = copy_wanted(
            str(stage), released=released_at is not None, cleanup_on_timeout=cleanup
        )
        return copy == Copy.PRESENT and not wanted

    def staged(self, ticket: str) -> bool:
        """Whether an upload's source is a staged copy; as with ``left_behind``, single fields."""
        with self.reached():
            request = self.redis.hget(row_key(ticket), "request")
        return str(json.loads(request or "{}").get("source")).startswith(f"{STAGED}://")

    def statuses(self, tickets: Sequence[str]) -> list[UploadStatus]:
        """Return the statuses of many uploads in one round trip; raises UnknownTicketError."""
        with self.reached(), self.redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for ticket in tickets:
                pipe.hgetall(row_key(ticket))
            (seconds, micros), *rows = pipe.execute()
        now = seconds + micros / 1e6
        missing = next((t for t, row in zip(tickets, rows, strict=True) if not row), None)
        if missing is not None:
            raise errors.UnknownTicketError(missing)
        return [UploadState.of(row).status(now) for row in rows]

    def living(self, ticket: str) -> bool:
        """Whether an upload has not ended."""
        with self.reached():
            return self.redis.hget(row_key(ticket), "stage") in _LIVING

    # -- writing -------------------------------------------------------------------------------

    def open(self, requests: Sequence[UploadRequest], source_urls: Mapping[str, str] = {}) -> None:
        """Write a QUEUED row for each request, in one round trip.

        ``source_urls`` are the whole URLs, by ticket, of those sources that hold a credential.
        """
        with self.reached():
            try:
                self._open(requests, source_urls)
            except NoScriptError:  # a new Redis, or one that was restarted
                self.redis.script_load(self._write.script)
                self._open(requests, source_urls)

    def _open(self, requests: Sequence[UploadRequest], source_urls: Mapping[str, str]) -> None:
        # redis-py's Script object would ask before each pipeline whether the script is known.
        with self.redis.pipeline(transaction=False) as pipe:
            for request in requests:
                values = {"stage": Stage.QUEUED, "request": request.to_json()}
                if request.upload_id in source_urls:
                    values["source_url"] = source_urls[request.upload_id]
                change = _change(stamp={"queued_at": 0}, values=values)
                pipe.evalsha(self._write.sha, 2, row_key(request.upload_id), OPEN_KEY, change)
            pipe.execute()

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
        return bool(self._update(ticket, _LIVING, values={"note": text}))

    def content(self, row: UploadState, sha256: str, size_bytes: int) -> UploadState | None:
        """Record what is in the source; None when the upload has ended meanwhile."""
        known = {"content": sha256, "size_bytes": str(size_bytes)}
        if self._update(row.request.upload_id, (Stage.QUEUED,), values=known) is None:
            return None
        return row.model_copy(update={"content": sha256, "size_bytes": size_bytes})

    def release_copy(self, ticket: str) -> bool:
        """Record that nobody wants an ended upload's file any more; False while it lives."""
        return bool(self._update(ticket, _ENDED, stamp={"let_go_at": 0}))

    def attempt_failed(self, ticket: str, text: str) -> None:
        """Count a failed attempt, and say what comes next."""
        self._update(ticket, _LIVING, values={"note": text}, count=("stumbles",))

    def processing(self, row: UploadState, file: ProviderFile) -> UploadState | None:
        """Record that the provider has all bytes; the deadline begins now, on Redis's clock."""
        now = self._update(
            row.request.upload_id,
            (Stage.QUEUED, Stage.UPLOADING),
            stamp={"processing_at": 0, "deadline_at": row.request.poll_policy.timeout_s},
            values={"stage": Stage.PROCESSING, **_sent(row, file)},
            unset=("session_url", "source_url", "note"),
        )
        changes = {"stage": Stage.PROCESSING, "file": file, "processing_at": now}
        return None if now is None else row.model_copy(update=changes)

    def active(
        self, row: UploadState, file: ProviderFile, *, sender: str = "", sharing_key: str = ""
    ) -> UploadState | None:
        """Record the good end; None when the upload has ended otherwise meanwhile.

        With ``sender``, the file is the one that this other upload sent: both join the set of
        tickets under ``sharing_key``. None also when the sender has released the file.
        """
        ticket, reused = row.request.upload_id, bool(sender)
        values = {"stage": Stage.ACTIVE, **_sent(row, file)}
        if reused:
            values |= {"sent_bytes": "0", "reused": "1"}
        change = _change(
            (Stage.QUEUED,) if reused else _LIVING,
            stamp={"ended_at": 0} | ({} if row.processing_at or reused else {"processing_at": 0}),
            values=values,
            unset=("session_url", "source_url", "note"),
        )
        keys, args = [row_key(ticket), OPEN_KEY], [change]
        script: Callable[..., Any] = self._write
        if reused:
            script = self._take_over
            keys += [row_key(sender), sharing_key]
            args += [sender, ticket, str(ROW_KEPT_S)]
        with self.reached():
            now = script(keys=keys, args=args)
        return None if now is None else row.activated(file, float(now), reused=reused)

    def failed(self, ticket: str, error: errors.ProviderUploadsError) -> bool:
        """Record a bad end, TIMED_OUT for an UploadInactiveError, else FAILED.

        False when it has ended already, or is unknown.
        """
        timed_out = isinstance(error, errors.UploadInactiveError)
        return self._end(ticket, Stage.TIMED_OUT if timed_out else Stage.FAILED, error, _LIVING)

    def withdrawn(self, tickets: Iterable[str]) -> None:
        """Record that uploads were never sent: a message that arrives after all does nothing."""
        for ticket in tickets:
            self.cancelled(ticket, (Stage.QUEUED,))

    def cancelled(self, ticket: str, stages: tuple[Stage, ...] = _LIVING) -> bool:
        """Record that nobody wants it any more; False when it is in none of ``stages``."""
        return self._end(ticket, Stage.CANCELLED, errors.UploadCancelledError(ticket), stages)

    def _end(
        self,
        ticket: str,
        stage: Stage,
        error: errors.ProviderUploadsError,
        stages: tuple[Stage, ...],
    ) -> bool:
        values = {"stage": stage, "error": json.dumps(error.as_record())}
        return bool(
            self._update(
                ticket, stages, stamp={"ended_at": 0}, values=values, unset=("source_url", "note")
            )
        )

    def present_again(self, ticket: str) -> None:
        """Record that a worker may have finished a file after its deletion."""
        with self.reached():
            deleted = self.redis.hget(row_key(ticket), "copy_at_provider") == Copy.DELETED
        if deleted:
            self._update(ticket, (Stage.CANCELLED,), values={"copy_at_provider": Copy.PRESENT})

    def deleted(self, ticket: str) -> None:
        """Record that nothing is left at the provider."""
        self._update(
            ticket, tuple(Stage), values={"copy_at_provider": Copy.DELETED}, unset=("session_url",)
        )

    # -- who may do what -----------------------------------------------------------------------

    def claim_poll(
        self, ticket: str, attempt: int, delivery_tag: str
    ) -> tuple[ClaimResult, float, UploadState]:
        """Claim the poll number ``attempt`` for the message with this delivery tag.

        Returns the claim's result, Redis's time in seconds and the row; raises UnknownTicketError.
        """
        with self.reached():
            result, now, flat = self._claim_poll(
                keys=[row_key(ticket)], args=[attempt, delivery_tag]
            )
        if not flat:
            raise errors.UnknownTicketError(ticket)
        row = UploadState.of(dict(zip(flat[::2], flat[1::2], strict=True)))
        return ClaimResult(result), float(now), row

    @contextmanager
    def lease(self, ticket: str, ttl_s: float) -> Iterator[Lease | None]:
        """Hold the right to send this upload's bytes; None when another delivery holds it."""
        lock = self.redis.lock(lease_key(ticket), timeout=ttl_s, thread_local=False)
        with self.reached():
            held = lock.acquire(blocking=False)
        if not held:
            yield None
            return
        with Lease(lock, ttl_s) as lease:
            yield lease

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
        change = _change(stages, stamp, values, unset, count)
        with self.reached():
            now = self._write(keys=[row_key(ticket), OPEN_KEY], args=[change])
        return None if now is None else float(now)


def row_key(ticket: str) -> str:
    """Return the key of an upload's row, which is also the name of its channel."""
    return f"{protocol.KEY_PREFIX}upload:{ticket}"


def _change(
    stages: tuple[Stage, ...] | None = None,
    stamp: Mapping[str, float] = {},
    values: Mapping[str, str] = {},
    unset: tuple[str, ...] = (),
    count: tuple[str, ...] = (),
) -> str:
    change = {"from": stages, "stamp": stamp, "set": values, "unset": unset, "count": count}
    return json.dumps({"ttl": ROW_KEPT_S, **change})


def _sent(row: UploadState, file: ProviderFile) -> dict[str, str]:
    return {
        "file": file.model_dump_json(),
        "sent_bytes": str(file.size_bytes if row.expected_bytes is None else row.expected_bytes),
        "size_bytes": str(file.size_bytes),
        "copy_at_provider": Copy.PRESENT,
    }
