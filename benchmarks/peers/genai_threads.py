"""google-genai in a pool of threads: no queue, no other process, nothing that outlives it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from benchmarks.peers import gemini


def deliver(
    paths: list[str], mime_type: str, poll_s: float, check: bool = False
) -> list[dict[str, Any]]:
    """Upload all of them, as many at once as there are threads."""
    return list(_pool().map(lambda path: gemini.upload(path, mime_type, poll_s, check), paths))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(gemini.SLOTS)
