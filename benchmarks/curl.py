"""curl: what moving the bytes costs when there is nothing around it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.errors import BenchmarkError

NAME = "curl, one request"
#: An upload that takes longer is a failure.
_PATIENCE_S = 300


def installed() -> bool:
    """Whether there is a curl."""
    return shutil.which("curl") is not None


def upload_s(base_url: str, path: Path, mime_type: str) -> float:
    """Start a session, send the whole file in one request, finalize; return the seconds.

    Streamed with ``-T``: ``--data-binary @file`` would read the file into memory first.
    """
    size_bytes = path.stat().st_size
    begun = time.perf_counter()
    started = _run(
        *("--dump-header", "-", "--output", "-", "--request", "POST"),
        *("--header", "x-goog-api-key: local"),
        *("--header", "X-Goog-Upload-Protocol: resumable"),
        *("--header", "X-Goog-Upload-Command: start"),
        *("--header", f"X-Goog-Upload-Header-Content-Length: {size_bytes}"),
        *("--header", f"X-Goog-Upload-Header-Content-Type: {mime_type}"),
        *("--json", json.dumps({"file": {"displayName": path.name}})),
        f"{base_url}/upload/v1beta/files",
    )
    session = re.search(r"(?im)^x-goog-upload-url:\s*(\S+)", started)
    if session is None:
        raise BenchmarkError(f"curl got no session:\n{started}")
    answer = _run(
        *("--request", "POST", "--upload-file", str(path)),
        *("--header", "X-Goog-Upload-Command: upload, finalize"),
        *("--header", "X-Goog-Upload-Offset: 0"),
        *("--header", "Expect:"),
        session.group(1),
    )
    took_s = time.perf_counter() - begun
    if json.loads(answer)["file"]["state"] != "ACTIVE":
        raise BenchmarkError(f"curl's file is not ACTIVE:\n{answer}")
    return took_s


def _run(*arguments: str) -> str:
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail-with-body", "--noproxy", "*", *arguments],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
    )
    if done.returncode:
        raise BenchmarkError(f"curl failed: {done.stderr.strip()} {done.stdout.strip()}")
    return done.stdout
