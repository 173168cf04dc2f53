"""config/policy.py: every number can be set, and a wrong one is one sentence."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from provider_uploads import UploadQueue, upload_and_wait_active
from provider_uploads.backoff import Backoff
from provider_uploads.cli.uploads import upload as upload_command
from provider_uploads.requests import request_for
from provider_uploads.schemas import PollPolicy
from tests.nodes import ROOT

#: The backoffs, by the beginning of their variables.
BACKOFFS = {
    "UPLOAD_RETRY": "upload_retry",
    "DELETE_RETRY": "delete_retry",
    "QUESTION_LOOK": "question_polls",
    "REUSE_LOOK": "reuse_polls",
    "COOL_DOWN": "cool_downs",
    "BREAKER_PROBE": "breaker_probes",
}


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("PROVIDER_UPLOADS_UPLOAD_TRIES", "x", "PROVIDER_UPLOADS_UPLOAD_TRIES: Input should be"),
        ("PROVIDER_UPLOADS_UPLOAD_RETRY_FACTOR", "0.5", "greater than or equal to 1"),
        ("PROVIDER_UPLOADS_UPLOAD_RETRY_JITTER", "1", "less than 1"),
        ("PROVIDER_UPLOADS_TIER", "gold", "no tier 'gold': PROVIDER_UPLOADS_TIER"),
        ("PROVIDER_UPLOADS_PROFILES__BATCH__TIER", "gold", "no tier 'gold'"),
        ("PROVIDER_UPLOADS_TIERS_FILE", "/nowhere.toml", "/nowhere.toml: No such file"),
        ("CELERY_BROKER_URL", "redis://elsewhere", "CELERY_BROKER_URL would send this worker"),
    ],
)
def test_a_wrong_setting_ends_a_worker_with_one_sentence(
    variable: str, value: str, sentence: str
) -> None:
    done = run("-m", "celery", "-A", "tasks", "worker", **{variable: value})
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("provider-uploads: ")
    assert sentence in line


def test_the_shape_of_every_backoff_can_be_set() -> None:
    names = ", ".join(BACKOFFS.values())
    env = {
        f"PROVIDER_UPLOADS_{name}_{part}": str(value)
        for number, name in enumerate(BACKOFFS)
        for part, value in {
            "FIRST_S": number + 1,
            "MAX_S": number + 100,
            "FACTOR": number + 2,
            "JITTER": number / 10,
        }.items()
    }
    read = f"[getattr(policy, name) for name in '{names}'.split(', ')]"
    code = f"from config.policy import policy; print({read})"
    done = run("-c", code, **env)
    expected = [
        Backoff(number + 1.0, number + 2.0, number + 100.0, jitter=number / 10)
        for number in range(len(BACKOFFS))
    ]
    assert done.stdout.strip() == repr(expected), done.stderr


def test_waits_are_spread_by_a_part_of_themselves() -> None:
    spread: list[tuple[float, float]] = []
    backoff = Backoff(10.0, 2.0, 30.0, jitter=0.1)

    def lowest(low: float, high: float) -> float:
        spread.append((low, high))
        return low

    assert [backoff.delay(attempt, lowest) for attempt in range(3)] == [9.0, 18.0, 27.0]
    assert spread == [(-1.0, 1.0), (-2.0, 2.0), (-3.0, 3.0)]


def test_the_poll_defaults_stand_in_one_place(tmp_path: Path) -> None:
    defaults = PollPolicy().model_dump()
    calls = (UploadQueue.submit, UploadQueue.submit_many, UploadQueue.submit_stream)
    for call in (*calls, upload_and_wait_active):
        signature = inspect.signature(call).parameters
        assert {name: signature[name].default for name in defaults} == defaults
    options = {option.name: option.default for option in upload_command.params}
    assert {name: options[name] for name in defaults} == defaults
    path = tmp_path / "a.txt"
    path.touch()
    assert request_for(path).poll_policy == PollPolicy()
