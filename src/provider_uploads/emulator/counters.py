"""What the provider really saw."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from provider_uploads.emulator.clock import Clock
from provider_uploads.emulator.operations import Operation
from provider_uploads.emulator.quotas import SlidingWindow
from provider_uploads.emulator.sessions import UploadSession
from provider_uploads.emulator.stored_file import StoredFile

# Of so many uploads the latest bytes are told: a server may run for weeks.
MAX_UPLOADS = 10_000


@dataclass
class UploadCount:
    """What one upload was sent: bytes that came twice or were thrown away count each time."""

    session: UploadSession
    requests: int = 0
    received_bytes: int = 0

    def json(self) -> dict[str, Any]:
        """Whose bytes, how many came, how many are of use; ``name`` is the file's once it is."""
        session = self.session
        file = session.outcome if isinstance(session.outcome, StoredFile) else None
        return {
            "name": session.metadata.name if file is None else file.name,
            "display_name": session.metadata.display_name,
            "state": str(session.state),
            "declared_bytes": session.metadata.declared_bytes,
            "requests": self.requests,
            "bytes_received": self.received_bytes,
            "bytes_kept": session.received_bytes if file is None else file.size_bytes,
        }


class Counters:
    """Requests per operation, answers per HTTP status, faults, file bytes taken, files made.

    ``most_in_60_s`` is the largest number of requests that came within any 60 seconds, from all
    projects together; ``over_quota`` how many of them were refused for it.

    A request that got no answer is counted under ``reset`` (the server hung up) or
    ``disconnected`` (the client did) instead of a status.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.clear()

    def clear(self) -> None:
        """Start again from zero."""
        self.requests: Counter[Operation] = Counter()
        self.answers: dict[Operation, Counter[str]] = {op: Counter() for op in Operation}
        self.faults: dict[Operation, Counter[str]] = {op: Counter() for op in Operation}
        self.over_quota: Counter[Operation] = Counter()
        self.received_bytes = 0
        self.files_made = 0
        self._windows = {op: SlidingWindow(self._clock) for op in Operation}
        self._uploads: dict[str, UploadCount] = {}  # oldest first

    def request(self, operation: Operation) -> None:
        """Count a request that has come in."""
        self.requests[operation] += 1
        self._windows[operation].add()

    def upload(self, session: UploadSession) -> UploadCount:
        """What is counted for one upload."""
        if session.upload_id not in self._uploads:
            if len(self._uploads) == MAX_UPLOADS:
                del self._uploads[next(iter(self._uploads))]
            self._uploads[session.upload_id] = UploadCount(session)
        return self._uploads[session.upload_id]

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
            "faults": {
                str(operation): {str(kind): count for kind, count in kinds.items()}
                for operation, kinds in self.faults.items()
                if kinds
            },
            "over_quota": {str(operation): count for operation, count in self.over_quota.items()},
            "most_in_60_s": {
                str(operation): window.most
                for operation, window in self._windows.items()
                if window.most
            },
            "bytes_received": self.received_bytes,
            "files_made": self.files_made,
            "uploads": [upload.json() for upload in self._uploads.values()],
        }
