"""google-genai in the versions that web apps have: the oldest, a 2.x and the newest."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from tests import emulator_walk
from tests.conftest import KEY
from tests.environments import Environment
from tests.nodes import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

#: The tests of what touches google-genai; with the newest they run as they are.
SUITE = ("gemini", "direct", "files", "flow_questions", "gateway", "refusals", "provider_batches")

SCRIPT = """
import asyncio, json, os
from importlib.metadata import version
from provider_uploads import (
    Files, ProviderUploadsError, aupload_and_wait_active, generate, upload_and_wait_active
)

open("a.mp4", "wb").write(b"x" * 300_000)
open("b.txt", "w").write("hello")
quick = {"poll_s": 0.1, "jitter_s": 0}
video = upload_and_wait_active("a.mp4", **quick)
text = asyncio.run(aupload_and_wait_active("b.txt", **quick))
answer = generate("What is it?", [text])

errors = []
with Files() as files:
    listed = sorted(file.name for file in files.list()) == sorted([video.id, text.id])
    got = files.get(text.id)
    for _ in range(2):  # an outage and a 429 are on order
        try:
            files.get(text.id)
        except ProviderUploadsError as error:
            errors.append(type(error).__name__)
    deleted = [files.delete(text.id), files.delete(text.id)]
    try:
        files.get(text.id)
    except ProviderUploadsError as error:
        errors.append(type(error).__name__)

with Files(profile="gateway") as files:
    at_gateway = [file.provider for file in files.list()]

print(json.dumps({
    "version": version("google-genai"), "states": [video.state, text.state], "polls": video.polls,
    "answer": "hello" in answer.text or text.id in answer.text, "listed": listed,
    "got": got.sha256 == text.sha256, "errors": errors, "deleted": deleted,
    "at_gateway": at_gateway,
}))
"""


#: Jobs of ours beside those of google-genai itself, which must see each other's.
BATCHES = """
import json, os
from importlib.metadata import version
from google import genai
from google.genai import types
from provider_uploads import upload_and_wait_active
from provider_uploads.providers import open_provider
from provider_uploads.providers.base import NewJob

MODEL = "gemini-2.5-flash"
contents = [{"role": "user", "parts": [{"text": "What is it?"}]}]
inline = [{"request": {"contents": contents}, "metadata": {"key": "a"}}]
with open("in.jsonl", "w") as file:
    for key in "ab":
        file.write(json.dumps({"key": key, "request": {"contents": contents}}) + chr(10))
sent = upload_and_wait_active("in.jsonl", poll_s=0.1, mime_type="application/jsonl")

ours = open_provider()
theirs = genai.Client(
    api_key=os.environ["GEMINI_API_KEY"],
    http_options=types.HttpOptions(
        base_url=os.environ["PROVIDER_UPLOADS_BASE_URL"], api_version="v1beta"
    ),
)
calls = ours.batches
names = [
    calls.create(NewJob(MODEL, "inline", inline=inline)).name,
    calls.create(NewJob(MODEL, "file", input_file=sent.id)).name,
    theirs.batches.create(model=MODEL, src=sent.id, config={"display_name": "theirs"}).name,
]
stopped = calls.create(NewJob(MODEL, "stopped", inline=inline)).name
canceled = [calls.cancel(stopped), calls.cancel(stopped)]
ended = [calls.get(name) for name in names]
while not all(job.ended for job in ended):
    ended = [calls.get(name) for name in names]
answers = [[a.get("key") or a["metadata"]["key"] for a in calls.answers(job)] for job in ended]
found = {
    "states": [job.state for job in ended],
    "answers": answers,
    "counts": [job.counts.succeeded for job in ended],
    "canceled": canceled,
    "stopped": calls.get(stopped).state,
    "listed": sorted(job.display_name for page in calls.list(2) for job in page),
    "seen by theirs": [theirs.batches.get(name=name).state.value for name in names],
    "listed by theirs": sorted(job.display_name for job in theirs.batches.list()),
    "deleted": [calls.delete(stopped), calls.delete(stopped)],
}
print(json.dumps({"version": version("google-genai"), **found}))
"""


@pytest.mark.parametrize("wanted", ["==1.57.0", "==2.19.0", ">=3"])
def test_the_direct_api_files_batches_errors_and_every_call(
    wanted: str, wheel: Path, gemini: LocalGemini, tmp_path: Path
) -> None:
    """In one environment: to install it takes longer than to use it."""
    here = Environment(tmp_path / "venv", wheel, "[google]", f"google-genai{wanted}")
    # The first get is the program's own; polls of the video come before it, so by name.
    gemini.order_fault(Operation.GET, FaultKind.UNAVAILABLE, match="b.txt", nth=2)
    gemini.order_fault(Operation.GET, FaultKind.RATE_LIMITED, match="b.txt", nth=2)

    def run(script: str) -> dict[str, Any]:
        printed = here.run(
            *("-W", "ignore", "-c", script),
            cwd=tmp_path,
            GEMINI_API_KEY=KEY,
            PROVIDER_UPLOADS_BASE_URL=gemini.url,
            PROVIDER_UPLOADS_PROFILES__GATEWAY__API_KEY=KEY,
            PROVIDER_UPLOADS_PROFILES__GATEWAY__BASE_URL=f"{gemini.url}/genai",
            PROVIDER_UPLOADS_PROFILES__GATEWAY__HEADERS='{"x-model-provider": "openai"}',
        )
        found: dict[str, Any] = json.loads(printed.splitlines()[-1])
        assert found.pop("version").startswith(wanted.lstrip("=>").split(".")[0])
        return found

    found = run(SCRIPT)
    assert found.pop("polls") >= 1
    assert found == {
        "states": ["ACTIVE", "ACTIVE"],
        "answer": True,
        "listed": True,
        "got": True,
        "errors": ["ProviderUnavailableError", "RateLimitedError", "FileGoneError"],
        "deleted": [True, False],
        "at_gateway": [],  # OpenAI's files, of which there are none: the header arrived
    }
    gemini.clear_faults()
    assert run(BATCHES) == {
        "states": ["SUCCEEDED"] * 3,
        "answers": [["a"], ["a", "b"], ["a", "b"]],
        "counts": [1, 2, 2],
        "canceled": [True, False],
        "stopped": "CANCELLED",
        "listed": ["file", "inline", "stopped", "theirs"],
        "seen by theirs": ["JOB_STATE_SUCCEEDED"] * 3,
        "listed by theirs": ["file", "inline", "stopped", "theirs"],
        "deleted": [True, False],
    }
    with LocalGemini(EmulatorConfig(processing_s=0.1)) as untouched:
        walk = ("-W", "ignore", emulator_walk.__file__, untouched.url)
        said = json.loads(here.run(*walk, cwd=tmp_path).splitlines()[-1])
    assert said["sync"] == said["async"] == ["files", "models", "caches", "stores"]


def test_its_whole_suite_with_the_oldest(wheel: Path, tmp_path: Path) -> None:
    """pip resolves all that the project needs; only the tests' own tools come from outside."""
    oldest = Environment(tmp_path / "venv", wheel, "[worker,emulator]", "google-genai==1.57.0")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(oldest.run("-P", "-c", where).strip())
    (own / "tools.pth").write_text(sysconfig.get_path("purelib"))  # after its own packages

    code = (
        "import google.genai, provider_uploads;"
        "print(google.genai.__version__, google.genai.__file__, provider_uploads.__file__)"
    )
    version, *files = oldest.run("-P", "-c", code).split()
    assert version == "1.57.0"
    assert [Path(file).is_relative_to(own) for file in files] == [True, True]

    modules = [f"tests/test_{name}.py" for name in SUITE]
    done = subprocess.run(
        [oldest.bin / "python", "-m", "pytest", "-q", "-n", "2", "-m", "not slow", *modules],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:]
