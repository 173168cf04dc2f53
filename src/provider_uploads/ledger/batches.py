"""Batches in Redis, from submitted to collected: what workers change, and what the sweep looks for.

Every change of a row goes through ``batch_write.lua``, which refuses to touch one that has moved
on, renews the expiry of all that is kept of the batch, and publishes the stage on the channel of
its ticket, as an upload's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from provider_uploads import errors, protocol
from provider_uploads.ledger import batch_steps
from provider_uploads.ledger.batch_state import BatchState
from provider_uploads.ledger.batch_steps import LIVING, OPEN_KEY, row_key
from provider_uploads.ledger.connection import ROW_KEPT_S, Connection
from provider_uploads.ledger.steps import reply
from provider_uploads.schemas import BatchResult, BatchStage, Copy

_RESULT_ENDING: Final = ":new"


class OpenBatch(NamedTuple):
    """A batch that is open: its stage, how long ago it was submitted, and what it waits for."""

    ticket: str
    stage: str
    age_s: float
    note: str


class Batches:
    """The batches in a ledger's Redis; raises QueueUnavailableError as the ledger does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._redis = connection.redis

    # -- reading -------------------------------------------------------------------------------

    def read(self, ticket: str) -> BatchState:
        """Return one batch's state; raises UnknownTicketError, NewerPayloadError."""
        return self._connection.run(batch_steps.read(ticket))

    def request_field(self, ticket: str, field: str) -> Any:
        """Return a field of a request, whoever wrote it; None of one that nobody knows."""
        with self._connection.reached():
            request = self._redis.hget(row_key(ticket), "request")
        return json.loads(request or "{}").get(field)

    def living(self, ticket: str) -> bool:
        """Whether it has not ended."""
        with self._connection.reached():
            return self._redis.hget(row_key(ticket), "stage") in LIVING

    def open_among(self, tickets: Sequence[str]) -> set[str]:
        """Return those that are batches without an end."""
        with self._connection.reached(), self._redis.pipeline(transaction=False) as pipe:
            for ticket in tickets:
                pipe.hget(row_key(ticket), "stage")
            stages = pipe.execute()
        return {ticket for ticket, stage in zip(tickets, stages, strict=True) if stage in LIVING}

    def input_lines(self, ticket: str) -> Iterator[bytes]:
        """Yield the requests that came without a file, a block of them in memory."""
        number = 0
        while True:
            with self._connection.reached():
                block = self._redis.lindex(batch_steps.input_key(ticket), number)
            if block is None:
                return
            yield from batch_steps.lines_in(str(block))
            number += 1

    # -- writing -------------------------------------------------------------------------------

    def save(
        self,
        row: BatchState,
        values: Mapping[str, str] = {},
        *,
        stages: tuple[BatchStage, ...] = LIVING,
        unset: tuple[str, ...] = (),
    ) -> BatchState | None:
        """Write a row's jobs, and ``values``; None when it is in none of ``stages``.

        What is at the provider, or may be, is written down with them.
        """
        present = any(job.name or job.creating_at or job.input_ticket for job in row.jobs)
        changes = {**values}
        if present:
            changes["at_provider"] = Copy.PRESENT
        changes["jobs"] = json.dumps([job.model_dump(mode="json") for job in row.jobs])
        stamp = {}
        if changes.get("stage") == BatchStage.RUNNING and row.running_at is None:
            stamp = {"running_at": 0.0}
        if self.update(row.ticket, stages, stamp=stamp, values=changes, unset=unset) is None:
            return None
        return self.read(row.ticket)

    def update(
        self,
        ticket: str,
        stages: tuple[BatchStage, ...] = LIVING,
        *,
        stamp: Mapping[str, float] = {},
        values: Mapping[str, str] = {},
        unset: tuple[str, ...] = (),
        count: tuple[str, ...] = (),
    ) -> float | None:
        """Write if the row is in one of ``stages``; return Redis's time, or None if it is not."""
        command = batch_steps.write(
            ticket, stages, stamp=stamp, values=values, unset=unset, count=count
        )
        now = self._connection.run(reply(command))
        return None if now is None else float(now)

    def note(self, ticket: str, text: str) -> None:
        """Say what a living batch waits for."""
        self.update(ticket, values={"note": text})

    def touch(self, ticket: str) -> None:
        """Record that it is being taken care of."""
        self.update(ticket, tuple(BatchStage))

    def attempt_failed(self, ticket: str, text: str) -> None:
        """Count a failed attempt, and say what comes next."""
        self.update(ticket, values={"note": text}, count=("failed_attempts",))

    def succeeded(self, row: BatchState, result: BatchResult) -> bool:
        """Record the good end; False when it has ended otherwise meanwhile."""
        values = {"stage": str(BatchStage.SUCCEEDED), "result": result.model_dump_json()}
        now = self.update(
            row.ticket, stamp={"ended_at": 0}, values=values, unset=("note", "source_url")
        )
        return now is not None

    def failed(self, ticket: str, error: errors.ProviderUploadsError) -> bool:
        """Record a bad end, TIMED_OUT for a BatchExpiredError; False when it has ended already."""
        late = isinstance(error, errors.BatchExpiredError)
        stage = BatchStage.TIMED_OUT if late else BatchStage.FAILED
        return self._connection.run(batch_steps.ended(ticket, stage, error))

    def cancelled(self, ticket: str) -> bool:
        """Record that nobody wants it any more; False when it has ended already."""
        return self._connection.run(batch_steps.cancelled(ticket))

    def cleaned_up(self, ticket: str, *, kept: bool) -> None:
        """Record that nothing is left at the provider, or what is ``kept`` there as was wanted."""
        self.update(
            ticket, tuple(BatchStage), values={"at_provider": "kept" if kept else Copy.DELETED}
        )

    def keep_results(self, ticket: str, lines: Iterable[bytes], limit_bytes: int) -> int | None:
        """Keep answers in the ledger, all or none; return their bytes there.

        None when they are more than ``limit_bytes``.
        """
        key, size = batch_steps.results_key(ticket), 0
        new = f"{key}{_RESULT_ENDING}"
        with self._connection.reached():
            self._redis.delete(new)
            for block in batch_steps.blocks_of(lines):
                size += len(block)
                if size > limit_bytes:
                    self._redis.delete(new)
                    return None
                self._redis.rpush(new, block)
                self._redis.expire(new, ROW_KEPT_S)
            if size:
                self._redis.rename(new, key)
        return size

    # -- the uploads that requests name --------------------------------------------------------

    def files(self, ticket: str) -> dict[str, str]:
        """Return the tickets of uploads by what the requests call them."""
        with self._connection.reached():
            return cast("dict[str, str]", self._redis.hgetall(batch_steps.files_key(ticket)))

    def set_files(self, ticket: str, uploads: Mapping[str, str]) -> None:
        """Record which upload is meant by each name."""
        if uploads:
            key = batch_steps.files_key(ticket)
            with self._connection.reached(), self._redis.pipeline() as pipe:
                for name, upload in uploads.items():
                    pipe.hset(key, name, upload)
                pipe.expire(key, ROW_KEPT_S)
                pipe.execute()

    # -- whose job it is -----------------------------------------------------------------------

    def remember_job(self, profile: str, name: str, ticket: str) -> None:
        """Record whose a job is, for a gateway that keeps no display names, and for webhooks."""
        with self._connection.reached():
            self._redis.set(job_key(profile, name), ticket, ex=ROW_KEPT_S)

    def ticket_of_job(self, profile: str, name: str) -> str | None:
        """Return the ticket of a job's batch; None for one that is not known."""
        with self._connection.reached():
            return cast("str | None", self._redis.get(job_key(profile, name)))

    # -- the sweep -----------------------------------------------------------------------------

    def unmoved(self, quiet_s: float, most: int = 10_000) -> list[str]:
        """Return open batches that have not changed for ``quiet_s`` seconds, the oldest first."""
        with self._connection.reached():
            until = self._connection.now() - quiet_s
            found = self._redis.zrangebyscore(OPEN_KEY, 0, until, start=0, num=most)
        return [str(ticket) for ticket in found]

    def count_open(self) -> int:
        """Return how many batches are open."""
        with self._connection.reached():
            return int(self._redis.zcard(OPEN_KEY))

    def open(self, most: int = 1000) -> list[OpenBatch]:
        """Return at most so many open batches, those first that have not changed for longest."""
        with self._connection.reached():
            now = self._connection.now()
            tickets = [str(one) for one in self._redis.zrange(OPEN_KEY, 0, most - 1)]
            with self._redis.pipeline(transaction=False) as pipe:
                for ticket in tickets:
                    pipe.hmget(row_key(ticket), "stage", "queued_at", "note")
                rows = pipe.execute()
        return [
            OpenBatch(ticket, str(stage), now - float(queued_at), note or "")
            for ticket, (stage, queued_at, note) in zip(tickets, rows, strict=True)
            if stage and queued_at
        ]

    def forget(self, ticket: str) -> None:
        """Take a batch out of the index of open ones."""
        with self._connection.reached():
            self._redis.zrem(OPEN_KEY, ticket)


def job_key(profile: str, name: str) -> str:
    """Return the key of what tells whose a job is."""
    return f"{protocol.KEY_PREFIX}batch_job:{profile}:{name}"
