"""The workers' own code, ``tasks`` and ``config``: where it is, and how to run it.

In a checkout or the image the two stand beside the package's source; in an installed wheel they
travel inside the package. Either way they run in a process of their own, so a host's own ``tasks``
or ``config`` and ours never meet:

    python -P -m provider_uploads.local.workers <folder of tasks and config> worker -Q transfer
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from provider_uploads.errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parents[1]


def home() -> Path:
    """Return the folder that holds ``tasks/`` and ``config/``; raises ConfigurationError.

    It is the checkout that the working directory or an editable install points to, else the
    installed package's own.
    """
    for folder in (Path.cwd(), _PACKAGE.parents[1], _PACKAGE / "_workers"):
        if (folder / "tasks" / "canvases.py").is_file() and (folder / "config").is_dir():
            return folder
    raise ConfigurationError(
        "tasks/ and config/ are missing from this installation. Install provider-uploads again: "
        "pip install --force-reinstall 'provider-uploads[all]'."
    )


def command(folder: Path, *arguments: str) -> list[str]:
    """Return the command that runs one of Celery's with our application: ``worker`` …"""
    # -P: a host's tasks/ in the working directory is not ours.
    module = ("-P", "-m", "provider_uploads.local.workers")
    return [sys.executable, *module, os.fspath(folder), *arguments]


def run(arguments: Sequence[str], env: Mapping[str, str] = {}) -> None:
    """Become that process. Does not return; raises ConfigurationError."""
    folder = home()
    os.execve(sys.executable, command(folder, *arguments), {**os.environ, **env})  # noqa: S606


def main() -> None:
    """Run Celery with the application in the folder named first."""
    folder, *arguments = sys.argv[1:]
    sys.path.insert(0, folder)
    # Before Celery, which looks for modules by name in the working directory first.
    importlib.import_module("config.celeryconfig")
    app = importlib.import_module("tasks.celery").app
    from celery.bin.celery import celery

    celery.params[0].default = app  # as Celery.start does, which prints a traceback for a typo
    celery.main(args=arguments, prog_name="celery")


if __name__ == "__main__":
    main()
