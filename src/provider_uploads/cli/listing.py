"""``provider-uploads list``: the uploads of the last three days."""

from __future__ import annotations

import click

from provider_uploads.cli import display
from provider_uploads.cli.console import event, out, say
from provider_uploads.client import UploadQueue
from provider_uploads.schemas import Stage


@click.command("list")
@click.option("--owner", help="Only those that were submitted with this owner.")
@click.option(
    "--stage",
    type=click.Choice([stage.value for stage in Stage], case_sensitive=False),
    help="Only those in this stage.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--cursor", help="Go on where the last page ended: what it printed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an upload.")
def list_(
    owner: str | None, stage: str | None, limit: int, cursor: str | None, as_json: bool
) -> None:
    """Show uploads of the last three days, the newest first."""
    with UploadQueue() as queue:
        page = queue.list(owner=owner, stage=stage, limit=limit, cursor=cursor)
    if as_json:
        for status in page.uploads:
            click.echo(status.model_dump_json())
    elif page.uploads:
        out.print(display.overview(page.uploads))
    else:
        say("No uploads.")
    if page.cursor is not None:
        event(f"More: --cursor {page.cursor}")
