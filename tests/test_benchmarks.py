"""The benchmarks run, and say what they measured; their figures are nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.nodes import ROOT


def test_a_quick_run_prints_figures_with_their_peers() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks",
            "--quick",
            "--rounds",
            "1",
            "--only",
            "submit",
            "--json",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) >= 3
    assert "celery" in json.dumps(lines[0])
