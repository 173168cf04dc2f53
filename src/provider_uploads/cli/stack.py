"""``demo``, ``up`` and ``emulator``: what runs on this machine."""

from __future__ import annotations

import os
import shlex
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from rich.live import Live
from rich.text import Text

from provider_uploads.cli.console import event, out, say, starting
from provider_uploads.cli.uploads import follow
from provider_uploads.client import UploadQueue
from provider_uploads.client.submission import submission_for
from provider_uploads.errors import MissingDependencyError
from provider_uploads.local.samples import make_samples
from provider_uploads.local.stack import Provider, Stack, StackOptions


@click.command()
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
    with tempfile.TemporaryDirectory(prefix="provider-uploads-demo-") as folder, ctrl_c():
        paths = list(files) or make_samples(Path(folder), video=provider == "local")
        for path in paths:  # before anything is started
            submission_for(path)
        options = StackOptions(
            provider=provider,
            redis_port=0,
            processing_s=3.0,
            bandwidth_mib_s=4.0 if provider == "local" else 0.0,
            roots=tuple(dict.fromkeys(Path(os.path.realpath(path)).parent for path in paths)),
        )
        with ExitStack() as running:
            with starting("Starting Redis, the provider and two workers"):
                stack = running.enter_context(Stack(options, events=event))
            queue = running.enter_context(UploadQueue(stack.redis_url))
            out.print(f"Redis {stack.redis_url}   provider {stack.base_url}", style="dim")
            follow(queue, queue.submit_many(paths, timeout_s=60, poll_s=1), as_json=False)


@click.command()
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
    "--staging",
    help="Where streams are staged: a folder or an fsspec URL.  [default: gone at the end]",
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
            out.print(Text.assemble((f"{service:>13} ", "dim"), text), soft_wrap=True)

    with ExitStack() as running:
        running.enter_context(ctrl_c())
        with starting("Starting Redis, the provider and the workers"):
            stack = Stack(StackOptions(beat=True, **options), lines=line, events=event)
            running.enter_context(stack)
        running.enter_context(_staying(_how_to_use(stack)))
        ready.set()
        while True:
            signal.pause()  # until one raises KeyboardInterrupt


def _how_to_use(stack: Stack) -> str:
    lines = [
        f"Redis {stack.redis_url}   provider {stack.base_url}",
        "Ready. In another terminal:",
        f"  . {shlex.quote(str(stack.shell_file))}",
        "  provider-uploads upload --wait FILE...",
    ]
    if stack.options.provider != "local":
        lines.append("  (doctor, files and sweep need your GEMINI_API_KEY there, too)")
    if stack.flower_url:
        user, _, password = (stack.flower_auth or "").partition(":")
        lines.append(f"Flower: {stack.flower_url}  user {user}  password {password}")
    return "\n".join([*lines, "Ctrl-C stops everything."])


@contextmanager
def _staying(text: str) -> Iterator[None]:
    """Print a text; on a terminal it stays below what is printed while the block runs."""
    if not out.is_terminal:
        say(text)
        yield
        return
    with Live(Text(text, "green"), console=out, auto_refresh=False) as live:
        live.refresh()
        yield


@click.command()
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
    "--multipart/--no-multipart",
    "takes_multipart",
    default=True,
    help="Take a file whose description and bytes come in one request.  [default: take it]",
)
@click.option(
    "--requests-per-minute",
    multiple=True,
    metavar="OPERATION=N",
    help="Answer 429 beyond that, as start=60; repeatable.  [default: no limit]",
)
@click.option("--requests-per-day", multiple=True, metavar="OPERATION=N", help="The same by day.")
@click.option(
    "--public-uri",
    default="https://generativelanguage.googleapis.com",
    show_default=True,
    help="What the URIs of files begin with; empty is the address the client used.",
)
@click.option("--model", "models", multiple=True, help="One more model to know; repeatable.")
@click.option(
    "--min-cache-tokens",
    type=click.IntRange(min=0),
    default=1024,
    show_default=True,
    help="The least that cached contents may count.",
)
@click.option(
    "--max-batch-jobs",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Batch jobs of one key that have not ended; one more is 429.",
)
@click.option(
    "--max-enqueued-tokens",
    type=click.IntRange(min=0),
    help="Tokens of one model in one key's batch jobs; one that would make it more fails."
    "  [default: no limit]",
)
@click.option("--keep-bytes", is_flag=True, help="Keep the bytes of files while it runs.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where bytes go meanwhile.  [default: the system's temporary folder]",
)
def emulator(host: str, port: int, api_keys: tuple[str, ...], **options: Any) -> None:
    """Run the local Gemini: the Files API over HTTP, for tests and first steps."""
    try:
        from provider_uploads.emulator import BatchConfig, EmulatorConfig, EmulatorError, serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("provider_uploads"):
            raise
        raise MissingDependencyError(error.name or "starlette", "emulator") from None
    try:
        for limits in ("requests_per_minute", "requests_per_day"):
            options[limits] = _limits(options[limits])
        batches = BatchConfig(
            max_concurrent_jobs=options.pop("max_batch_jobs"),
            max_enqueued_tokens=options.pop("max_enqueued_tokens"),
        )
        config = EmulatorConfig(api_keys=frozenset(api_keys), batches=batches, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        serve(config, host, port, announce=say)
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


@contextmanager
def ctrl_c() -> Iterator[None]:
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
