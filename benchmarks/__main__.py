"""``python -m benchmarks``: measure, print a table; exit code 1 when something went wrong."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from benchmarks import report
from benchmarks.batches import batches
from benchmarks.contenders import PEERS, check_installed
from benchmarks.errors import BenchmarkError
from benchmarks.fairness import fairness
from benchmarks.figures import Figure
from benchmarks.large_file import large_file
from benchmarks.limits import limits
from benchmarks.machine import facts
from benchmarks.page import write
from benchmarks.plan import FULL, QUICK
from benchmarks.side_by_side import peers
from benchmarks.small_files import small_files
from benchmarks.startup import startup
from benchmarks.submission import submission
from benchmarks.videos import videos
from benchmarks.waiting import waiting
from benchmarks.web import web
from provider_uploads.errors import ProviderUploadsError

_BENCHMARKS = {
    "submit": submission,
    "small-files": small_files,
    "large-file": large_file,
    "videos": videos,
    "waiting": waiting,
    "limits": limits,
    "fairness": fairness,
    "web": web,
    "batches": batches,
    "peers": peers,
    "startup": startup,
}
#: A developer's own settings would be measured too; loopback needs no proxy.
_FOREIGN = ("PROVIDER_UPLOADS_", "CELERY_", "GEMINI_", "GOOGLE_")
_PROXIES = {"http_proxy", "https_proxy", "all_proxy"}
#: Narrower, and the table folds beyond reading; a pipe has no width of its own.
_LEAST_WIDTH = 150

_err = Console(stderr=True, highlight=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines instead of the table.")
@click.option(
    "--write",
    "page",
    type=click.Path(exists=True, dir_okay=False, writable=True, path_type=Path),
    help="Put the figures into this page, docs/performance.md.",
)
@click.option("--quick", is_flag=True, help="A small run: shows that everything works.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds of every benchmark.")
@click.option("--size-mib", type=click.IntRange(1, 2047), help="Size of the large file.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(_BENCHMARKS)), help="Run only this; repeatable."
)
@click.option(
    "--peer", "chosen_peers", multiple=True, type=click.Choice(PEERS), help="Only this; repeatable."
)
def main(
    as_json: bool,
    page: Path | None,
    quick: bool,
    rounds: int | None,
    size_mib: int | None,
    only: tuple[str, ...],
    chosen_peers: tuple[str, ...],
) -> None:
    """Measure provider-uploads beside its peers on this machine."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN) or name.lower() in _PROXIES:
            del os.environ[name]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = QUICK if quick else FULL
    plan = replace(
        plan,
        rounds=rounds or plan.rounds,
        large_rounds=rounds or plan.large_rounds,
        large_mib=size_mib or plan.large_mib,
        peer_rounds=rounds or plan.peer_rounds,
        peers=chosen_peers,
    )
    if "peers" in (only or _BENCHMARKS):
        check_installed()
    known = facts()
    (_err if as_json else Console(highlight=False)).print(report.headline(known), soft_wrap=True)
    results: dict[str, list[Figure]] = {}
    chosen = [name for name in _BENCHMARKS if not only or name in only]
    for number, name in enumerate(chosen, 1):
        with _err.status("starting") as status:

            def step(text: str, head: str = f"{number}/{len(chosen)} {name}") -> None:
                line = escape(f"{head}: {text}")
                if _err.is_terminal:
                    status.update(line)
                else:
                    _err.print(line, soft_wrap=True)

            step("starting")
            results[name] = _BENCHMARKS[name](plan, step)
    figures = [figure for found in results.values() for figure in found]
    if as_json:
        click.echo(report.json_lines(known, figures))
    else:
        console = Console(highlight=False)
        console.width = max(console.width, _LEAST_WIDTH)
        report.show(console, figures)
    if page is not None:
        write(page, known, results)


def _run() -> int:
    try:
        main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _err.print("Stopped.")
        return 130
    except (BenchmarkError, ProviderUploadsError) as error:
        _err.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
        for note in getattr(error, "__notes__", ()):
            _err.print(escape(note), soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_run())
