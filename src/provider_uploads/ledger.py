"""An upload's durable record in Redis: its row, its lease and its fences.

The ledger is the truth about an upload; the broker only moves it along. A row is a Redis hash
under ``provider_uploads:upload:<ticket>``; a lease is a lock beside it. Every write goes through
one script that stamps times on Redis's clock, renews the row's life, refuses to touch a row that
has moved on (a cancelled upload cannot become ACTIVE), and publishes the stage on a channel of the
row's name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from provider_uploads import contract, errors
from provider_uploads.lease import Lease
from provider_uploads.locations import STAGED
from provider_uploads.records import (
    KEPT_S,
    Copy,
    ProviderFile,
    Stage,
    UploadRequest,
    UploadStatus,
)
from provider_uploads.rows import Row, Verdict
from provider_uploads.settings import without_secrets

#: A row outlives the provider's file by a day.
ROW_KEPT_S = KEPT_S + 24 * 3600

#: The uploads with something left to do: living ones, and ended ones whose file is to be deleted
#: because nobody wants it, or because its user let it go.
OPEN_KEY = f"{contract.KEY_PREFIX}open"

# ARGV[1]: {"ttl": s, "from": [stages] or null, "stamp": {field: s from now}, "set": {field: text},
#           "unset": [fields], "count": [fields to add 1 to]}.
# KEYS: the row; the uploads with something left to do, by the time of their last change.
# Returns Redis's time, or false when the stage is not in "from".
_WRITE = """
local order = cjson.decode(ARGV[1])
if order.from ~= cjson.null then  -- null: a new row
  local stage, allowed = redis.call('HGET', KEYS[1], 'stage'), false
  for _, one in ipairs(order.from) do allowed = allowed or one == stage end
  if not allowed then return false end
end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
for field, offset in pairs(order.stamp) do
  redis.call('HSET', KEYS[1], field, string.format('%.6f', now + offset))
end
for field, value in pairs(order.set) do redis.call('HSET', KEYS[1], field, value) end
for _, field in ipairs(order.unset) do redis.call('HDEL', KEYS[1], field) end
for _, field in ipairs(order.count) do redis.call('HINCRBY', KEYS[1], field, 1) end
redis.call('EXPIRE', KEYS[1], order.ttl)
local row = redis.call('HMGET', KEYS[1], 'stage', 'copy_at_provider', 'let_go_at')
local living = row[1] == 'QUEUED' or row[1] == 'UPLOADING' or row[1] == 'PROCESSING'
if living or ((row[1] ~= 'ACTIVE' or row[3]) and row[2] == 'present') then
  redis.call('ZADD', KEYS[2], now, KEYS[1])
else
  redis.call('ZREM', KEYS[2], KEYS[1])
end
redis.call('PUBLISH', KEYS[1], row[1])
return string.format('%.6f', now)
"""

# Before _WRITE: the row takes the file of another upload, if that one still has it to give. A user
# lets go by a mark in its row first, so a file that may be deleted by now cannot be taken.
# KEYS[3]: the giver's row; KEYS[4]: the users of its file. ARGV: the order, giver, taker, seconds.
_TAKE = (
    """
local giver = redis.call('HMGET', KEYS[3], 'stage', 'let_go_at')
local taker = redis.call('HGET', KEYS[1], 'stage')
if giver[1] ~= 'ACTIVE' or giver[2] or taker ~= 'QUEUED' then return false end
redis.call('SADD', KEYS[4], ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[4], ARGV[4])
"""
    + _WRITE
)

# ARGV: the attempt's number and its delivery tag. A look belongs to one message: a lower number,
# or the same number under another tag, is a copy whose living twin goes on.
_CLAIM_LOOK = """
local row = redis.call('HMGET', KEYS[1], 'stage', 'look', 'tag')
local stage, look, tag = row[1], tonumber(row[2] or '-1'), row[3] or ''
local mine = look == tonumber(ARGV[1]) and tag == ARGV[2]
local verdict = 'stale'
if stage == 'PROCESSING' then
  if mine or tonumber(ARGV[1]) > look then
    redis.call('HSET', KEYS[1], 'look', ARGV[1], 'tag', ARGV[2])
    redis.call('HINCRBY', KEYS[1], 'polls', 1)
    verdict = 'go'
  end
elseif mine or (stage == 'CANCELLED' and tonumber(ARGV[1]) > look) then
  verdict = 'answer'
end
local time = redis.call('TIME')
return {verdict, string.format('%.6f', time[1] + time[2] / 1000000), redis.call('HGETALL', KEYS[1])}
"""


_LIVING = (Stage.QUEUED, Stage.UPLOADING, Stage.PROCESSING)
_ENDED = tuple(stage for stage in Stage if stage.ended)


class Ledger:
    """The rows of all uploads in one Redis; thread-safe.

    Every method raises QueueUnavailableError when Redis cannot be reached or does not answer
    within ``timeout_s``.
    """

    def __init__(self, url: str, *, timeout_s: float = 2.0) -> None:
        self.server = without_secrets(url)
        self.redis = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # Trying again is the caller's decision, and it has a deadline.
            retry=Retry(NoBackoff(), 0),
        )
        self._write = self.redis.register_script(_WRITE)
        self._take = self.redis.register_script(_TAKE)
        self._claim_look = self.redis.register_script(_CLAIM_LOOK)

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()

    # -- reading -------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the time on Redis's clock, in seconds since 1970."""
        with self.reached():
            seconds, micros = self.redis.time()
        return float(seconds + micros / 1e6)

    def read(self, ticket: str) -> Row:
        """Return one row; raises UnknownTicketError."""
        with self.reached():
            fields = self.redis.hgetall(_key(ticket))
        if not fields:
            raise errors.UnknownTicketError(ticket)
        return Row.of(cast("dict[str, str]", fields))

    def left_behind(self, ticket: str) -> bool:
        """Whether something of an upload may be at the provider, and is to be deleted.

        Reads single fields: the row may be of a newer client.
        """
        with self.reached():
            stage, copy, request, let_go = self.redis.hmget(
                _key(ticket), "stage", "copy_at_provider", "request", "let_go_at"
            )
        kept = not json.loads(request or "{}").get("cleanup_on_timeout", True)
        unwanted = stage == Stage.CANCELLED or (stage != Stage.ACTIVE and not kept)
        return bool(copy == Copy.PRESENT and (unwanted or let_go))

    def staged(self, ticket: str) -> bool:
        """Whether an upload's source is a staged copy; as with ``left_behind``, single fields."""
        with self.reached():
            request = self.redis.hget(_key(ticket), "request")
        return str(json.loads(request or "{}").get("source")).startswith(f"{STAGED}://")

    def statuses(self, tickets: Sequence[str]) -> list[UploadStatus]:
        """Return the statuses of many uploads in one round trip; raises UnknownTicketError."""
        with self.reached(), self.redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for ticket in tickets:
                pipe.hgetall(_key(ticket))
            (seconds, micros), *rows = pipe.execute()
        now = seconds + micros / 1e6
        missing = next((t for t, row in zip(tickets, rows, strict=True) if not row), None)
        if missing is not None:
            raise errors.UnknownTicketError(missing)
        return [Row.of(row).status(now) for row in rows]

    @contextmanager
    def changes(self, tickets: Iterable[str]) -> Iterator[Callable[[float], str | None]]:
        """Subscribe to the changes of uploads.

        Yields a function that waits so many seconds for one and returns its ticket, or None.
        """
        listening = self.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        with self.reached(), listening as pubsub:
            pubsub.subscribe(*map(_key, tickets))

            def wait(seconds: float) -> str | None:
                message = pubsub.get_message(timeout=seconds)
                return message["channel"].rpartition(":")[2] if message else None

            yield wait

    def unmoved(self, quiet_s: float, most: int = 10_000) -> list[str]:
        """Return uploads with something left to do that have not changed for ``quiet_s`` seconds.

        The longest unmoved come first.
        """
        with self.reached():
            until = self.now() - quiet_s
            keys = self.redis.zrangebyscore(OPEN_KEY, 0, until, start=0, num=most)
        return [str(key).rpartition(":")[2] for key in keys]

    def oldest_queued(self, most: int = 10_000) -> tuple[str, float, str | None] | None:
        """Return ticket, seconds of waiting and note of the upload that is QUEUED for longest.

        Looks at the ``most`` uploads that have not changed for longest; None if none is QUEUED.
        """
        with self.reached():
            now = self.now()
            keys = cast("list[str]", self.redis.zrange(OPEN_KEY, 0, most - 1))
            with self.redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hmget(key, "stage", "queued_at", "note")
                rows = pipe.execute()
        queued = [
            (float(queued_at), key.rpartition(":")[2], note)
            for key, (stage, queued_at, note) in zip(keys, rows, strict=True)
            if stage == Stage.QUEUED
        ]
        if not queued:
            return None
        queued_at, ticket, note = min(queued)
        return ticket, now - queued_at, note

    def forget(self, ticket: str) -> None:
        """Take an upload off the list of those with something left to do."""
        with self.reached():
            self.redis.zrem(OPEN_KEY, _key(ticket))

    def living(self, ticket: str) -> bool:
        """Whether an upload has not ended."""
        with self.reached():
            return self.redis.hget(_key(ticket), "stage") in _LIVING

    def leased(self, ticket: str) -> bool:
        """Whether a worker holds the right to send this upload's bytes."""
        with self.reached():
            return bool(self.redis.exists(_lease_key(ticket)))

    # -- writing -------------------------------------------------------------------------------

    def open(self, requests: Sequence[UploadRequest], source_urls: Mapping[str, str] = {}) -> None:
        """Write a QUEUED row for each request, in one round trip.

        ``source_urls`` are the whole URLs, by ticket, of those sources that hold a credential.
        """
        with self.reached():
            try:
                self._open(requests, source_urls)
            except NoScriptError:  # a new Redis, or one that was restarted
                self.redis.script_load(_WRITE)
                self._open(requests, source_urls)

    def _open(self, requests: Sequence[UploadRequest], source_urls: Mapping[str, str]) -> None:
        # redis-py's Script object would ask before each pipeline whether the script is known.
        with self.redis.pipeline(transaction=False) as pipe:
            for request in requests:
                values = {"stage": Stage.QUEUED, "request": request.model_dump_json()}
                if request.upload_id in source_urls:
                    values["source_url"] = source_urls[request.upload_id]
                order = _order(stamp={"queued_at": 0}, values=values)
                pipe.evalsha(self._write.sha, 2, _key(request.upload_id), OPEN_KEY, order)
            pipe.execute()

    def uploading(self, row: Row, session_url: str) -> Row | None:
        """Record an open session; None when the upload has ended meanwhile."""
        first = {} if row.upload_at else {"upload_at": 0.0}
        size = {} if row.size_bytes is None else {"size_bytes": str(row.size_bytes)}
        mark = {} if row.source_mark is None else {"source_mark": row.source_mark}
        now = self._update(
            row.request.upload_id,
            (Stage.QUEUED, Stage.UPLOADING),
            stamp=first,
            values={
                "stage": Stage.UPLOADING,
                "session_url": session_url,
                "generation": str(row.generation),
                "sent_bytes": "0",
                "copy_at_provider": Copy.PRESENT,
                **size,
                **mark,
            },
            unset=("note",),
        )
        return (
            None
            if now is None
            else row.model_copy(
                update={
                    "stage": Stage.UPLOADING,
                    "session_url": session_url,
                    "upload_at": row.upload_at or now,
                }
            )
        )

    def next_generation(self, row: Row) -> None:
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
        """Record that somebody takes care of it."""
        self._update(ticket, tuple(Stage))

    def note(self, ticket: str, text: str) -> bool:
        """Say what a living upload waits for; False when it has ended meanwhile."""
        return bool(self._update(ticket, _LIVING, values={"note": text}))

    def content(self, row: Row, sha256: str, size_bytes: int) -> Row | None:
        """Record what is in the source; None when the upload has ended meanwhile."""
        known = {"content": sha256, "size_bytes": str(size_bytes)}
        if self._update(row.request.upload_id, (Stage.QUEUED,), values=known) is None:
            return None
        return row.model_copy(update={"content": sha256, "size_bytes": size_bytes})

    def took(self, row: Row, file: ProviderFile, giver: str, users: str) -> Row | None:
        """Record the good end with another upload's file, and both among its ``users``.

        None when the giver has let go of it, or this upload has ended otherwise.
        """
        ticket = row.request.upload_id
        order = _order(
            (Stage.QUEUED,),
            stamp={"ended_at": 0},
            values={"stage": Stage.ACTIVE, **_sent(row, file), "sent_bytes": "0", "reused": "1"},
            unset=("source_url", "note"),
        )
        with self.reached():
            now = self._take(
                keys=[_key(ticket), OPEN_KEY, _key(giver), users],
                args=[order, giver, ticket, ROW_KEPT_S],
            )
        changes = {"stage": Stage.ACTIVE, "file": file, "sent_bytes": 0, "reused": True}
        return None if now is None else row.model_copy(update={**changes, "ended_at": float(now)})

    def let_go(self, ticket: str) -> bool:
        """Record that nobody wants an ended upload's file any more; False while it lives."""
        return bool(self._update(ticket, _ENDED, stamp={"let_go_at": 0}))

    def stumbled(self, ticket: str, text: str) -> None:
        """Count a try that failed, and say what comes next."""
        self._update(ticket, _LIVING, values={"note": text}, count=("stumbles",))

    def processing(self, row: Row, file: ProviderFile) -> Row | None:
        """Record that the provider has all bytes; the deadline begins now, on Redis's clock."""
        now = self._update(
            row.request.upload_id,
            (Stage.QUEUED, Stage.UPLOADING),
            stamp={"processing_at": 0, "deadline_at": row.request.patience.timeout_s},
            values={"stage": Stage.PROCESSING, **_sent(row, file)},
            unset=("session_url", "source_url", "note"),
        )
        return (
            None
            if now is None
            else row.model_copy(
                update={"stage": Stage.PROCESSING, "file": file, "processing_at": now}
            )
        )

    def active(self, row: Row, file: ProviderFile) -> Row | None:
        """Record the good end; None when the upload has ended otherwise meanwhile."""
        now = self._update(
            row.request.upload_id,
            _LIVING,
            stamp={"ended_at": 0} | ({} if row.processing_at else {"processing_at": 0}),
            values={"stage": Stage.ACTIVE, **_sent(row, file)},
            unset=("session_url", "source_url", "note"),
        )
        return (
            None
            if now is None
            else row.model_copy(
                update={
                    "stage": Stage.ACTIVE,
                    "file": file,
                    "processing_at": row.processing_at or now,
                    "ended_at": now,
                }
            )
        )

    def failed(self, ticket: str, error: errors.ProviderUploadsError) -> bool:
        """Record a bad end, TIMED_OUT for an UploadInactiveError, else FAILED.

        False when it has ended already, or is unknown.
        """
        timed_out = isinstance(error, errors.UploadInactiveError)
        values = {
            "stage": Stage.TIMED_OUT if timed_out else Stage.FAILED,
            "error": json.dumps(error.as_record()),
        }
        return bool(
            self._update(
                ticket, _LIVING, stamp={"ended_at": 0}, values=values, unset=("source_url", "note")
            )
        )

    def withdrawn(self, tickets: Iterable[str]) -> None:
        """Record that uploads were never sent: a message that arrives after all does nothing."""
        for ticket in tickets:
            self.cancelled(ticket, (Stage.QUEUED,))

    def cancelled(self, ticket: str, stages: tuple[Stage, ...] = _LIVING) -> bool:
        """Record that nobody wants it any more; False when it is in none of ``stages``."""
        values = {
            "stage": Stage.CANCELLED,
            "error": json.dumps(errors.UploadCancelledError(ticket).as_record()),
        }
        return bool(
            self._update(
                ticket, stages, stamp={"ended_at": 0}, values=values, unset=("note", "source_url")
            )
        )

    def present_again(self, ticket: str) -> None:
        """Record that a worker may have finished a file after its deletion."""
        with self.reached():
            deleted = self.redis.hget(_key(ticket), "copy_at_provider") == Copy.DELETED
        if deleted:
            self._update(ticket, (Stage.CANCELLED,), values={"copy_at_provider": Copy.PRESENT})

    def deleted(self, ticket: str) -> None:
        """Record that nothing is left at the provider."""
        self._update(
            ticket, tuple(Stage), values={"copy_at_provider": Copy.DELETED}, unset=("session_url",)
        )

    # -- who may do what -----------------------------------------------------------------------

    def claim_look(
        self, ticket: str, attempt: int, delivery_tag: str
    ) -> tuple[Verdict, float, Row]:
        """Take the look number ``attempt`` for the message with this tag.

        Returns the verdict, Redis's time in seconds and the row; raises UnknownTicketError.
        """
        with self.reached():
            verdict, now, flat = self._claim_look(keys=[_key(ticket)], args=[attempt, delivery_tag])
        if not flat:
            raise errors.UnknownTicketError(ticket)
        row = Row.of(dict(zip(flat[::2], flat[1::2], strict=True)))
        return Verdict(verdict), float(now), row

    @contextmanager
    def lease(self, ticket: str, ttl_s: float) -> Iterator[Lease | None]:
        """Hold the right to send this upload's bytes; None when another delivery holds it."""
        lock = self.redis.lock(_lease_key(ticket), timeout=ttl_s, thread_local=False)
        with self.reached():
            held = lock.acquire(blocking=False)
        if not held:
            yield None
            return
        with Lease(lock, ttl_s) as lease:
            yield lease

    def _update(
        self,
        ticket: str,
        stages: tuple[Stage, ...],
        *,
        stamp: Mapping[str, float] | None = None,
        values: Mapping[str, str] | None = None,
        unset: tuple[str, ...] = (),
        count: tuple[str, ...] = (),
    ) -> float | None:
        """Write if the row is in one of ``stages``; return Redis's time, or None if it is not."""
        order = _order(stages, stamp or {}, values or {}, unset, count)
        with self.reached():
            now = self._write(keys=[_key(ticket), OPEN_KEY], args=[order])
        return None if now is None else float(now)

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Turn what redis-py raises into QueueUnavailableError."""
        try:
            yield
        except RedisError as error:
            raise errors.QueueUnavailableError(self.server, type(error).__name__) from error


def _key(ticket: str) -> str:
    return f"{contract.KEY_PREFIX}upload:{ticket}"


def _lease_key(ticket: str) -> str:
    return f"{contract.KEY_PREFIX}lease:{ticket}"


def _order(
    stages: tuple[Stage, ...] | None = None,
    stamp: Mapping[str, float] = {},
    values: Mapping[str, str] = {},
    unset: tuple[str, ...] = (),
    count: tuple[str, ...] = (),
) -> str:
    return json.dumps(
        {
            "ttl": ROW_KEPT_S,
            "from": stages,
            "stamp": stamp,
            "set": values,
            "unset": unset,
            "count": count,
        }
    )


def _sent(row: Row, file: ProviderFile) -> dict[str, str]:
    return {
        "file": file.model_dump_json(),
        "sent_bytes": str(file.size_bytes if row.expected_bytes is None else row.expected_bytes),
        "size_bytes": str(file.size_bytes),
        "copy_at_provider": Copy.PRESENT,
    }
