"""What goes through the queue: upload, status, cancel, delete."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import click
from rich.text import Text

from provider_uploads.cli import display
from provider_uploads.cli.console import (
    FAILED,
    INTERRUPTED,
    PROFILE,
    USAGE,
    err,
    event,
    out,
    printable,
    say,
)
from provider_uploads.client import UploadQueue
from provider_uploads.errors import InvalidRequestError, QueueUnavailableError, UnknownTicketError
from provider_uploads.schemas import (
    BACKOFF_FACTOR,
    JITTER_S,
    MAX_POLL_S,
    POLL_S,
    TIMEOUT_S,
    Copy,
    Stage,
    UploadStatus,
)

#: Between two attempts to reach a Redis that is away.
_RETRY_S = 0.5


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH|URL...")
@click.option("--wait", is_flag=True, help="Show progress until every file has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a file, a line each.")
@click.option("--display-name", help="Name to show at the provider (one file only).")
@click.option("--mime-type", help="As type/subtype; guessed from the name by default.")
@click.option(
    "--timeout-s",
    type=float,
    default=TIMEOUT_S,
    show_default=True,
    help="Seconds to wait for ACTIVE once the provider has all bytes.",
)
@click.option(
    "--poll-s", type=float, default=POLL_S, show_default=True, help="Seconds before the first poll."
)
@click.option(
    "--max-poll-s",
    type=float,
    default=MAX_POLL_S,
    show_default=True,
    help="Most seconds between two polls.",
)
@click.option(
    "--backoff-factor",
    type=float,
    default=BACKOFF_FACTOR,
    show_default=True,
    help="How much longer each next wait is.",
)
@click.option(
    "--jitter-s",
    type=float,
    default=JITTER_S,
    show_default=True,
    help="Spread of each wait, in seconds either way.",
)
@PROFILE
@click.option(
    "--keep-on-timeout", is_flag=True, help="Leave a file that timed out or failed at the provider."
)
@click.option(
    "--reuse", is_flag=True, help="Share the provider's file with other such uploads of its bytes."
)
@click.option(
    "--evict",
    type=click.Choice(["oldest"]),
    help="Where the account's storage is full, delete the oldest files that we uploaded.",
)
def upload(
    paths: tuple[str, ...],
    wait: bool,
    as_json: bool,
    display_name: str | None,
    mime_type: str | None,
    keep_on_timeout: bool,
    profile: str,
    reuse: bool,
    evict: Literal["oldest"] | None,
    **poll_policy: float,
) -> None:
    """Queue files and print their tickets; with --wait, follow them to ACTIVE.

    s3://, gs:// and https:// URLs are read by the worker, if it has them switched on.
    """
    if display_name is not None and len(paths) > 1:
        raise InvalidRequestError("display_name", repr(display_name), "names one file, not many")
    with UploadQueue() as queue:
        cleanup = not keep_on_timeout
        options: dict[str, Any] = {
            "mime_type": mime_type,
            "cleanup_on_timeout": cleanup,
            "profile": profile,
            "reuse": reuse,
            "evict": evict,
            **poll_policy,
        }
        if len(paths) == 1:
            tickets = [queue.submit(paths[0], display_name=display_name, **options)]
        else:
            tickets = queue.submit_many(paths, **options)
        if not wait:
            _print_tickets(queue.statuses(tickets), as_json)
            return
        with interruptible(tickets):
            follow(queue, tickets, as_json)


@click.command()
@click.argument("tickets", nargs=-1, required=True, metavar="TICKET...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a file, a line each.")
def status(tickets: tuple[str, ...], as_json: bool) -> None:
    """Show where uploads are; a ticket that is not known does not hide the others."""
    statuses, unknown = [], []
    with UploadQueue() as queue:
        for ticket in tickets:
            try:
                statuses.append(queue.status(ticket))
            except UnknownTicketError as error:
                unknown.append(str(error))
    if statuses:
        _print_ends(statuses, as_json)
    for problem in unknown:
        err.print(Text.assemble(("Error: ", "bold red"), problem), soft_wrap=True)
    if unknown:
        sys.exit(USAGE)
    _exit_for(statuses)


@click.command()
@click.argument("tickets", nargs=-1, required=True, metavar="TICKET...")
def cancel(tickets: tuple[str, ...]) -> None:
    """Stop uploads and delete their files; one that has ended is left alone."""
    with UploadQueue() as queue:
        for ticket in tickets:
            found = queue.cancel(ticket)
            said = f"had ended: {found}" if found.ended else f"cancelled, was {found}"
            say(f"{ticket}  {said}")


@click.command()
@click.argument("tickets", nargs=-1, required=True, metavar="TICKET...")
def delete(tickets: tuple[str, ...]) -> None:
    """Delete the files of ended uploads; one that others share stays until all have done so."""
    with UploadQueue() as queue:
        for ticket in tickets:
            copy = queue.status(ticket).copy_at_provider
            found = queue.delete(ticket)
            said = f"left alone, is {found}: cancel it"
            if found.ended:
                said = "is being deleted" if copy is Copy.PRESENT else f"{found}: nothing is left"
            say(f"{ticket}  {said}")


def through_outages(
    read: Callable[[], list[UploadStatus]],
) -> Callable[[], list[UploadStatus]]:
    """Return what reads again while Redis is away, once it was there: the uploads go on."""
    reached = False

    def again() -> list[UploadStatus]:
        nonlocal reached
        told = False
        while True:
            try:
                found = read()
            except QueueUnavailableError:
                if not reached:
                    raise
                if not told:
                    event("Redis is away; the uploads go on when it is back. Waiting for it.")
                told = True
                time.sleep(_RETRY_S)
            else:
                reached = True
                return found

    return again


def follow(queue: UploadQueue, tickets: Sequence[str], as_json: bool) -> None:
    """Show uploads until all have ended; exit 1 unless all are ACTIVE."""
    # With --json, progress goes where it does not mix with the answer.
    console = err if as_json else out
    statuses = display.follow(console, through_outages(lambda: queue.statuses(tickets)))
    _print_ends(statuses, as_json)
    _exit_for(statuses)


def _print_ends(statuses: Sequence[UploadStatus], as_json: bool) -> None:
    _print_statuses(statuses, as_json)
    if not as_json:
        _print_tickets(statuses, as_json)


def _print_tickets(statuses: Sequence[UploadStatus], as_json: bool) -> None:
    if as_json:
        _print_statuses(statuses, as_json)
        return
    for status in statuses:
        say(f"{status.ticket}  {printable(status.source)}")


def _print_statuses(statuses: Sequence[UploadStatus], as_json: bool) -> None:
    if as_json:
        for status in statuses:
            click.echo(status.model_dump_json())
        return
    out.print(display.summary(statuses, out.width))
    for address in display.addresses(statuses):
        say(address)
    for problem in display.problems(statuses):
        err.print(Text(printable(problem), "red"), soft_wrap=True)


def _exit_for(statuses: Sequence[UploadStatus]) -> None:
    if any(status.stage.ended and status.stage is not Stage.ACTIVE for status in statuses):
        sys.exit(FAILED)


@contextmanager
def interruptible(tickets: Sequence[str]) -> Iterator[None]:
    """Say on Ctrl-C that the uploads go on, and how to ask for them."""
    try:
        yield
    except KeyboardInterrupt:
        some = " ".join(tickets[:3]) + (" ..." if len(tickets) > 3 else "")
        err.print(
            f"Not waiting any more; the uploads go on: provider-uploads status {some}",
            soft_wrap=True,
        )
        sys.exit(INTERRUPTED)
