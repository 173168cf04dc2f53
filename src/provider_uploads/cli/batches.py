"""``provider-uploads batch``: submit, list, status, results, cancel, delete."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from provider_uploads.batches import results as places
from provider_uploads.cli.console import FAILED, PROFILE, USAGE, err, event, out, printable, say
from provider_uploads.client import UploadQueue
from provider_uploads.errors import QueueUnavailableError, UnknownTicketError
from provider_uploads.schemas import DEADLINE_S, BatchStage, BatchStatus

#: Between two reads of the ledger.
_REFRESH_S = 0.2

_STYLES = {
    BatchStage.QUEUED: "dim",
    BatchStage.RUNNING: "yellow",
    BatchStage.COLLECTING: "cyan",
    BatchStage.SUCCEEDED: "green",
    BatchStage.FAILED: "bold red",
    BatchStage.TIMED_OUT: "bold red",
    BatchStage.CANCELLED: "magenta",
}
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
_TICKETS = click.argument("tickets", nargs=-1, required=True, metavar="TICKET...")


@click.group()
def batch() -> None:
    """Run many requests to one model as a batch, and fetch its results."""


@batch.command()
@click.argument("path", metavar="FILE|URL")
@click.option("--model", required=True, help="Such as gemini-2.5-flash.")
@click.option("--display-name", default="", help="Name to show at the provider.")
@click.option("--results", metavar="PATH|URL", help="Where a worker writes: .jsonl or .parquet.")
@click.option(
    "--deadline-s",
    type=float,
    default=DEADLINE_S,
    show_default=True,
    help="Seconds that a job may take.",
)
@click.option(
    "--on-deadline",
    type=click.Choice(["wait", "cancel", "resubmit"]),
    default="wait",
    show_default=True,
    help="What then; also for a job that the service let expire.",
)
@click.option("--parts", type=int, default=2, show_default=True, help="Into how many, if again.")
@click.option("--resubmissions", type=int, default=2, show_default=True, help="How often again.")
@click.option("--keep", is_flag=True, help="Leave job, input and output at the provider.")
@click.option("--any-field", is_flag=True, help="Let fields pass that are not known here.")
@click.option("--wait", is_flag=True, help="Show progress until the batch has ended.")
@PROFILE
@_JSON
def submit(
    path: str, wait: bool, as_json: bool, keep: bool, any_field: bool, **options: Any
) -> None:
    """Check the requests in FILE, queue them as one batch and print its ticket."""
    with UploadQueue() as queue:
        ticket = queue.batch(path, cleanup=not keep, check_fields=not any_field, **options)
        if wait:
            _follow(queue, ticket, as_json)
        elif as_json:
            say(queue.batch_status(ticket).model_dump_json())
        else:
            say(ticket)


@batch.command("list")
@click.option("--stage", type=click.Choice([*BatchStage]), help="Only those in this stage.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@_JSON
def list_(stage: str | None, limit: int, as_json: bool) -> None:
    """Show batches, the newest first."""
    with UploadQueue() as queue:
        found = queue.batch_list(stage=stage, limit=limit)
    _print(found, as_json)


@batch.command()
@_TICKETS
@_JSON
def status(tickets: tuple[str, ...], as_json: bool) -> None:
    """Show where batches are; a ticket that is not known does not hide the others."""
    found, unknown = [], []
    with UploadQueue() as queue:
        for ticket in tickets:
            try:
                found.append(queue.batch_status(ticket))
            except UnknownTicketError as error:
                unknown.append(str(error))
    _print(found, as_json)
    for problem in unknown:
        err.print(Text.assemble(("Error: ", "bold red"), problem), soft_wrap=True)
    if unknown:
        sys.exit(USAGE)
    _exit_for(found)


@batch.command()
@click.argument("ticket")
@click.option("--output", "-o", metavar="PATH|URL", help="Write to a file: .jsonl or .parquet.")
def results(ticket: str, output: str | None) -> None:
    """Print the answers of a batch in the order of its requests, as JSON, a line each."""
    with UploadQueue() as queue:
        answers = queue.batch_answers(ticket)
        if output is not None:
            places.write(answers, output, None)
            say(output)
            return
        for answer in answers:
            click.echo(places.answer_line(answer))


@batch.command()
@_TICKETS
def cancel(tickets: tuple[str, ...]) -> None:
    """Stop batches and cancel their jobs; one that has ended is left alone."""
    with UploadQueue() as queue:
        for ticket in tickets:
            found = queue.batch_cancel(ticket)
            said = f"had ended: {found}" if found.ended else f"cancelled, was {found}"
            say(f"{ticket}  {said}")


@batch.command()
@_TICKETS
def delete(tickets: tuple[str, ...]) -> None:
    """Delete what ended batches have at the provider: jobs, inputs and outputs."""
    with UploadQueue() as queue:
        for ticket in tickets:
            found = queue.batch_delete(ticket)
            said = "is being deleted" if found.ended else f"left alone, is {found}: cancel it"
            say(f"{ticket}  {said}")


# -- how it looks ----------------------------------------------------------------------------------


def _follow(queue: UploadQueue, ticket: str, as_json: bool) -> None:
    """Show a batch until it has ended; an outage of Redis is waited out."""
    console = err if as_json else out
    last = (
        _on_terminal(queue, ticket, console)
        if console.is_terminal
        else _in_lines(queue, ticket, console)
    )
    _print([last], as_json)
    _exit_for([last])


def _in_lines(queue: UploadQueue, ticket: str, console: Console) -> BatchStatus:
    said = ""
    while True:
        now = _asked(queue, ticket)
        if now is not None:
            line = f"{ticket}: {_where(now)}"
            if line != said:
                said = line
                console.print(Text(printable(line)), soft_wrap=True)
            if now.stage.ended:
                return now
        time.sleep(_REFRESH_S)


def _on_terminal(queue: UploadQueue, ticket: str, console: Console) -> BatchStatus:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("", total=None)
        while True:
            now = _asked(queue, ticket)
            if now is not None:
                done = now.counts.succeeded + now.counts.failed
                total = now.counts.requests or None
                progress.update(
                    bar, description=printable(_where(now)), completed=done, total=total
                )
                if now.stage.ended:
                    return now
            time.sleep(_REFRESH_S)


def _asked(queue: UploadQueue, ticket: str) -> BatchStatus | None:
    try:
        return queue.batch_status(ticket)
    except QueueUnavailableError as error:
        event(str(error))
        time.sleep(1.0)
        return None


def _where(status: BatchStatus) -> str:
    state = f" ({status.state})" if status.state and status.stage is BatchStage.RUNNING else ""
    note = f": {status.note}" if status.note else ""
    return f"{status.stage}{state}{note}"


def _print(found: Sequence[BatchStatus], as_json: bool) -> None:
    if as_json:
        for one in found:
            say(json.dumps(one.model_dump(mode="json")))
        return
    if not found:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Batch", no_wrap=True)
    for name in ("Stage", "State"):
        table.add_column(name, overflow="fold")
    for name in ("Requests", "Failed", "Ran"):
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(
            one.ticket,
            Text(one.stage, _STYLES[one.stage]),
            printable(one.state or ""),
            f"{one.counts.requests:,}",
            f"{one.counts.failed:,}",
            f"{one.running_s:.1f} s",
        )
    out.print(table)
    for one in found:
        why = (one.error or {}).get("message") or one.note
        if why:
            say(printable(f"{one.ticket}  {why}"))


def _exit_for(found: Sequence[BatchStatus]) -> None:
    if any(one.stage.ended and one.stage is not BatchStage.SUCCEEDED for one in found):
        sys.exit(FAILED)
