"""``provider-uploads``: upload, status, cancel, delete, sweep, ask, files, tier, doctor, up …

Exit codes: 0 all is well; 1 an upload ended without an ACTIVE file; 2 wrong usage, input or
set-up; 3 Redis or the provider cannot be reached; 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

import click
from rich.console import Console
from rich.text import Text

from provider_uploads import display
from provider_uploads.cli_doctor import doctor
from provider_uploads.cli_tier import tier
from provider_uploads.client import UploadQueue
from provider_uploads.errors import (
    InvalidRequestError,
    MissingDependencyError,
    ProviderUploadsError,
    TransientError,
)
from provider_uploads.files import Files
from provider_uploads.questions import DEFAULT_MODEL
from provider_uploads.records import Copy, ProviderFile, Stage, UploadStatus
from provider_uploads.samples import make_samples
from provider_uploads.stack import Provider, Stack, StackOptions

FAILED, USAGE, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130

_out = Console(highlight=False, emoji=False)
_err = Console(stderr=True, highlight=False, emoji=False)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 all is well; 1 an upload ended without an ACTIVE file; 2 wrong usage, "
    "input or set-up; 3 Redis or the provider cannot be reached; 130 interrupted.",
)
@click.version_option(package_name="provider-uploads")
def cli() -> None:
    """Get files into the Gemini File API, and know that they are ACTIVE."""


cli.add_command(doctor)

_PROFILE = click.option(
    "--profile", default="default", show_default=True, help="Whose account: a profile's name."
)


cli.add_command(tier)


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH|URL...")
@click.option("--wait", is_flag=True, help="Show progress until every file has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a file, a line each.")
@click.option("--display-name", help="Name to show at the provider (one file only).")
@click.option("--mime-type", help="As type/subtype; guessed from the name by default.")
@click.option(
    "--timeout-s",
    type=float,
    default=120.0,
    show_default=True,
    help="Seconds to wait for ACTIVE once the provider has all bytes.",
)
@click.option(
    "--poll-s", type=float, default=2.0, show_default=True, help="Seconds before the first look."
)
@click.option(
    "--max-poll-s",
    type=float,
    default=10.0,
    show_default=True,
    help="Most seconds between two looks.",
)
@click.option(
    "--backoff-factor",
    type=float,
    default=1.5,
    show_default=True,
    help="How much later each next look comes.",
)
@click.option(
    "--jitter-s",
    type=float,
    default=0.2,
    show_default=True,
    help="Spread of each wait, in seconds either way.",
)
@_PROFILE
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
    **patience: float,
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
            **patience,
        }
        if len(paths) == 1:
            tickets = [queue.submit(paths[0], display_name=display_name, **options)]
        else:
            tickets = queue.submit_many(paths, **options)
        if not wait:
            _print_tickets(queue.statuses(tickets), as_json)
            return
        with _interruptible(tickets):
            _follow(queue, tickets, as_json)


@cli.command()
@click.argument("tickets", nargs=-1, required=True, metavar="TICKET...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a file, a line each.")
def status(tickets: tuple[str, ...], as_json: bool) -> None:
    """Show where uploads are."""
    with UploadQueue() as queue:
        statuses = queue.statuses(tickets)
    _print_statuses(statuses, as_json)
    _exit_for(statuses)


@cli.command()
@click.argument("tickets", nargs=-1, required=True, metavar="TICKET...")
def cancel(tickets: tuple[str, ...]) -> None:
    """Stop uploads and delete their files; one that has ended is left alone."""
    with UploadQueue() as queue:
        for ticket in tickets:
            found = queue.cancel(ticket)
            said = f"had ended: {found}" if found.ended else f"cancelled, was {found}"
            _say(f"{ticket}  {said}")


@cli.command()
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
            _say(f"{ticket}  {said}")


@cli.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--unknown",
    is_flag=True,
    help="Delete also files under our names that this Redis knows nothing of.",
)
@click.option(
    "--quiet-s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Leave alone what moved within so many seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a finding.")
def sweep(dry_run: bool, unknown: bool, quiet_s: float, as_json: bool) -> None:
    """Find what nobody moves any more, and bring it to its end."""
    with UploadQueue() as queue:
        found = queue.sweep(dry_run=dry_run, unknown=unknown, quiet_s=quiet_s)
    if as_json:
        for finding in found:
            click.echo(finding.model_dump_json())
    elif found:
        _out.print(display.findings(found, dry_run=dry_run, unknown=unknown))
    else:
        _say("Nothing is lost and nothing is left behind.")


@cli.command()
@click.argument("prompt")
@click.argument("paths", nargs=-1, metavar="FILE...")
@click.option("--ticket", "tickets", multiple=True, help="An earlier upload; repeatable.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON object.")
@_PROFILE
def ask(
    prompt: str,
    paths: tuple[str, ...],
    tickets: tuple[str, ...],
    model: str,
    as_json: bool,
    profile: str,
) -> None:
    """Upload files, and ask a model one question over all of them."""
    with UploadQueue() as queue:
        asked = queue.ask(prompt, paths, tickets=tickets, model=model, profile=profile)
        uploads = queue.question(asked).uploads
        with _interruptible(uploads):
            console = _err  # what stands on standard output is the answer
            statuses = display.follow(console, lambda: queue.statuses(uploads)) if uploads else []
            if any(status.stage is not Stage.ACTIVE for status in statuses):
                for problem in display.problems(statuses):
                    _err.print(Text(display.printable(problem), "red"), soft_wrap=True)
                sys.exit(FAILED)
            with _starting(f"Asking {model}", console):
                answer = queue.answer(asked)
    if as_json:
        click.echo(answer.model_dump_json())
        return
    _say(display.printable_lines(answer.text))
    _err.print(display.bill(answer), style="dim", soft_wrap=True)


@cli.group("files")
def files_group() -> None:
    """List, show, delete and register the files of the API key."""


_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a file.")


@files_group.command("list")
@_JSON
@_PROFILE
def list_files(profile: str, as_json: bool) -> None:
    """List all files at the provider."""
    with Files(profile=profile) as files:
        _print_files(files.list(), as_json)


@files_group.command("get")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_JSON
@_PROFILE
def get_files(names: tuple[str, ...], profile: str, as_json: bool) -> None:
    """Show files by name, id or URI."""
    with Files(profile=profile) as files:
        _print_files([files.get(name) for name in names], as_json)


@files_group.command("delete")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--must-exist", is_flag=True, help="Fail when a file is not there.")
@_PROFILE
def delete_files(names: tuple[str, ...], profile: str, must_exist: bool) -> None:
    """Delete files by name, id or URI; one that is gone already is fine."""
    with Files(profile=profile) as files:
        for name in names:
            was_there = files.delete(name, missing_ok=not must_exist)
            _say(f"{name}: {'deleted' if was_there else 'was not there'}")


@files_group.command("register")
@click.argument("uris", nargs=-1, required=True, metavar="gs://BUCKET/OBJECT...")
@_JSON
@_PROFILE
def register_files(uris: tuple[str, ...], profile: str, as_json: bool) -> None:
    """Make files of a Google Cloud bucket usable without copying them."""
    with Files(profile=profile) as files:
        _print_files(files.register(uris), as_json)


def _print_files(files: Iterable[ProviderFile], as_json: bool) -> None:
    if as_json:
        for file in files:
            click.echo(file.model_dump_json())
    else:
        _out.print(display.listing([*files]))


@cli.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--provider",
    type=click.Choice(["local", "gemini"]),
    default="local",
    show_default=True,
    help="The local Gemini, or the real one with GEMINI_API_KEY.",
)
def demo(files: tuple[Path, ...], provider: Provider) -> None:
    """Run everything on this machine for a minute and watch files become ACTIVE."""
    with tempfile.TemporaryDirectory(prefix="provider-uploads-demo-") as folder, _ctrl_c():
        paths = list(files) or make_samples(Path(folder), video=provider == "local")
        options = StackOptions(
            provider=provider,
            redis_port=0,
            processing_s=3.0,
            bandwidth_mib_s=4.0 if provider == "local" else 0.0,
            roots=tuple(dict.fromkeys(Path(os.path.realpath(path)).parent for path in paths)),
        )
        with ExitStack() as running:
            with _starting("Starting Redis, the provider and two workers"):
                stack = running.enter_context(Stack(options, events=_event))
            queue = running.enter_context(UploadQueue(stack.redis_url))
            _out.print(f"Redis {stack.redis_url}   provider {stack.base_url}", style="dim")
            _follow(queue, queue.submit_many(paths, timeout_s=60, poll_s=1), as_json=False)


@cli.command()
@click.option(
    "--provider",
    type=click.Choice(["local", "gemini"]),
    default="local",
    show_default=True,
    help="The local Gemini, or the real one with GEMINI_API_KEY.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Transfer workers, beside one control worker.",
)
@click.option("--redis-url", help="Use this Redis instead of starting one.")
@click.option(
    "--redis-port",
    type=click.IntRange(0, 65535),
    default=6379,
    show_default=True,
    help="Port for our own Redis; 0 is any free one.",
)
@click.option(
    "--gemini-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port for the local Gemini.  [default: any free one]",
)
@click.option(
    "--processing-s",
    type=float,
    default=2.0,
    show_default=True,
    help="How long the local Gemini keeps videos and PDFs in PROCESSING.",
)
@click.option("--flower/--no-flower", default=False, help="Run Flower too, behind a login.")
@click.option("--flower-port", type=click.IntRange(0, 65535), default=5555, show_default=True)
@click.option(
    "--root",
    "roots",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="A folder that workers may read; repeatable.  [default: this one]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep Redis's data in this folder.  [default: gone at the end]",
)
def up(**options: Any) -> None:
    """Run the whole stack on this machine, in the foreground; Ctrl-C stops all of it."""
    options["roots"] = tuple(Path(os.path.realpath(root)) for root in options["roots"])
    ready = threading.Event()

    def line(service: str, text: str) -> None:
        if ready.is_set():  # until then banners only; a service that does not start is quoted
            _out.print(Text.assemble((f"{service:>13} ", "dim"), text), soft_wrap=True)

    with ExitStack() as running:
        running.enter_context(_ctrl_c())
        with _starting("Starting Redis, the provider and the workers"):
            stack = Stack(StackOptions(beat=True, **options), lines=line, events=_event)
            running.enter_context(stack)
        _out.print("[bold green]Ready.[/] In another terminal:")
        _say(f"  export PROVIDER_UPLOADS_REDIS_URL={stack.redis_url}")
        _say("  provider-uploads upload --wait FILE...")
        if stack.flower_url:
            user, _, password = (stack.flower_auth or "").partition(":")
            _say(f"Flower: {stack.flower_url}  user {user}  password {password}")
        _say("Ctrl-C stops everything.")
        ready.set()
        while True:
            signal.pause()  # until one raises KeyboardInterrupt


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8123,
    show_default=True,
    help="0 is any free one.",
)
@click.option(
    "--processing-s",
    type=float,
    default=2.0,
    show_default=True,
    help="How long videos and PDFs stay in PROCESSING.",
)
@click.option(
    "--latency-ms", type=float, default=0.0, show_default=True, help="Added to each request."
)
@click.option(
    "--bandwidth-mib-s",
    type=float,
    default=0.0,
    show_default=True,
    help="What one upload may bring a second; 0 is no limit.",
)
@click.option(
    "--api-key", "api_keys", multiple=True, help="A key to accept; repeatable.  [default: any]"
)
@click.option(
    "--max-file-bytes",
    type=click.IntRange(min=0),
    default=2 * 1024**3,
    show_default=True,
    help="What one file may have.",
)
@click.option(
    "--max-project-bytes",
    type=click.IntRange(min=0),
    default=20 * 1024**3,
    show_default=True,
    help="What all files of one key may have together.",
)
@click.option(
    "--gateway-finalizes-first/--gateway-adds-up",
    default=True,
    help="Under /genai the first chunk is taken for the whole file, or chunks add up."
    "  [default: the first]",
)
@click.option(
    "--requests-per-minute",
    multiple=True,
    metavar="OPERATION=N",
    help="Answer 429 beyond that, as start=60; repeatable.  [default: no limit]",
)
@click.option("--requests-per-day", multiple=True, metavar="OPERATION=N", help="The same by day.")
@click.option("--keep-bytes", is_flag=True, help="Keep the bytes of files while it runs.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where bytes go meanwhile.  [default: the system's temporary folder]",
)
def emulator(host: str, port: int, api_keys: tuple[str, ...], **options: Any) -> None:
    """Run the local Gemini: the Files API over HTTP, for tests and first steps."""
    try:
        from provider_uploads.emulator import EmulatorConfig, EmulatorError, serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("provider_uploads"):
            raise
        raise MissingDependencyError(error.name or "starlette", "emulator") from None
    try:
        for limits in ("requests_per_minute", "requests_per_day"):
            options[limits] = _limits(options[limits])
        config = EmulatorConfig(api_keys=frozenset(api_keys), **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        serve(config, host, port, announce=_say)
    except EmulatorError as error:
        raise click.ClickException(str(error)) from None


def _limits(assignments: Sequence[str]) -> dict[str, int]:
    limits = {}
    for assignment in assignments:
        operation, _, limit = assignment.partition("=")
        if not limit.isdecimal():
            raise ValueError(f"{assignment!r} is no limit: give OPERATION=N, as start=60")
        limits[operation] = int(limit)
    return limits


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; the user's mistakes are sentences, never tracebacks."""
    try:
        code = cli.main(args=arguments, prog_name="provider-uploads", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = USAGE
    except (click.Abort, KeyboardInterrupt):
        _err.print("Stopped.")
        code = INTERRUPTED
    except ProviderUploadsError as error:
        said = "\n".join(display.printable(line) for line in str(error).splitlines())
        _err.print(Text.assemble(("Error: ", "bold red"), said), soft_wrap=True)
        code = UNAVAILABLE if isinstance(error, TransientError) else USAGE
    sys.exit(code or 0)


def _follow(queue: UploadQueue, tickets: Sequence[str], as_json: bool) -> None:
    # With --json, progress goes where it does not mix with the answer.
    console = _err if as_json else _out
    statuses = display.follow(console, lambda: queue.statuses(tickets))
    _print_statuses(statuses, as_json)
    _exit_for(statuses)


def _print_tickets(statuses: Sequence[UploadStatus], as_json: bool) -> None:
    if as_json:
        _print_statuses(statuses, as_json)
        return
    for status in statuses:
        _say(f"{status.ticket}  {display.printable(status.source)}")


def _print_statuses(statuses: Sequence[UploadStatus], as_json: bool) -> None:
    if as_json:
        for status in statuses:
            click.echo(status.model_dump_json())
        return
    _out.print(display.summary(statuses))
    for problem in display.problems(statuses):
        _err.print(Text(display.printable(problem), "red"), soft_wrap=True)


def _exit_for(statuses: Sequence[UploadStatus]) -> None:
    if any(status.stage.ended and status.stage is not Stage.ACTIVE for status in statuses):
        sys.exit(FAILED)


@contextmanager
def _interruptible(tickets: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        some = " ".join(tickets[:3]) + (" ..." if len(tickets) > 3 else "")
        _err.print(
            f"Not waiting any more; the uploads go on: provider-uploads status {some}",
            soft_wrap=True,
        )
        sys.exit(INTERRUPTED)


@contextmanager
def _ctrl_c() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the stack just as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _starting(text: str, console: Console = _out) -> Iterator[None]:
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        console.print(Text(text), soft_wrap=True)
        yield


def _event(text: str) -> None:
    _err.print(Text(text, "yellow"), soft_wrap=True)


def _say(text: str) -> None:
    _out.print(Text(text), soft_wrap=True)
