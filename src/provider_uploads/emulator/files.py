"""The files the service holds: names, states, expiry."""

from __future__ import annotations

import base64
import binascii
import secrets
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from provider_uploads.emulator.clock import SECOND_NS, Clock, rfc3339
from provider_uploads.emulator.errors import invalid_argument, name_taken, no_such_file

# 48 hours, a few milliseconds short: the service counts from a moment before createTime.
LIFETIME_NS = 48 * 3600 * SECOND_NS - 5_000_000

DEFAULT_PAGE_SIZE = 10
MAX_PAGE_SIZE = 100

_ID_CHARS = string.ascii_lowercase + string.digits
_GENERATED_ID_CHARS = 12
# Bits per second of an average clip: what the invented duration of a video is made from.
_VIDEO_BYTES_PER_S = 125_000


class Fate(StrEnum):
    """How the processing of a file ends."""

    ACTIVE = "ACTIVE"
    FAILED = "FAILED"
    STUCK = "STUCK"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file; its state follows from the clock."""

    file_id: str
    owner: str = field(repr=False)
    display_name: str | None
    mime_type: str
    size_bytes: int
    sha256_hex: str
    create_ns: int
    processing_ns: int
    fate: Fate
    sequence: int
    path: Path | None = None

    @property
    def name(self) -> str:
        """``files/<id>``."""
        return f"files/{self.file_id}"

    @property
    def labels(self) -> tuple[str, ...]:
        """What a fault may be aimed at."""
        return (self.name, self.display_name) if self.display_name else (self.name,)

    @property
    def expire_ns(self) -> int:
        """When the service forgets the file."""
        return self.create_ns + LIFETIME_NS

    def state(self, now_ns: int) -> Literal["PROCESSING", "ACTIVE", "FAILED"]:
        """PROCESSING until its time is up, then what its fate says."""
        if self.fate is Fate.STUCK or now_ns < self.create_ns + self.processing_ns:
            return "PROCESSING"
        return "FAILED" if self.fate is Fate.FAILED else "ACTIVE"

    def resource(
        self, now_ns: int, base_url: str, sha256_encoding: Literal["hex", "raw"]
    ) -> dict[str, Any]:
        """The File resource as JSON; ``base_url`` is where its uri can be fetched.

        sha256Hash is the base64 of the 64 characters of the hex digest: that is what the service
        sends, though its documentation lets one expect the 32 raw bytes.
        """
        state = self.state(now_ns)
        update_ns = self.create_ns + (0 if state == "PROCESSING" else self.processing_ns)
        digest = bytes.fromhex(self.sha256_hex)
        hashed = self.sha256_hex.encode() if sha256_encoding == "hex" else digest
        resource: dict[str, Any] = {"name": self.name}
        if self.display_name is not None:
            resource["displayName"] = self.display_name
        resource |= {
            "mimeType": self.mime_type,
            "sizeBytes": str(self.size_bytes),
            "createTime": rfc3339(self.create_ns),
            "updateTime": rfc3339(update_ns),
            "expirationTime": rfc3339(self.expire_ns, fraction_digits=9),
            "sha256Hash": base64.b64encode(hashed).decode(),
            "uri": f"{base_url}/v1beta/{self.name}",
            "state": state,
            "source": "UPLOADED",
        }
        if state == "ACTIVE" and self.mime_type.startswith("video/"):
            duration_s = max(1, self.size_bytes // _VIDEO_BYTES_PER_S)
            resource["videoMetadata"] = {"videoDuration": f"{duration_s}s"}
        if state == "FAILED":
            resource["error"] = {
                "code": 13,
                "message": "The file failed to be processed.",
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "FILE_PROCESSING_FAILED",
                        "domain": "generativelanguage.googleapis.com",
                    }
                ],
            }
        return resource


class FileStore:
    """All files of all projects: each owned by one key, their names in one global namespace."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._files: dict[str, StoredFile] = {}  # oldest first
        self._sequence = 0

    def __iter__(self) -> Iterator[StoredFile]:
        self._forget_expired()
        return iter(tuple(self._files.values()))

    @property
    def stored_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size_bytes for file in self)

    def name_for(self, chosen_id: str | None) -> str:
        """The id a new file gets; 409 if the chosen one is taken, by whomever."""
        self._forget_expired()
        if chosen_id is None:
            chosen_id = "".join(secrets.choice(_ID_CHARS) for _ in range(_GENERATED_ID_CHARS))
            return chosen_id if chosen_id not in self._files else self.name_for(None)
        if chosen_id in self._files:
            raise name_taken(chosen_id)
        return chosen_id

    def next_sequence(self) -> int:
        """Numbers files in the order they were made."""
        self._sequence += 1
        return self._sequence

    def add(self, file: StoredFile) -> None:
        """Keep a new file."""
        self._files[file.file_id] = file

    def get(self, file_id: str, owner: str) -> StoredFile:
        """One file of this owner; 403 otherwise."""
        self._forget_expired()
        file = self._files.get(file_id)
        if file is None or file.owner != owner:
            raise no_such_file(file_id)
        return file

    def peek(self, file_id: str) -> StoredFile | None:
        """The file of that id, whoever owns it."""
        return self._files.get(file_id)

    def delete(self, file_id: str, owner: str) -> None:
        """Forget one file of this owner; 403 otherwise."""
        self._forget(self.get(file_id, owner))

    def page(
        self, owner: str, page_size: int, page_token: str | None
    ) -> tuple[list[StoredFile], str | None]:
        """The owner's files, newest first, and the token of the next page if there is one."""
        if page_size == 0:
            page_size = DEFAULT_PAGE_SIZE
        if not 0 < page_size <= MAX_PAGE_SIZE:
            raise invalid_argument(
                f"ListFilesRequest.page_size: must be from 1 to {MAX_PAGE_SIZE}."
            )
        self._forget_expired()
        before = _sequence_of(page_token) if page_token else self._sequence + 1
        page: list[StoredFile] = []
        for file in reversed(self._files.values()):
            if file.owner == owner and file.sequence < before:
                if len(page) == page_size:
                    return page, _token_of(page[-1].sequence)
                page.append(file)
        return page, None

    def clear(self) -> None:
        """Forget all files."""
        for file in tuple(self._files.values()):
            self._forget(file)

    def _forget_expired(self) -> None:
        now_ns = self._clock()
        while self._files:
            oldest = next(iter(self._files.values()))
            if now_ns < oldest.expire_ns:
                return
            self._forget(oldest)

    def _forget(self, file: StoredFile) -> None:
        del self._files[file.file_id]
        if file.path is not None:
            file.path.unlink(missing_ok=True)


def _token_of(sequence: int) -> str:
    return base64.urlsafe_b64encode(f"before:{sequence}".encode()).decode().rstrip("=")


def _sequence_of(page_token: str) -> int:
    try:
        padded = page_token + "=" * (-len(page_token) % 4)
        word, _, number = base64.b64decode(padded, altchars=b"-_", validate=True).partition(b":")
        if word == b"before" and number.isdigit():
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise invalid_argument("ListFilesRequest.page_token: the page token is not valid.")
