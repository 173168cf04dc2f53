"""google-genai in a process of its own, measured like our worker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.errors import BenchmarkError
from benchmarks.meter import Meter
from provider_uploads.local.workers import home

NAME = "google-genai"


@dataclass(frozen=True, slots=True)
class Work:
    """What one job took."""

    wall_s: float
    cpu_ms: float
    looks: int


class Peer:
    """The process, as a context manager; its client and threads live as long."""

    def __init__(self, base_url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.sdk", base_url],
            cwd=home(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us to pass on
        )
        self.meter = Meter(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with suppress(BrokenPipeError), self._process:
            pass  # closes its pipes and waits for it

    def upload(
        self, paths: Sequence[Path], mime_type: str, *, look: bool = True, wait_s: float = 0.0
    ) -> Work:
        """Upload files and, with ``look``, get each until it is ACTIVE, ``wait_s`` before a get."""
        job = {
            "paths": [str(path) for path in paths],
            "mime_type": mime_type,
            "look": look,
            "wait_s": wait_s,
        }
        cpu_ms = self.meter.cpu_ms()
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        line = ""
        with suppress(BrokenPipeError):
            stdin.write(json.dumps(job) + "\n")
            stdin.flush()
            line = stdout.readline()
        if not line:
            raise BenchmarkError(f"{NAME} failed; what it said stands above")
        done = json.loads(line)
        return Work(done["wall_s"], self.meter.cpu_ms() - cpu_ms, done["looks"])
