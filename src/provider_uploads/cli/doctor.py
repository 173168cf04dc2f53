"""``provider-uploads doctor``: what is wrong with a set-up, and what to do about it.

Exit codes: 0 all is well; 1 it works, with warnings; 2 it does not work.
"""

from __future__ import annotations

import sys

import click

from provider_uploads.cli import display
from provider_uploads.cli.console import err, out
from provider_uploads.doctor import Verdict, examine

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
        out.print(display.examination(found))
    sys.exit(_EXIT_CODES.get(found.verdict, 0))
