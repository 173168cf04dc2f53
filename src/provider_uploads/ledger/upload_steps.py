"""Operations on uploads' rows; what they raise is said where the ledger offers them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from provider_uploads import errors, protocol
from provider_uploads.ledger import outbox
from provider_uploads.ledger.connection import ROW_KEPT_S
from provider_uploads.ledger.encryption import encrypted
from provider_uploads.ledger.state import UploadState, copy_wanted
from provider_uploads.ledger.steps import Command, Steps, reply
from provider_uploads.lua import LuaScript
from provider_uploads.schemas import Copy, Stage, UploadRequest, UploadStatus

#: The open uploads: those that have not ended, and ended ones whose file is to be deleted, by the
#: time of their last change.
OPEN_KEY: Final = f"{protocol.KEY_PREFIX}open"

#: All uploads, by the time they were submitted; beside it a set of the same kind for each owner.
ALL_KEY: Final = f"{protocol.KEY_PREFIX}uploads"

LIVING: Final = (Stage.QUEUED, Stage.UPLOADING, Stage.PROCESSING)
ENDED: Final = tuple(stage for stage in Stage if stage.ended)

#: Rows that ``listed`` reads at once, and at most: an owner may have a million of other stages.
_PAGE: Final = 200
_MOST_READ: Final = 2000

_WRITE = LuaScript("provider_uploads.ledger", "upload_functions", "upload_write")
_SUBMIT = LuaScript("provider_uploads.ledger", "upload_functions", "upload_submit")


@dataclass(frozen=True)
class NewUpload:
    """An upload to open. ``source_url`` is the whole URL of a source that holds a credential."""

    request: UploadRequest
    source_url: str | None = None
    owner: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """Some uploads, the newest first; ``cursor`` asks for those before them, None: no more."""

    uploads: list[UploadStatus]
    cursor: str | None


def row_key(ticket: str) -> str:
    """Return the key of an upload's row, which is also the name of its channel."""
    return f"{protocol.KEY_PREFIX}upload:{ticket}"


def owner_key(owner: str | None) -> str:
    """Return the key of an owner's uploads; without one, of all."""
    return ALL_KEY if owner is None else f"{ALL_KEY}:{owner}"


def change(
    stages: tuple[Stage, ...] | None = None,
    stamp: Mapping[str, float] = {},
    values: Mapping[str, str] = {},
    unset: tuple[str, ...] = (),
    count: tuple[str, ...] = (),
    at: float | None = None,
) -> str:
    """Return a change of a row as ``upload_functions.lua`` reads it."""
    wanted = {"from": stages, "stamp": stamp, "set": values, "unset": unset, "count": count}
    return json.dumps({"ttl": ROW_KEPT_S, **wanted, **({} if at is None else {"at": at})})


def sending(size_bytes: int, source_fingerprint: str) -> str:
    """Return the change that says of a QUEUED upload that its bytes are on their way."""
    values = {
        "stage": str(Stage.UPLOADING),
        "sent_bytes": "0",
        "size_bytes": str(size_bytes),
        "source_mark": source_fingerprint,
        "copy_at_provider": str(Copy.PRESENT),
    }
    return change((Stage.QUEUED,), stamp={"upload_at": 0}, values=values, unset=("note",))


def opening(
    upload: NewUpload, queue: str = "", message: str = "", *, once: bool = False
) -> Command:
    """Return the command that writes a QUEUED row and, if given, puts its message in its queue.

    With ``once`` an upload that is there already stays as it is.
    """
    ticket = upload.request.upload_id
    values = {"stage": str(Stage.QUEUED), "request": upload.request.to_json()}
    if upload.source_url:
        values["source_url"] = encrypted(upload.source_url)
    if upload.owner is not None:
        values["owner"] = upload.owner
    if upload.tags:
        values["tags"] = json.dumps(dict(upload.tags))
    return _SUBMIT.command(
        [row_key(ticket), OPEN_KEY, ALL_KEY, owner_key(upload.owner), queue or ALL_KEY],
        [change(stamp={"queued_at": 0}, values=values), ticket, ROW_KEPT_S, message, int(once)],
    )


def read(ticket: str) -> Steps[UploadState]:
    """Return one upload's state."""
    try:
        fields = yield from reply(("HGETALL", row_key(ticket)))
    except errors.UnreadableStateError as error:
        raise errors.UnreadableStateError(f"upload {ticket}", error.problem) from None
    if not fields:
        raise errors.UnknownTicketError(ticket)
    return UploadState.of(ticket, fields)


def statuses(tickets: Sequence[str]) -> Steps[list[UploadStatus]]:
    """Return the statuses of uploads, in order."""
    found = yield from known_statuses(tickets)
    missing = next((ticket for ticket in tickets if ticket not in found), None)
    if missing is not None:
        raise errors.UnknownTicketError(missing)
    return [found[ticket] for ticket in tickets]


def known_statuses(
    tickets: Sequence[str], *, readable: bool = False
) -> Steps[dict[str, UploadStatus]]:
    """Return the statuses of those uploads that are known; with ``readable``, that can be read."""
    commands: list[Command] = [("TIME",), *(("HGETALL", row_key(ticket)) for ticket in tickets)]
    (seconds, micros), *rows = yield commands
    now = seconds + micros / 1e6
    known: dict[str, UploadState] = {}
    for ticket, row in zip(tickets, rows, strict=True):
        with suppress(*((errors.NewerRowError, errors.UnreadableStateError) if readable else ())):
            if row:
                known[ticket] = UploadState.seen(ticket, row)
    told = [ticket for ticket, row in known.items() if row.request.notify]
    deliveries = yield from outbox.deliveries(told)
    return {ticket: row.status(now, deliveries.get(ticket, ())) for ticket, row in known.items()}


def living_among(tickets: Sequence[str]) -> Steps[set[str]]:
    """Return those uploads that have not ended."""
    stages = yield [("HGET", row_key(ticket), "stage") for ticket in tickets]
    return {ticket for ticket, stage in zip(tickets, stages, strict=True) if stage in LIVING}


def listed(owner: str | None, stage: Stage | None, limit: int, cursor: str | None) -> Steps[Page]:
    """Return at most ``limit`` uploads, the newest first.

    Of uploads in other stages 2,000 are passed over at most; then the page is shorter, and its
    cursor goes on from there.
    """
    found: list[UploadStatus] = []
    passed = 0
    until = "+inf" if cursor is None else f"({cursor}"
    while passed < _MOST_READ:
        page = yield from reply(
            ("ZREVRANGEBYSCORE", owner_key(owner), until, "-inf", "WITHSCORES", "LIMIT", 0, _PAGE)
        )
        if not page:
            return Page(found, None)
        if not isinstance(page[0], list | tuple):  # as RESP2 has it: one after the other
            page = [*zip(page[::2], page[1::2], strict=True)]
        rows = yield from known_statuses([str(ticket) for ticket, _ in page], readable=True)
        for ticket, score in page:
            cursor = f"{float(score):.6f}"
            status = rows.get(str(ticket))
            if status is not None and stage in (None, status.stage):
                found.append(status)
                if len(found) == limit:
                    return Page(found, cursor)
        until = f"({cursor}"
        passed += len(page)
    return Page(found, cursor)


def left_behind(ticket: str) -> Steps[bool]:
    """Whether something of an upload may be at the provider that nobody wants.

    Reads single fields: the row may be of a newer client.
    """
    stage, copy, request, released_at = yield from reply(
        ("HMGET", row_key(ticket), "stage", "copy_at_provider", "request", "let_go_at")
    )
    try:
        cleanup = bool(json.loads(request or "{}").get("cleanup_on_timeout", True))
    except (ValueError, AttributeError):
        cleanup = True  # nobody can read what was asked for
    wanted = copy_wanted(str(stage), released=released_at is not None, cleanup_on_timeout=cleanup)
    return copy == Copy.PRESENT and not wanted


def update(
    ticket: str,
    stages: tuple[Stage, ...],
    *,
    stamp: Mapping[str, float] = {},
    values: Mapping[str, str] = {},
    unset: tuple[str, ...] = (),
    count: tuple[str, ...] = (),
) -> Steps[float | None]:
    """Write if the row is in one of ``stages``; return Redis's time, or None if it is not."""
    wanted = change(stages, stamp, values, unset, count)
    now = yield from reply(_WRITE.command([row_key(ticket), OPEN_KEY], [wanted]))
    return None if now is None else float(now)


def deleting(ticket: str) -> Command:
    """Return the command that records that nothing of an upload is left at the provider."""
    values = {"copy_at_provider": str(Copy.DELETED)}
    wanted = change(tuple(Stage), values=values, unset=("session_url",))
    return _WRITE.command([row_key(ticket), OPEN_KEY], [wanted])


def ended(
    ticket: str, stage: Stage, error: errors.ProviderUploadsError, stages: tuple[Stage, ...]
) -> Steps[bool]:
    """Record a bad end; False when it is in none of ``stages``."""
    values = {"stage": str(stage), "error": json.dumps(error.as_record())}
    now = yield from update(
        ticket, stages, stamp={"ended_at": 0}, values=values, unset=("source_url", "note")
    )
    return now is not None


def cancelled(ticket: str, stages: tuple[Stage, ...] = LIVING) -> Steps[bool]:
    """Record that nobody wants it any more; False when it is in none of ``stages``."""
    return (yield from ended(ticket, Stage.CANCELLED, errors.UploadCancelledError(ticket), stages))


def withdrawn(tickets: Iterable[str]) -> Steps[None]:
    """Record that uploads were never sent: a message that arrives after all does nothing."""
    for ticket in tickets:
        yield from cancelled(ticket, (Stage.QUEUED,))


def release_copy(ticket: str) -> Steps[bool]:
    """Record that nobody wants an ended upload's file any more; False while it lives."""
    now = yield from update(ticket, ENDED, stamp={"let_go_at": 0})
    return now is not None
