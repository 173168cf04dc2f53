"""Virtualenvs with this project's wheel in them, as pip makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.nodes import ROOT


def build_wheel(out: Path) -> Path:
    build = [sys.executable, "-m", "build", "--quiet", "--wheel", "--outdir", str(out), "."]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (built,) = out.glob("*.whl")
    return built


class Environment:
    """A virtualenv with this project's wheel, and what else is named."""

    def __init__(self, folder: Path, wheel: Path, extras: str, *packages: str) -> None:
        make = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
        subprocess.run(make, check=True, timeout=120)
        self.bin = folder / "bin"
        # By our own pip: to install another one takes as long as some packages do. Compiling all of
        # them would take as long as installing them, and most is never imported.
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install"]
        _printed([*pip, "--quiet", "--no-compile", f"{wheel}{extras}", *packages])

    def run(self, *arguments: str, cwd: Path | None = None, **env: str) -> str:
        return _printed([str(self.bin / "python"), *arguments], cwd, env)


def _printed(command: list[str], cwd: Path | None = None, env: Mapping[str, str] = {}) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
