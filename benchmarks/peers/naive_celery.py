"""One Celery task that uploads, then sleeps between polls; Celery's defaults otherwise."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from benchmarks.peers import gemini

_URL = os.environ["BENCH_REDIS_URL"]

app = Celery("naive", broker=_URL, backend=_URL)
app.conf.broker_connection_retry_on_startup = True


@app.task
def upload(path: str, mime_type: str, poll_s: float) -> dict[str, Any]:
    return gemini.upload(path, mime_type, poll_s)


def deliver(paths: list[str], mime_type: str, poll_s: float) -> list[dict[str, Any]]:
    """Enqueue all, and wait for the last first."""
    results = [upload.delay(path, mime_type, poll_s) for path in paths]
    return [result.get(timeout=120) for result in reversed(results)]
