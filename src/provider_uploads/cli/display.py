"""Uploads on a terminal: moving while they travel, a table at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from provider_uploads.cli.console import printable
from provider_uploads.cli.tables import STYLES, WIDE, table
from provider_uploads.schemas import Stage, UploadStatus

#: Between two reads of the ledger: one round trip for all files.
_REFRESH_S = 0.1
#: More rows than this scroll away; the counts below them stay.
_MOST_ROWS = 20

_STEPS = ("Queued", "Upload", "Processing")
#: What moves comes first where not all rows fit.
_INTEREST = (Stage.UPLOADING, Stage.PROCESSING, Stage.FAILED, Stage.TIMED_OUT, Stage.QUEUED)


def follow(console: Console, ask: Callable[[], list[UploadStatus]]) -> list[UploadStatus]:
    """Show uploads until all have ended; return their last statuses.

    On a terminal rows move in place; elsewhere each change of stage is a line.
    """
    statuses = ask()
    if not console.is_terminal:
        return _follow_in_lines(console, ask)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(_moving(statuses), refresh=True)
            if all(status.stage.ended for status in statuses):
                return statuses
            time.sleep(_REFRESH_S)
            statuses = ask()


def _follow_in_lines(console: Console, ask: Callable[[], list[UploadStatus]]) -> list[UploadStatus]:
    seen: dict[str, Stage] = {}
    while True:
        statuses = ask()
        for status in statuses:
            if seen.get(status.ticket) is not status.stage:
                seen[status.ticket] = status.stage
                console.print(
                    Text(f"{printable(status.display_name)}: {status.stage}"), soft_wrap=True
                )
        if all(status.stage.ended for status in statuses):
            return statuses
        time.sleep(_REFRESH_S)


def _moving(statuses: Sequence[UploadStatus]) -> RenderableType:
    table = Table.grid(padding=(0, 2), expand=False)
    table.add_column(max_width=32, no_wrap=True, overflow="ellipsis")
    table.add_column(min_width=10)
    table.add_column(width=24)
    table.add_column(justify="right")
    table.add_column(justify="right")
    shown = list(statuses)
    if len(shown) > _MOST_ROWS:
        rank = {stage: number for number, stage in enumerate(_INTEREST)}
        shown = sorted(shown, key=lambda s: rank.get(s.stage, len(rank)))[:_MOST_ROWS]
    for status in shown:
        table.add_row(
            Text(printable(status.display_name)),
            Text(status.stage, style=STYLES[status.stage]),
            _bar(status),
            f"{decimal(status.sent_bytes)} of {_size(status)}",
            _elapsed(status),
        )
    counts = Counter(status.stage for status in statuses)
    line = "  ".join(f"{counts[stage]} {stage}" for stage in Stage if counts[stage])
    notes = [
        Text(printable(f"{status.display_name}: {status.note}"), style="yellow", overflow="fold")
        for status in shown
        if status.note
    ]
    return Group(table, *notes[:5], Text(line, style="dim"))


def _bar(status: UploadStatus) -> RenderableType:
    if status.stage is Stage.PROCESSING:
        return ProgressBar(total=None, pulse=True, width=24)
    total = max(status.size_bytes or 0, 1)
    full = status.size_bytes == 0 and status.stage is Stage.ACTIVE
    return ProgressBar(total=total, completed=total if full else status.sent_bytes, width=24)


def _size(status: UploadStatus) -> str:
    return "?" if status.size_bytes is None else decimal(status.size_bytes)


def _elapsed(status: UploadStatus) -> str:
    if status.stage is Stage.PROCESSING:
        return f"{status.processing_s:.1f} s, {_polls(status.polls)}"
    return f"{status.queued_s + status.upload_s + status.processing_s:.1f} s"


def _polls(polls: int) -> str:
    return f"{polls} poll" if polls == 1 else f"{polls} polls"


def summary(statuses: Sequence[UploadStatus], width: int) -> Table:
    """Return the closing table: name, state, size, type, seconds per step, polls.

    On a terminal of less than 100 columns the seconds are one sum.
    """
    steps = _STEPS if width >= WIDE else ("In all",)
    made = table("File", "State", "Size", "MIME type", *steps, "Polls", folds=("File",))
    for status in statuses:
        seconds = [status.queued_s, status.upload_s, status.processing_s]
        made.add_row(
            Text(printable(status.display_name)),
            Text(status.stage, style=STYLES[status.stage]),
            _size(status),
            Text(status.mime_type),
            *(f"{s:.2f} s" for s in (seconds if width >= WIDE else [sum(seconds)])),
            str(status.polls),
        )
    return made


def overview(statuses: Sequence[UploadStatus]) -> Table:
    """Return a table of uploads by their tickets: what, how far, how large, whose."""
    made = table("Ticket", "File", "State", "Size", "Owner", folds=("File", "Owner"))
    for status in statuses:
        made.add_row(
            status.ticket,
            Text(printable(status.display_name)),
            Text(status.stage, style=STYLES[status.stage]),
            _size(status),
            Text(printable(status.owner or "-")),
        )
    return made


def addresses(statuses: Sequence[UploadStatus]) -> list[str]:
    """Return a line for each file that is there: its URI, or its id where it has none, and name.

    The URI comes first and is not for a table, which would fold it: it is what people copy.
    """
    there = [(one, one.uri or one.id) for one in statuses if one.uri or one.stage is Stage.ACTIVE]
    return [f"{where}  {printable(one.display_name)}" for one, where in there if where]


def problems(statuses: Sequence[UploadStatus]) -> list[str]:
    """Return a sentence for each upload that ended without an ACTIVE file."""
    return [
        f"{status.display_name}: {(status.error or {}).get('message') or status.stage}"
        for status in statuses
        if status.stage.ended and status.stage is not Stage.ACTIVE
    ]
