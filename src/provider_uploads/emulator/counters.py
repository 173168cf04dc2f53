"""What the provider really saw."""

from __future__ import annotations

from collections import Counter
from typing import Any

from provider_uploads.emulator.operations import Operation


class Counters:
    """Requests per operation, answers per HTTP status, file bytes taken, files made.

    A request that got no answer is counted under ``reset`` (the server hung up) or
    ``disconnected`` (the client did) instead of a status.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start again from zero."""
        self.requests: Counter[Operation] = Counter()
        self.answers: dict[Operation, Counter[str]] = {op: Counter() for op in Operation}
        self.received_bytes = 0
        self.files_made = 0

    def json(self) -> dict[str, Any]:
        """Everything that is counted."""
        return {
            "operations": {
                str(operation): {
                    "requests": self.requests[operation],
                    "by_status": dict(self.answers[operation]),
                }
                for operation in Operation
            },
            "bytes_received": self.received_bytes,
            "files_made": self.files_made,
        }
