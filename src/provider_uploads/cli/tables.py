"""Tables on a terminal: one row a line, and of a stage's own colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.table import Table

from provider_uploads.schemas import Stage

#: Narrower terminals get fewer columns.
WIDE: Final = 100

STYLES: Final = {
    Stage.QUEUED: "dim",
    Stage.UPLOADING: "cyan",
    Stage.PROCESSING: "yellow",
    Stage.ACTIVE: "green",
    Stage.FAILED: "bold red",
    Stage.TIMED_OUT: "bold red",
    Stage.CANCELLED: "magenta",
}
_RIGHT = {"Size", "Polls", "In all", "Queued", "Upload", "Processing"}


def table(*names: str, folds: Sequence[str]) -> Table:
    """Return a table whose rows stay on one line, except for columns that ``folds`` names."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for name in names:
        made.add_column(
            name,
            justify="right" if name in _RIGHT else "left",
            no_wrap=name not in folds,
            overflow="fold" if name in folds else "ellipsis",
            min_width=12 if name in folds else None,
            max_width=32 if name == "MIME type" else None,
        )
    return made
