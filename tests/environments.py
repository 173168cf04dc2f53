"""Virtualenvs with this project's wheel in them, as pip makes them."""

from __future__ import annotations

import os
import subprocess
import sys
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
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
        self.bin = folder / "bin"
        self.pip("install", "--quiet", f"{wheel}{extras}", *packages)

    def pip(self, *arguments: str) -> str:
        return self.run("-m", "pip", *arguments)

    def run(self, *arguments: str, cwd: Path | None = None, **env: str) -> str:
        done = subprocess.run(
            [self.bin / "python", *arguments],
            cwd=cwd,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
