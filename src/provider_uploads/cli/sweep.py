"""``provider-uploads sweep``: what nobody moves any more."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich import box
from rich.table import Table

from provider_uploads.cli.console import Seconds, event, out, say
from provider_uploads.client import UploadQueue
from provider_uploads.settings import settings
from provider_uploads.sweep import Finding, Kind


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--unknown",
    is_flag=True,
    help="Delete also files under our names that this Redis knows nothing of.",
)
@click.option(
    "--quiet-s",
    type=Seconds(),
    default=20.0,
    show_default=True,
    help="Leave alone what moved within so many seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a finding.")
def sweep(dry_run: bool, unknown: bool, quiet_s: float, as_json: bool) -> None:
    """Find what nobody moves any more, and bring it to its end."""
    with UploadQueue() as queue:
        found = queue.sweep(dry_run=dry_run, unknown=unknown, quiet_s=quiet_s)
    if as_json:
        for finding in found:
            click.echo(finding.model_dump_json())
    elif found:
        out.print(table(found, dry_run=dry_run, unknown=unknown))
    not_looked_at = _out_of_reach()
    if not (as_json or found or not_looked_at):
        say("Nothing is lost and nothing is left behind.")
    elif not (as_json or found):
        say("Nothing is lost in Redis.")
    for text in not_looked_at:
        event(text)


def _out_of_reach() -> list[str]:
    """Say what a sweep in this process cannot look at."""
    return [
        f"Not looked at: files at the provider of profile {name}, which has no API key here."
        for name in sorted(settings().keyless_profile_names)
    ]


def table(found: Sequence[Finding], *, dry_run: bool, unknown: bool) -> Table:
    """Return a table of what a sweep found, and of what it did about it."""
    done = {
        Kind.LOST: "submitted again",
        Kind.LEFTOVER: "deletion sent",
        Kind.PARKED: "sent",
        Kind.UNTOLD: "sent again",
        Kind.STAGED: "removed",
        Kind.STRAY: "deleted",
        Kind.UNKNOWN: "deleted" if unknown else "left alone",
        Kind.UNREADABLE: "left alone",
    }
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for name in ("Found", "Upload or file", "Why", "Would be" if dry_run else "Is"):
        made.add_column(name, overflow="fold")
    for finding in found:
        made.add_row(finding.kind.value, finding.subject, finding.why, done[finding.kind])
    return made
