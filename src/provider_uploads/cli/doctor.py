"""``provider-uploads doctor``: what is wrong with a set-up, and what to do about it.

Exit codes: 0 all is well; 1 it works, with warnings; 2 it does not work.
"""

from __future__ import annotations

import sys
from collections import Counter

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from provider_uploads.cli.console import err, out, printable
from provider_uploads.doctor import Verdict, examine
from provider_uploads.doctor.check import Examination

_VERDICTS = {
    Verdict.OK: "green",
    Verdict.NOTE: "cyan",
    Verdict.WARNING: "yellow",
    Verdict.FAILURE: "bold red",
}
_EXIT_CODES = {Verdict.WARNING: 1, Verdict.FAILURE: 2}


@click.command(
    epilog="Exit codes: 0 all is well; 1 it works, with warnings; 2 it does not work.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Check keys, Redis, workers and queues, and say what to do about what is wrong.

    Run it where a worker runs, with the worker's environment.
    """
    if as_json or not err.is_terminal:
        found = examine()
    else:
        with err.status("Asking Redis, the provider and the workers"):
            found = examine()
    if as_json:
        click.echo(found.model_dump_json())
    else:
        out.print(report(found))
    sys.exit(_EXIT_CODES.get(found.verdict, 0))


def report(found: Examination) -> RenderableType:
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
