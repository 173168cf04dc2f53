"""The benchmarks run, and say what they measured; their figures are nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, Series
from benchmarks.page import write
from tests.nodes import ROOT


@pytest.mark.parametrize("name", ["submit", pytest.param("web", marks=pytest.mark.slow)])
def test_a_quick_run_prints_figures_with_their_peers(name: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks",
            "--quick",
            "--rounds",
            "1",
            "--only",
            name,
            "--json",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) >= 3
    assert "celery" in json.dumps(lines[0])


def test_a_run_replaces_its_block_of_the_page_and_no_other(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("A\n<!-- web -->\nold\n<!-- /web -->\nB\n<!-- x -->\nold\n<!-- /x -->\n")
    ours, theirs = Series.of([1.0, 2.0]), Series.of([2.0, 2.0])
    figures = [Figure("streams", "open", "s", "less", ours, peer, theirs) for peer in ("p", "q")]
    known = {"cores": "2", "machine": "Linux", "celery": "5.7"}
    for _ in range(2):  # what it wrote can be replaced again
        write(page, known, {"web": figures})
        text = page.read_text()
        assert text.count("| **provider-uploads** | 1.50 (1.00 to 2.00) |") == 1
        assert "| p | 2.00<br>**0.75 (0.50 to 1.00)** |" in text
        assert "2 cores, Linux, celery 5.7" in text
        assert text.startswith("A\n<!-- web -->\n")
        assert text.endswith("B\n<!-- x -->\nold\n<!-- /x -->\n")
    with pytest.raises(BenchmarkError, match="has no place"):
        write(page, known, {"limits": figures})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_peers_run_beside_ours() -> None:
    if find_spec("dramatiq") is None or find_spec("rq") is None or find_spec("taskiq") is None:
        pytest.skip("the group bench is not installed: pip install --group bench")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--quick", "--rounds", "1", "--json"),
            *("--only", "peers", "--peer", "naive Celery", "--peer", "rq SimpleWorker"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines()][1:]
    assert {figure["peer"] for figure in figures} == {"naive Celery", "rq SimpleWorker", None}
    assert all(figure["ours"]["min"] > 0 for figure in figures)
    assert any(figure["figure"] == "round trips" for figure in figures)
