"""``ask`` and ``answer``: one question over many files."""

from __future__ import annotations

import sys

import click
from rich.text import Text

from provider_uploads.cli import display
from provider_uploads.cli.console import (
    FAILED,
    PROFILE,
    Seconds,
    err,
    event,
    printable,
    printable_lines,
    say,
    starting,
)
from provider_uploads.cli.uploads import interruptible, through_outages
from provider_uploads.client import UploadQueue
from provider_uploads.questions import DEFAULT_MODEL, Answer
from provider_uploads.schemas import Stage


@click.command()
@click.argument("prompt")
@click.argument("paths", nargs=-1, metavar="FILE...")
@click.option("--ticket", "tickets", multiple=True, help="An earlier upload; repeatable.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON object.")
@PROFILE
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
        event(f"question {asked}: provider-uploads answer {asked}")
        uploads = queue.question(asked).uploads
        with interruptible(uploads):
            console = err  # what stands on standard output is the answer
            read = through_outages(lambda: queue.statuses(uploads))
            statuses = display.follow(console, read) if uploads else []
            if any(status.stage is not Stage.ACTIVE for status in statuses):
                for problem in display.problems(statuses):
                    err.print(Text(printable(problem), "red"), soft_wrap=True)
                sys.exit(FAILED)
            with starting(f"Asking {model}", console):
                answered = queue.answer(asked)
    _print_answer(answered, as_json)


@click.command()
@click.argument("ticket")
@click.option("--timeout-s", type=Seconds(), help="Most seconds to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON object.")
def answer(ticket: str, timeout_s: float | None, as_json: bool) -> None:
    """Wait for the answer to a question that was asked before, and print it."""
    with UploadQueue() as queue:
        _print_answer(queue.answer(ticket, timeout_s=timeout_s), as_json)


def _print_answer(answered: Answer, as_json: bool) -> None:
    if as_json:
        click.echo(answered.model_dump_json())
        return
    say(printable_lines(answered.text))
    err.print(bill(answered), style="dim", soft_wrap=True)


def bill(answer: Answer) -> str:
    """Return what an answer cost: ``gemini-3-flash: 2 files, 1,540 + 38 tokens, STOP``."""
    thoughts = f" + {answer.thought_tokens:,} of thought" if answer.thought_tokens else ""
    files = f"{answer.files} file" if answer.files == 1 else f"{answer.files} files"
    return (
        f"{answer.model}: {files}, {answer.prompt_tokens:,} + {answer.answer_tokens:,} tokens"
        f"{thoughts}, {answer.finish_reason}"
    )
