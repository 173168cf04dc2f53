"""The task's body that all peers share: google-genai as its manual shows it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from functools import cache
from typing import Any

from google import genai
from google.genai import types

#: At once, in a worker process: as many as ours has.
SLOTS = int(os.environ.get("BENCH_SLOTS", "16"))


_lock = threading.Lock()


def client() -> genai.Client:
    """Return the process's client, made once and after a worker has forked."""
    with _lock:
        return _client()


@cache
def _client() -> genai.Client:
    options = types.HttpOptions(base_url=os.environ["BENCH_GEMINI_URL"])
    return genai.Client(api_key="local", vertexai=False, http_options=options)


def upload(path: str, mime_type: str, poll_s: float, check: bool = False) -> dict[str, Any]:
    """Upload a file and poll until it is ACTIVE; with ``check``, get it at least once."""
    files = client().files
    file = files.upload(file=path, config=types.UploadFileConfig(mime_type=mime_type))
    polls = 0
    while file.state is types.FileState.PROCESSING or (check and not polls):
        time.sleep(poll_s)
        file = files.get(name=file.name or "")
        polls += 1
    return _done(path, file, polls)


async def upload_async(path: str, mime_type: str, poll_s: float) -> dict[str, Any]:
    """The same with the asynchronous client."""
    files = client().aio.files
    file = await files.upload(file=path, config=types.UploadFileConfig(mime_type=mime_type))
    polls = 0
    while file.state is types.FileState.PROCESSING:
        await asyncio.sleep(poll_s)
        file = await files.get(name=file.name or "")
        polls += 1
    return _done(path, file, polls)


def _done(path: str, file: types.File, polls: int) -> dict[str, Any]:
    if file.state is not types.FileState.ACTIVE:
        raise RuntimeError(f"{path} is {file.state}")
    return {"uri": file.uri, "polls": polls, "ended_at": time.time()}
