"""``provider-uploads dead-letters``: what stood in a queue and no worker could read."""

from __future__ import annotations

import time

import click

from provider_uploads.cli.console import event, printable, say
from provider_uploads.fleet.dead_letters import DeadLetters
from provider_uploads.ledger.connection import Connection
from provider_uploads.settings import settings


@click.command("dead-letters")
@click.option("--items", is_flag=True, help="Print the items too; they may hold secrets.")
@click.option("--drop", is_flag=True, help="Forget them, after they are printed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each.")
def dead_letters(items: bool, drop: bool, as_json: bool) -> None:
    """Show what workers took from a queue and could not read, the newest first."""
    connection = Connection(settings().redis_url, timeout_s=settings().redis_timeout_s)
    try:
        letters = DeadLetters(connection)
        count, kept = letters.count(), letters.read()
        for letter in kept:
            if as_json:
                click.echo(letter.model_dump_json(exclude=set() if items else {"item"}))
                continue
            at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(letter.at))
            size = f"{letter.size_bytes:,} bytes"
            say(printable(f"{at}  queue {letter.queue}  {size}  {letter.reason}"))
            if items:
                say(printable(letter.item))
        if drop:
            letters.drop()
    finally:
        connection.close()
    event(f"{count} in all, {len(kept)} kept" + (", now dropped" if drop else ""))
