"""Which tickets a message holds: known for every task, refused for any other."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from provider_uploads.fleet.broker import held_tickets
from provider_uploads.fleet.items import ITEMS
from provider_uploads.fleet.readable import unreadable
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.messages import TICKETS, delete_signature, tickets_of
from provider_uploads.protocol import DELETE, INGEST, KEY_PREFIX, POLL, UPLOAD
from tests.nodes import ROOT

A, B, C = ("a" * 32, "b" * 32, "c" * 32)


def message(task: str, *args: Any, id_: str = A) -> dict[str, Any]:
    body = base64.b64encode(json.dumps([args, {}, {}]).encode()).decode()
    return {"headers": {"id": id_, "task": task}, "body": body}


@pytest.mark.parametrize(
    ("task", "args", "tickets"),
    [
        (UPLOAD, ({},), [A]),
        (POLL, (A, "default"), [A]),
        (DELETE, (B,), [B]),
        (INGEST, ([{"upload_id": B}, {"upload_id": C}],), [B, C]),
        (INGEST, ([{"upload_id": B}], C), [B, C]),
        ("somebody.elses", (B,), []),
    ],
)
def test_of_a_task(task: str, args: tuple[Any, ...], tickets: list[str]) -> None:
    assert [*tickets_of(message(task, *args))] == tickets


def test_one_of_a_newer_version_holds_all_it_names(ledger: Ledger) -> None:
    """It was taken for a message without tickets: what it moved was submitted again."""
    newer = message("provider_uploads.new", {"uploads": [B, C]})
    ledger.redis.rpush(f"{KEY_PREFIX}control", json.dumps(newer))
    assert held_tickets(ledger.redis, ["control"]) >= {A, B, C, f"notify:{B}"}


@pytest.mark.parametrize(
    "junk", ["{", "[]", "7", "{}", json.dumps(message(DELETE)), '{"headers":7}']
)
def test_one_that_nobody_can_read_holds_nothing(ledger: Ledger, junk: str) -> None:
    """It stopped the sweep."""
    ledger.redis.rpush(f"{KEY_PREFIX}control", junk, json.dumps(message(DELETE, B)))
    ledger.redis.hset(f"{KEY_PREFIX}unacked", "tag", junk)
    assert held_tickets(ledger.redis, ["control"]) == {B}


def test_a_whole_message_can_be_read() -> None:
    text = delete_signature(ITEMS, A).text()
    assert unreadable(text.encode()) == ""


def test_every_task_of_the_workers_is_known() -> None:
    code = (
        "from tasks.celery import app; app.loader.import_default_modules();"
        "print(*(name for name in app.tasks if name.startswith('provider_uploads.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert set(done.stdout.split()) == set(TICKETS)


def test_a_worker_with_another_task_does_not_start(tmp_path: Any) -> None:
    (tmp_path / "extra.py").write_text(
        "from tasks.celery import app\n"
        "@app.task(name='provider_uploads.extra')\n"
        "def extra() -> None: ...\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--include", "extra"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PROVIDER_UPLOADS_TIER": "unlimited"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "task provider_uploads.extra is not in provider_uploads.messages.TICKETS" in done.stderr
