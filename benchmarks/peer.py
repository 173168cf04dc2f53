"""A peer's client process, and google-genai in threads as one that is its own worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.errors import BenchmarkError
from benchmarks.meter import Meter
from provider_uploads.local.workers import home

NAME = "google-genai"
#: The threads of google-genai's process: as many as the worker's pool has.
THREADS = 16


@dataclass(frozen=True, slots=True)
class Work:
    """What one job took."""

    wall_s: float
    cpu_ms: float
    polls: int


class Peer:
    """The process, as a context manager; its client and threads live as long.

    What is measured is its worker, where there is one apart from it.
    """

    def __init__(
        self,
        base_url: str,
        *,
        module: str = "genai_threads",
        redis_url: str = "",
        slots: int = THREADS,
        worker: Meter | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers", module],
            cwd=home(),
            env={**os.environ, **surroundings(base_url, redis_url, slots)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us to pass on
        )
        self._module = module
        self.meter = worker or Meter(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with suppress(BrokenPipeError), self._process:
            pass  # closes its pipes and waits for it

    def upload(
        self, paths: Sequence[Path], mime_type: str, *, poll_s: float = 0.0, check: bool = False
    ) -> Work:
        """Upload files and poll each every ``poll_s`` until it is ACTIVE.

        With ``check``, google-genai gets each at least once.
        """
        job: dict[str, Any] = {
            "paths": [str(path) for path in paths],
            "mime_type": mime_type,
            "poll_s": poll_s,
        }
        if check:
            job["check"] = True
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
            raise BenchmarkError(f"{self._module} failed; what it said stands above")
        done = json.loads(line)
        return Work(done["wall_s"], self.meter.cpu_ms() - cpu_ms, done["polls"])


def surroundings(base_url: str, redis_url: str, slots: int) -> dict[str, str]:
    """Return the variables that a peer's processes read."""
    return {
        "BENCH_GEMINI_URL": base_url,
        "BENCH_REDIS_URL": redis_url,
        "BENCH_SLOTS": str(slots),
    }
