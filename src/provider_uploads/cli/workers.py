"""worker, beat, flower: Celery's own commands with our application."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from provider_uploads.errors import MissingDependencyError
from provider_uploads.local.workers import home, run

_CELERY = {"ignore_unknown_options": True, "help_option_names": []}


def _numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name an operator's own numbers."""
    for option in (
        click.option(
            "--policy",
            type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
            help="A file of settings, as .env is: NAME=value, a line each.",
        ),
        click.option(
            "--tiers-file",
            type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
            help="Your own config/tiers.toml.",
        ),
    ):
        function = option(function)
    return function


def _environment(tiers_file: Path | None, policy: Path | None) -> dict[str, str]:
    env = {}
    if tiers_file is not None:
        env["PROVIDER_UPLOADS_TIERS_FILE"] = os.fspath(tiers_file)
    if policy is not None:
        env["PROVIDER_UPLOADS_ENV_FILE"] = os.fspath(policy)
    return env


@click.command(context_settings=_CELERY)
@_numbers
@click.argument("celery_options", nargs=-1, type=click.UNPROCESSED)
def worker(celery_options: tuple[str, ...], tiers_file: Path | None, policy: Path | None) -> None:
    """Run a worker; further options are those of `celery worker`, such as -Q transfer.

    Without -Q it serves all queues. A fleet runs at least one with -Q transfer and one with
    -Q control.
    """
    _require("google.genai", "google-genai", "worker")
    run(["worker", "--loglevel", "INFO", *celery_options], _environment(tiers_file, policy))


@click.command(context_settings=_CELERY)
@_numbers
@click.argument("celery_options", nargs=-1, type=click.UNPROCESSED)
def beat(celery_options: tuple[str, ...], tiers_file: Path | None, policy: Path | None) -> None:
    """Run what sends the sweeps, once in a fleet; further options are those of `celery beat`."""
    run(["beat", "--loglevel", "INFO", *celery_options], _environment(tiers_file, policy))


@click.command(context_settings=_CELERY)
@click.argument("celery_options", nargs=-1, type=click.UNPROCESSED)
def flower(celery_options: tuple[str, ...]) -> None:
    """Run Flower; set PROVIDER_UPLOADS_FLOWER_AUTH=user:password."""
    _require("flower", "flower", "flower")
    conf = home() / "config" / "flowerconfig.py"
    run(["flower", f"--conf={conf}", *celery_options])


def _require(module: str, distribution: str, extra: str) -> None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise MissingDependencyError(distribution, extra)
