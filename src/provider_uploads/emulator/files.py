"""Files and their store: states over time, File resources, names, expiry, pages."""

from __future__ import annotations

import base64
import binascii
import secrets
import string
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from provider_uploads.emulator.config import SECOND_NS, Clock, rfc3339
from provider_uploads.emulator.errors import invalid_argument, name_taken, no_such_file

# 48 hours, a few milliseconds short: the service counts from a moment before createTime.
LIFETIME_NS = 48 * 3600 * SECOND_NS - 5_000_000

# Bits per second of an average clip: what the invented duration of a video is made from.
_VIDEO_BYTES_PER_S = 125_000


class Fate(StrEnum):
    """How the processing of a file ends."""

    ACTIVE = "ACTIVE"
    FAILED = "FAILED"
    STUCK = "STUCK"


class Source(StrEnum):
    """Where the bytes of a file come from; the words are those of the File resource."""

    UPLOADED = "UPLOADED"
    GENERATED = "GENERATED"
    REGISTERED = "REGISTERED"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file; its state follows from the clock.

    ``size_bytes`` and ``sha256_hex`` are None for a registered file: its bytes stay in Cloud
    Storage, and nobody here has seen them. ``lifetime_ns`` None is for as long as it is wanted.
    """

    file_id: str
    owner: str = field(repr=False)
    display_name: str | None
    mime_type: str
    size_bytes: int | None
    sha256_hex: str | None
    create_ns: int
    sequence: int
    processing_ns: int = 0
    fate: Fate = Fate.ACTIVE
    source: Source = Source.UPLOADED
    gcs_uri: str | None = None
    lifetime_ns: int | None = LIFETIME_NS
    path: Path | None = None

    @property
    def name(self) -> str:
        """``files/<id>``."""
        return f"files/{self.file_id}"

    @property
    def labels(self) -> tuple[str, ...]:
        """What a fault may be aimed at."""
        given = (self.name, self.display_name, self.gcs_uri)
        return tuple(label for label in given if label)

    @property
    def expire_ns(self) -> int | None:
        """When the service forgets the file."""
        return None if self.lifetime_ns is None else self.create_ns + self.lifetime_ns

    @property
    def video_duration_s(self) -> int:
        """How long it plays, were it a video: invented, but always the same for the same size."""
        return max(1, (self.size_bytes or 0) // _VIDEO_BYTES_PER_S)

    def state(self, now_ns: int) -> Literal["PROCESSING", "ACTIVE", "FAILED"]:
        """PROCESSING until its time is up, then what its fate says."""
        if self.fate is Fate.STUCK or now_ns < self.create_ns + self.processing_ns:
            return "PROCESSING"
        return "FAILED" if self.fate is Fate.FAILED else "ACTIVE"

    def resource(
        self,
        now_ns: int,
        base_url: str,
        sha256_encoding: Literal["hex", "raw"],
        public_uri: str = "",
    ) -> dict[str, Any]:
        """The File resource as JSON.

        ``base_url`` is where this server is reached, so that a download goes there; ``public_uri``
        is what the uri begins with, which only names the file.
        """
        state = self.state(now_ns)
        update_ns = self.create_ns + (0 if state == "PROCESSING" else self.processing_ns)
        resource: dict[str, Any] = {"name": self.name}
        if self.display_name is not None:
            resource["displayName"] = self.display_name
        resource["mimeType"] = self.mime_type
        if self.size_bytes:  # zero is left out, as always in JSON made from protobuf
            resource["sizeBytes"] = str(self.size_bytes)
        resource |= {"createTime": rfc3339(self.create_ns), "updateTime": rfc3339(update_ns)}
        if self.expire_ns is not None:
            resource["expirationTime"] = rfc3339(self.expire_ns, fraction_digits=9)
        if self.sha256_hex is not None:
            resource["sha256Hash"] = _sha256_hash(self.sha256_hex, sha256_encoding)
        resource |= {
            "uri": self.gcs_uri or f"{public_uri or base_url}/v1beta/{self.name}",
            "state": state,
            "source": str(self.source),
        }
        if self.source is Source.GENERATED:
            resource["downloadUri"] = f"{base_url}/v1beta/{self.name}:download?alt=media"
        if state == "ACTIVE" and self.mime_type.startswith("video/"):
            resource["videoMetadata"] = {"videoDuration": f"{self.video_duration_s}s"}
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


def _sha256_hash(sha256_hex: str, encoding: Literal["hex", "raw"]) -> str:
    """The base64 of the 64 characters of the hex digest: that is what the service sends.

    Its documentation lets one expect the 32 raw bytes.
    """
    hashed = sha256_hex.encode() if encoding == "hex" else bytes.fromhex(sha256_hex)
    return base64.b64encode(hashed).decode()


DEFAULT_PAGE_SIZE = 10
MAX_PAGE_SIZE = 100

_ID_CHARS = string.ascii_lowercase + string.digits
_GENERATED_ID_CHARS = 12


def random_id() -> str:
    """An id as the service makes them."""
    return "".join(secrets.choice(_ID_CHARS) for _ in range(_GENERATED_ID_CHARS))


class FileStore:
    """All files of all projects: each owned by one key, their names in one global namespace.

    All files of a store live equally long, so the oldest is always the first to expire.
    """

    def __init__(self, clock: Clock, new_id: Callable[[], str] = random_id) -> None:
        self._clock = clock
        self._new_id = new_id
        self._files: dict[str, StoredFile] = {}  # oldest first
        self._project_bytes: Counter[str] = Counter()
        self._withheld: set[str] = set()
        self._sequence = 0
        # Told the time before a file goes: who wants to have read it by then does so now.
        self.before_forgetting: Callable[[int], None] = lambda now_ns: None
        self._forgetting = False

    def __iter__(self) -> Iterator[StoredFile]:
        self.forget_expired()
        return iter(tuple(self._files.values()))

    @property
    def stored_bytes(self) -> int:
        """The size of all files together."""
        self.forget_expired()
        return self._project_bytes.total()

    def project_bytes(self, owner: str) -> int:
        """The size of all files of one owner."""
        self.forget_expired()
        return self._project_bytes[owner]

    def name_for(self, chosen_id: str | None) -> str:
        """The id a new file gets; 409 if the chosen one is taken, by whomever."""
        self.forget_expired()
        if chosen_id is None:
            chosen_id = self._new_id()
            return chosen_id if chosen_id not in self._files else self.name_for(None)
        if chosen_id in self._files or chosen_id in self._withheld:
            raise name_taken(chosen_id)
        return chosen_id

    def withhold(self, file_id: str) -> None:
        """Let nobody have a name, as after an upload that broke off at the wrong moment.

        It stays taken until ``clear``: nobody outside knows for how long the service does it.
        """
        self._withheld.add(file_id)

    def next_sequence(self) -> int:
        """Numbers files in the order they were made."""
        self._sequence += 1
        return self._sequence

    def add(self, file: StoredFile) -> None:
        """Keep a new file."""
        self._files[file.file_id] = file
        self._project_bytes[file.owner] += file.size_bytes or 0

    def get(self, file_id: str, owner: str) -> StoredFile:
        """One file of this owner; 403 otherwise."""
        self.forget_expired()
        file = self._files.get(file_id)
        if file is None or file.owner != owner:
            raise no_such_file(file_id)
        return file

    def registered(self, gcs_uri: str, owner: str) -> StoredFile:
        """The file this owner registered last for that gs:// uri; 403 if there is none."""
        self.forget_expired()
        for file in reversed(self._files.values()):
            if file.owner == owner and file.gcs_uri == gcs_uri:
                return file
        raise no_such_file(gcs_uri)

    def peek(self, file_id: str) -> StoredFile | None:
        """The file of that id, whoever owns it."""
        return self._files.get(file_id)

    def delete(self, file_id: str, owner: str) -> None:
        """Forget one file of this owner; 403 otherwise."""
        self.before_forgetting(self._clock())
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
        self.forget_expired()
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
        self._withheld.clear()

    def forget_expired(self) -> None:
        """Forget the files whose time is up."""
        if self._forgetting:
            return
        self._forgetting = True
        try:
            now_ns = self._clock()
            while self._files:
                expire_ns = next(iter(self._files.values())).expire_ns
                if expire_ns is None or now_ns < expire_ns:
                    return
                self.before_forgetting(expire_ns)
                self._forget(next(iter(self._files.values())))
        finally:
            self._forgetting = False

    def _forget(self, file: StoredFile) -> None:
        del self._files[file.file_id]
        self._project_bytes[file.owner] -= file.size_bytes or 0
        if not self._project_bytes[file.owner]:
            del self._project_bytes[file.owner]
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
