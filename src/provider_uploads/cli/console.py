"""What all commands say things with: two consoles, shared options, exit codes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.text import Text

FAILED, USAGE, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130

out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)


class Seconds(click.FloatRange):
    """Zero or more seconds; ``nan`` and ``inf`` are none."""

    def __init__(self) -> None:
        super().__init__(min=0, max=365 * 86_400)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the number; raises BadParameter."""
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


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


def printable(text: str) -> str:
    """Return ``text`` without what a terminal would obey: file names may hold escape sequences."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines without what a terminal would obey."""
    return "\n".join(printable(line.expandtabs(4)) for line in text.splitlines())
