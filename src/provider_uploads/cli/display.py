"""Uploads on a terminal: moving while they travel, a table at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from provider_uploads.doctor.check import Examination, Verdict
from provider_uploads.fleet.limits import RateLimitStatus
from provider_uploads.fleet.tiers import Tier, shown
from provider_uploads.questions import Answer
from provider_uploads.schemas import ProviderFile, Stage, UploadStatus
from provider_uploads.sweep import Finding, Kind

#: Between two reads of the ledger: one round trip for all files.
_REFRESH_S = 0.1
#: More rows than this scroll away; the counts below them stay.
_MOST_ROWS = 20

_STYLES = {
    Stage.QUEUED: "dim",
    Stage.UPLOADING: "cyan",
    Stage.PROCESSING: "yellow",
    Stage.ACTIVE: "green",
    Stage.FAILED: "bold red",
    Stage.TIMED_OUT: "bold red",
    Stage.CANCELLED: "magenta",
}
_STYLES_BY_NAME = {stage.value: style for stage, style in _STYLES.items()}
_VERDICTS = {
    Verdict.OK: "green",
    Verdict.NOTE: "cyan",
    Verdict.WARNING: "yellow",
    Verdict.FAILURE: "bold red",
}
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
            Text(status.stage, style=_STYLES[status.stage]),
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


def summary(statuses: Sequence[UploadStatus]) -> Table:
    """Return the closing table: name, state, size, type, seconds per step, polls."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for name in ("File", "State", "Size", "MIME type", *_STEPS, "Polls"):
        right = name in ("Size", "Polls", *_STEPS)
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for status in statuses:
        table.add_row(
            Text(printable(status.display_name)),
            Text(status.stage, style=_STYLES[status.stage]),
            _size(status),
            Text(status.mime_type),
            f"{status.queued_s:.2f} s",
            f"{status.upload_s:.2f} s",
            f"{status.processing_s:.2f} s",
            str(status.polls),
        )
    return table


def addresses(statuses: Sequence[UploadStatus]) -> list[str]:
    """Return a line for each file that is there: its URI, or its id where it has none, and name.

    The URI comes first and is not for a table, which would fold it: it is what people copy.
    """
    there = [(one, one.uri or one.id) for one in statuses if one.uri or one.stage is Stage.ACTIVE]
    return [f"{where}  {printable(one.display_name)}" for one, where in there if where]


def listing(files: Sequence[ProviderFile]) -> Table:
    """Return a table of files at the provider: name, display name, state, size, type, expiry."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for name in ("Name", "Display name", "State", "Size", "MIME type", "Expires"):
        table.add_column(name, justify="right" if name == "Size" else "left", overflow="fold")
    for file in files:
        table.add_row(
            Text(file.name),
            Text(printable(file.display_name or "-")),
            Text(file.state, style=_STYLES_BY_NAME.get(file.state, "")),
            decimal(file.size_bytes),
            Text(file.mime_type),
            f"{file.expires_at:%Y-%m-%d %H:%M %Z}" if file.expires_at else "-",
        )
    return table


def findings(found: Sequence[Finding], *, dry_run: bool, unknown: bool) -> Table:
    """Return a table of what a sweep found, and of what it did about it."""
    done = {
        Kind.LOST: "submitted again",
        Kind.LEFTOVER: "deletion sent",
        Kind.STAGED: "removed",
        Kind.STRAY: "deleted",
        Kind.UNKNOWN: "deleted" if unknown else "left alone",
    }
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for name in ("Found", "Upload or file", "Why", "Would be" if dry_run else "Is"):
        table.add_column(name, overflow="fold")
    for finding in found:
        table.add_row(finding.kind.value, finding.subject, finding.why, done[finding.kind])
    return table


def standings(found: Sequence[RateLimitStatus], tiers: Mapping[str, Tier]) -> Table:
    """Return a table of rates and of what holds of them now."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for name in ("Profile", "Tier", "Work", "Tier's rate", "Rate", "In use", "On hold"):
        table.add_column(name, overflow="fold")
    for one in found:
        held = f"{one.on_hold_s:,.0f} s: {printable(one.why)}" if one.on_hold_s else ""
        table.add_row(
            one.profile,
            tiers[one.profile].name,
            one.work.value,
            shown(one.tier_rate),
            Text(shown(one.rate), "yellow" if one.rate != one.tier_rate else ""),
            Text(f"{one.factor:.0%}", "yellow" if one.factor < 1 else "") if one.rate else "",
            Text(held, "red"),
        )
    return table


def examination(found: Examination) -> RenderableType:
    """Return what the doctor found: a row for each check, its remedy below, the sum at the end."""
    table = Table(
        box=None, pad_edge=False, show_edge=False, show_header=False, padding=(0, 2, 0, 0)
    )
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in found.checks:
        says = Text(printable(check.says))
        if check.remedy:
            says.append(f"\n→ {printable(check.remedy)}", "bold")
        table.add_row(Text(check.verdict, _VERDICTS[check.verdict]), Text(check.name), says)
    counts = Counter(check.verdict for check in found.checks)
    failures, warnings = counts[Verdict.FAILURE], counts[Verdict.WARNING]
    troubles = [
        f"{count} {word}" + ("s" if count > 1 else "")
        for count, word in ((failures, "failure"), (warnings, "warning"))
        if count
    ]
    works = "It does not work" if failures else "It works"
    closing = f"{works}: {', '.join(troubles)}." if troubles else "All is well."
    return Group(table, "", Text(closing, _VERDICTS[found.verdict]))


def printable(text: str) -> str:
    """Return ``text`` without what a terminal would obey: file names may hold escape sequences."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines without what a terminal would obey."""
    return "\n".join(printable(line.expandtabs(4)) for line in text.splitlines())


def bill(answer: Answer) -> str:
    """Return what an answer cost: ``gemini-3-flash: 2 files, 1,540 + 38 tokens, STOP``."""
    thoughts = f" + {answer.thought_tokens:,} of thought" if answer.thought_tokens else ""
    files = f"{answer.files} file" if answer.files == 1 else f"{answer.files} files"
    return (
        f"{answer.model}: {files}, {answer.prompt_tokens:,} + {answer.answer_tokens:,} tokens"
        f"{thoughts}, {answer.finish_reason}"
    )


def problems(statuses: Sequence[UploadStatus]) -> list[str]:
    """Return a sentence for each upload that ended without an ACTIVE file."""
    return [
        f"{status.display_name}: {(status.error or {}).get('message') or status.stage}"
        for status in statuses
        if status.stage.ended and status.stage is not Stage.ACTIVE
    ]
