"""``files``: what the provider holds, asked without the queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from provider_uploads.cli.console import PROFILE, out, printable, say
from provider_uploads.cli.tables import STYLES, WIDE, table
from provider_uploads.files import Files
from provider_uploads.schemas import ProviderFile

_STYLES = {stage.value: style for stage, style in STYLES.items()}


@click.group("files")
def files() -> None:
    """List, show, delete and register the files of the API key."""


JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a file.")


@files.command("list")
@JSON
@PROFILE
def list_files(profile: str, as_json: bool) -> None:
    """List all files at the provider."""
    with Files(profile=profile) as files:
        _print_files(files.list(), as_json)


@files.command("get")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@JSON
@PROFILE
def get_files(names: tuple[str, ...], profile: str, as_json: bool) -> None:
    """Show files by name, id or URI."""
    with Files(profile=profile) as files:
        _print_files([files.get(name) for name in names], as_json)


@files.command("delete")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--must-exist", is_flag=True, help="Fail when a file is not there.")
@PROFILE
def delete_files(names: tuple[str, ...], profile: str, must_exist: bool) -> None:
    """Delete files by name, id or URI; one that is gone already is fine."""
    with Files(profile=profile) as files:
        for name in names:
            was_there = files.delete(name, missing_ok=not must_exist)
            say(f"{name}: {'deleted' if was_there else 'was not there'}")


@files.command("register")
@click.argument("uris", nargs=-1, required=True, metavar="gs://BUCKET/OBJECT...")
@JSON
@PROFILE
def register_files(uris: tuple[str, ...], profile: str, as_json: bool) -> None:
    """Make files of a Google Cloud bucket usable without copying them."""
    with Files(profile=profile) as files:
        _print_files(files.register(uris), as_json)


def _print_files(files: Iterable[ProviderFile], as_json: bool) -> None:
    if as_json:
        for file in files:
            click.echo(file.model_dump_json())
    else:
        out.print(listing([*files], out.width))


def listing(files: Sequence[ProviderFile], width: int) -> Table:
    """Return a table of files at the provider: name, display name, state, size, type, expiry.

    On a terminal of less than 100 columns without the last two; the names stay whole.
    """
    rest = ("MIME type", "Expires") if width >= WIDE else ()
    names = ("Name", "Display name", "State", "Size", *rest)
    made = table(*names, folds=("Display name",))
    for file in files:
        expires = f"{file.expires_at:%Y-%m-%d %H:%M %Z}" if file.expires_at else "-"
        made.add_row(
            Text(file.name),
            Text(printable(file.display_name or "-")),
            Text(file.state, style=_STYLES.get(file.state, "")),
            decimal(file.size_bytes),
            *((Text(file.mime_type), expires) if rest else ()),
        )
    return made
