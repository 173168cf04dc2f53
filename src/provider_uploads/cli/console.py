"""What all commands say things with: two consoles, shared options, exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.text import Text

FAILED, USAGE, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130

out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)

PROFILE = click.option(
    "--profile", default="default", show_default=True, help="Whose account: a profile's name."
)


def say(text: str) -> None:
    """Print a line as it is, however wide the terminal."""
    out.print(Text(text), soft_wrap=True)


def event(text: str) -> None:
    """Print what happened beside the answer."""
    err.print(Text(text, "yellow"), soft_wrap=True)


@contextmanager
def starting(text: str, console: Console = out) -> Iterator[None]:
    """Show that something is going on while the block runs."""
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        console.print(Text(text), soft_wrap=True)
        yield
