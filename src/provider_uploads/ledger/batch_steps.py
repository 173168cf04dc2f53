"""Operations on batches' rows; what they raise is said where the ledger offers them.

    provider_uploads:batch:<ticket>            the row: a hash
    provider_uploads:batch:<ticket>:input      requests that came without a file: a list of blocks
    provider_uploads:batch:<ticket>:files      uploads by what the requests call them: a hash
    provider_uploads:batch:<ticket>:results    the answers in input order: a list of blocks

A block is lines of JSON, deflated and in base64.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from provider_uploads import errors, protocol
from provider_uploads.ledger import outbox, upload_steps
from provider_uploads.ledger.batch_state import BatchState
from provider_uploads.ledger.connection import ROW_KEPT_S
from provider_uploads.ledger.encryption import encrypted
from provider_uploads.ledger.steps import Command, Steps, reply
from provider_uploads.lua import LuaScript
from provider_uploads.schemas import BatchRequest, BatchStage, BatchStatus

#: The open batches: those that have not ended, and ended ones of which something is left at the
#: provider, by the time of their last change.
OPEN_KEY: Final = f"{protocol.KEY_PREFIX}open_batches"

#: All batches, by the time they were submitted.
ALL_KEY: Final = f"{protocol.KEY_PREFIX}batches"

LIVING: Final = (BatchStage.QUEUED, BatchStage.RUNNING, BatchStage.COLLECTING)

#: Bytes of lines in one block.
BLOCK_BYTES: Final = 256 * 1024

#: Blocks in one round trip: a few MiB.
_AT_ONCE: Final = 16

_WRITE = LuaScript("provider_uploads.ledger", "batch_write")


@dataclass(frozen=True)
class NewBatch:
    """A batch to open. ``source_url`` is the whole URL of an input that holds a credential."""

    request: BatchRequest
    source_url: str | None = None
    blocks: Sequence[str] = ()


def row_key(ticket: str) -> str:
    """Return the key of a batch's row."""
    return f"{protocol.KEY_PREFIX}batch:{ticket}"


def input_key(ticket: str) -> str:
    """Return the key of the requests that came without a file."""
    return f"{row_key(ticket)}:input"


def files_key(ticket: str) -> str:
    """Return the key of the uploads that the requests name."""
    return f"{row_key(ticket)}:files"


def results_key(ticket: str) -> str:
    """Return the key of the answers."""
    return f"{row_key(ticket)}:results"


def blocks_of(lines: Iterable[bytes]) -> Iterator[str]:
    """Yield lines, which end in a newline, as blocks."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= BLOCK_BYTES:
            yield _block(held)
            held, size = [], 0
    if held:
        yield _block(held)


def lines_in(block: str) -> list[bytes]:
    """Return the lines of a block, without their newlines."""
    return zlib.decompress(base64.b64decode(block)).split(b"\n")[:-1]


def _block(lines: list[bytes]) -> str:
    return base64.b64encode(zlib.compress(b"".join(lines), 6)).decode()


def write(
    ticket: str,
    stages: tuple[BatchStage, ...] | None,
    *,
    stamp: Mapping[str, float] = {},
    values: Mapping[str, str] = {},
    unset: tuple[str, ...] = (),
    count: tuple[str, ...] = (),
    once: bool = False,
) -> Command:
    """Return the command that changes a row; without ``stages``, that makes one."""
    wanted = {"from": stages, "stamp": stamp, "set": values, "unset": unset, "count": count}
    change = json.dumps({"ttl": ROW_KEPT_S, **wanted})
    return _WRITE.command(
        [row_key(ticket), OPEN_KEY, ALL_KEY, outbox.key_of(ticket)],
        [
            change,
            ticket,
            upload_steps.row_key(ticket),
            "1" if once else "",
        ],
    )


def keeping_input(batch: NewBatch) -> Steps[None]:
    """Keep the requests that came without a file, a few blocks a round trip."""
    key = input_key(batch.request.batch_id)
    yield [("DEL", key)]
    for start in range(0, len(batch.blocks), _AT_ONCE):
        yield [("RPUSH", key, *batch.blocks[start : start + _AT_ONCE]), ("EXPIRE", key, ROW_KEPT_S)]


def known(ticket: str) -> Steps[bool]:
    """Whether there is a batch under this ticket."""
    return bool((yield from reply(("EXISTS", row_key(ticket)))))


def opening(batch: NewBatch) -> Command:
    """Return the command that writes a QUEUED batch, unless it is there already."""
    ticket = batch.request.batch_id
    values = {"stage": str(BatchStage.QUEUED), "request": batch.request.to_json()}
    if batch.source_url:
        values["source_url"] = encrypted(batch.source_url)
    return write(ticket, None, stamp={"queued_at": 0}, values=values, once=True)


def read(ticket: str) -> Steps[BatchState]:
    """Return one batch's state."""
    fields = yield from reply(("HGETALL", row_key(ticket)))
    if not fields:
        raise errors.UnknownTicketError(ticket, "batch")
    return BatchState.of(ticket, fields)


def known_statuses(tickets: Sequence[str]) -> Steps[dict[str, BatchStatus]]:
    """Return the statuses of those that are batches."""
    commands: list[Command] = [("TIME",), *(("HGETALL", row_key(ticket)) for ticket in tickets)]
    (seconds, micros), *rows = yield commands
    now = seconds + micros / 1e6
    known = {
        ticket: BatchState.of(ticket, row) for ticket, row in zip(tickets, rows, strict=True) if row
    }
    told = [ticket for ticket, row in known.items() if row.request.notify]
    deliveries = yield from outbox.deliveries(told)
    return {ticket: row.status(now, deliveries.get(ticket, ())) for ticket, row in known.items()}


def all_statuses(tickets: Sequence[str]) -> Steps[dict[str, Any]]:
    """Return the statuses of those tickets that are uploads or batches."""
    found: dict[str, Any] = {**(yield from upload_steps.known_statuses(tickets))}
    others = [ticket for ticket in tickets if ticket not in found]
    return found | ((yield from known_statuses(others)) if others else {})


def statuses_of(tickets: Sequence[str]) -> Steps[list[Any]]:
    """Return the statuses of uploads and batches, in order."""
    found = yield from all_statuses(tickets)
    missing = next((ticket for ticket in tickets if ticket not in found), None)
    if missing is not None:
        raise errors.UnknownTicketError(missing, "upload or batch")
    return [found[ticket] for ticket in tickets]


def status(ticket: str) -> Steps[BatchStatus]:
    """Return one batch's status."""
    found = yield from known_statuses([ticket])
    if ticket not in found:
        raise errors.UnknownTicketError(ticket, "batch")
    return found[ticket]


def listed(stage: BatchStage | None, limit: int) -> Steps[list[BatchStatus]]:
    """Return at most ``limit`` batches that the ledger still knows, the newest first."""
    tickets = yield from reply(("ZREVRANGE", ALL_KEY, 0, -1))
    found: list[BatchStatus] = []
    for start in range(0, len(tickets), 200):
        page = [str(ticket) for ticket in tickets[start : start + 200]]
        known = yield from known_statuses(page)
        wanted = (known[ticket] for ticket in page if ticket in known)
        found += [one for one in wanted if stage in (None, one.stage)]
        if len(found) >= limit:
            break
    return found[:limit]


def ended(ticket: str, stage: BatchStage, error: errors.ProviderUploadsError) -> Steps[bool]:
    """Record a bad end; False when it has ended already."""
    values = {"stage": str(stage), "error": json.dumps(error.as_record())}
    now = yield from reply(
        write(ticket, LIVING, stamp={"ended_at": 0}, values=values, unset=("note", "source_url"))
    )
    return now is not None


def cancelled(ticket: str) -> Steps[bool]:
    """Record that nobody wants it any more; False when it has ended already."""
    return (yield from ended(ticket, BatchStage.CANCELLED, errors.BatchCancelledError(ticket)))


def released(ticket: str) -> Steps[bool]:
    """Record that nobody wants what an ended batch has at the provider; False while it lives."""
    stages = tuple(stage for stage in BatchStage if stage.ended)
    return (yield from reply(write(ticket, stages, stamp={"released_at": 0}))) is not None


def result_lines(ticket: str, number: int) -> Steps[list[bytes] | None]:
    """Return the answers in block number so-and-so; None after the last."""
    block = yield from reply(("LINDEX", results_key(ticket), number))
    return None if block is None else lines_in(block)
