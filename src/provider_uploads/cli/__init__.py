"""``provider-uploads``: upload, status, cancel, delete, sweep, ask, files, tier, doctor, up …

    uploads   what goes through the queue
    files     what the provider holds
    tier      what the accounts may do
    doctor    what is wrong with a set-up
    stack     demo, up, emulator
    workers   worker, beat, flower

Exit codes: 0 all is well; 1 an upload ended without an ACTIVE file; 2 wrong usage, input or
set-up; 3 Redis or the provider cannot be reached; 130 interrupted. The doctor has its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click
from rich.text import Text

from provider_uploads.cli import display, doctor, files, stack, tier, uploads, workers
from provider_uploads.cli.console import INTERRUPTED, UNAVAILABLE, USAGE, err
from provider_uploads.errors import ProviderUploadsError, TransientError


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 all is well; 1 an upload ended without an ACTIVE file; 2 wrong usage, "
    "input or set-up; 3 Redis or the provider cannot be reached; 130 interrupted.",
)
@click.version_option(package_name="provider-uploads")
def cli() -> None:
    """Get files into the Gemini File API, and know that they are ACTIVE."""


for command in (
    *(uploads.upload, uploads.status, uploads.cancel, uploads.delete, uploads.sweep, uploads.ask),
    uploads.answer,
    *(files.files, tier.tier, doctor.doctor),
    *(stack.demo, stack.up, stack.emulator),
    *(workers.worker, workers.beat, workers.flower),
):
    cli.add_command(command)


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
        said = "\n".join(display.printable(line) for line in str(error).splitlines())
        err.print(Text.assemble(("Error: ", "bold red"), said), soft_wrap=True)
        code = UNAVAILABLE if isinstance(error, TransientError) else USAGE
    sys.exit(code or 0)
