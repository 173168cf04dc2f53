"""The local Gemini's own account of what it was sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from benchmarks.errors import BenchmarkError


@dataclass(slots=True)
class Account:
    """Requests per operation, filled in when the counting is over."""

    requests: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.requests.values())


@dataclass(frozen=True, slots=True)
class Provider:
    """A local Gemini in its own process."""

    url: str

    @contextmanager
    def counted(self, files: int, size_bytes: int) -> Iterator[Account]:
        """Count the block's requests; it must make ``files`` files of ``size_bytes`` each."""
        self._ask("POST", "reset")
        account = Account()
        yield account
        counters = self.counters()
        self._check("files made", counters["files_made"], files)
        self._check("bytes stored", counters["bytes_stored"], files * size_bytes)
        self._check("sessions left open", counters["sessions_open"], 0)
        for operation, counted in counters["operations"].items():
            good = counted["by_status"].get("200", 0)
            self._check(f"good answers to {operation}", good, counted["requests"])
            if counted["requests"]:
                account.requests[operation] = counted["requests"]

    def counters(self) -> Any:
        """Return what it has counted so far."""
        return self._ask("GET", "counters")

    def _ask(self, method: str, what: str) -> Any:
        try:
            answer = httpx2.request(method, f"{self.url}/_emulator/{what}", trust_env=False)
            return answer.raise_for_status().json()
        except httpx2.HTTPError as error:
            raise BenchmarkError(f"the local Gemini does not answer: {error}") from error

    def _check(self, what: str, found: int, expected: int) -> None:
        if found != expected:
            raise BenchmarkError(f"the provider counts {found} {what}, expected {expected}")
