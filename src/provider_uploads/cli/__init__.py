"""``provider-uploads``: upload, status, ask, batch, files, tier, doctor, worker, up …

    uploads   what goes through the queue
    listing   list
    sweep     what nobody moves any more
    questions one question over many files
    batches   many requests to one model, and their answers
    files     what the provider holds
    tier      what the accounts may do
    doctor    what is wrong with a set-up
    dead_letters  what no worker could read
    stack     demo, up, emulator
    workers   worker, beat, flower

Exit codes: 0 all is well; 1 an upload ended without an ACTIVE file; 2 wrong usage, input or
set-up; 3 Redis or the provider cannot be reached; 130 interrupted. The doctor has its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from provider_uploads.cli.console import INTERRUPTED, UNAVAILABLE, USAGE, err, printable
from provider_uploads.errors import ProviderUploadsError, TransientError

#: The commands of each module. One is imported when it is asked for: `status` needs neither the
#: doctor's checks nor Celery, which take longer to import than it takes to run.
_MODULES = {
    "uploads": ("upload", "status", "cancel", "delete"),
    "listing": ("list",),
    "sweep": ("sweep",),
    "questions": ("ask", "answer"),
    "batches": ("batch",),
    "files": ("files",),
    "tier": ("tier",),
    "doctor": ("doctor",),
    "dead_letters": ("dead-letters",),
    "stack": ("demo", "up", "emulator"),
    "workers": ("worker", "beat", "flower"),
}
_WHERE = {command: module for module, commands in _MODULES.items() for command in commands}


class _Commands(click.Group):
    """A group that imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_WHERE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _WHERE:
            return None
        module = import_module(f"{__name__}.{_WHERE[cmd_name]}")
        name = {"list": "list_"}.get(cmd_name, cmd_name.replace("-", "_"))
        command: click.Command = getattr(module, name)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 all is well; 1 an upload ended without an ACTIVE file; 2 wrong usage, "
    "input or set-up; 3 Redis or the provider cannot be reached; 130 interrupted.",
)
@click.version_option(package_name="provider-uploads")
def cli() -> None:
    """Get files into the Gemini File API, and know that they are ACTIVE."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; the user's mistakes are sentences, never tracebacks."""
    try:
        code = cli.main(args=arguments, prog_name="provider-uploads", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = USAGE
    except (click.Abort, KeyboardInterrupt):
        err.print("Stopped.")
        code = INTERRUPTED
    except ProviderUploadsError as error:
        from rich.text import Text

        said = "\n".join(printable(line) for line in str(error).splitlines())
        err.print(Text.assemble(("Error: ", "bold red"), said), soft_wrap=True)
        code = UNAVAILABLE if isinstance(error, TransientError) else USAGE
    sys.exit(code or 0)
