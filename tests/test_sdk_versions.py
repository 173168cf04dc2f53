"""google-genai from the oldest to the newest: one suite, each in a virtualenv of its own."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.nodes import ROOT
from tests.test_hosts import Environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: What touches google-genai: the provider, the direct API, Files, generate and the error map. The
#: newest SDK has the whole suite.
SUITE = ("gemini", "direct", "files", "flow_questions", "gateway", "refusals")


@pytest.mark.parametrize(
    ("wanted", "series"),
    [("google-genai==1.57.0", "1.57."), ("google-genai>=2,<3", "2.")],
    ids=["the oldest", "the newest 2"],
)
def test_the_suite_passes_with(wanted: str, series: str, tmp_path: Path) -> None:
    """pip resolves all that the project needs; only the tests' own tools come from outside."""
    environment = Environment(tmp_path / "venv", ROOT, "[worker,emulator]", wanted)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(environment.run("-P", "-c", where).strip())
    (own / "tools.pth").write_text(sysconfig.get_path("purelib"))  # after its own packages

    code = (
        "import google.genai, provider_uploads as ours;"
        "print(google.genai.__version__, google.genai.__file__, ours.__file__)"
    )
    version, *files = environment.run("-P", "-c", code).split()
    assert version.startswith(series)
    assert [Path(file).is_relative_to(own) for file in files] == [True, True]

    modules = [f"tests/test_{name}.py" for name in SUITE]
    done = subprocess.run(
        [environment.bin / "python", "-m", "pytest", "-q", "-n", "2", "-m", "not slow", *modules],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:]
