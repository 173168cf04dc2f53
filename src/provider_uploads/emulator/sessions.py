"""Upload sessions: what the client says about a file, and its bytes until they are one."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from provider_uploads.emulator.config import SECOND_NS, Clock
from provider_uploads.emulator.errors import ApiError, invalid_argument, not_found
from provider_uploads.emulator.files import StoredFile
from provider_uploads.emulator.request_types import CREATE_FILE, UPLOAD_TO_STORE
from provider_uploads.emulator.search_stores import DocumentRequest

MAX_DISPLAY_NAME_CHARS = 512

MAX_ID_CHARS = 40

_FILE_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"  # noqa: S105 - a grammar, not a secret
_MIME_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}")


@dataclass(frozen=True, kw_only=True)
class FileMetadata:
    """Name, display name and MIME type as given at ``start``; checked only at ``finalize``."""

    name: str | None
    display_name: str | None
    mime_type: str
    declared_bytes: int | None
    document: DocumentRequest | None = None

    @classmethod
    def for_store(cls, store_name: str, body: Any, headers: Mapping[str, str]) -> FileMetadata:
        """Read what a document of a store is to be called, and its headers as for a file."""
        wanted = UPLOAD_TO_STORE.parse(body)
        named = ("display_name", "mime_type")
        file = {name: wanted[name] for name in named if name in wanted}
        document = DocumentRequest(
            store_name=store_name,
            display_name=wanted.get("display_name"),
            custom_metadata=tuple(wanted.get("custom_metadata", ())),
        )
        return replace(cls.from_start({"file": file}, headers), document=document)

    @classmethod
    def from_start(cls, body: Any, headers: Mapping[str, str]) -> FileMetadata:
        """Read a ``start`` request: its JSON body, its headers for what the body leaves out.

        The header's size is the transport's own and goes before the body's.
        """
        file = CREATE_FILE.parse(body).get("file", {})
        declared: Any = headers.get("x-goog-upload-header-content-length")
        field = "X-Goog-Upload-Header-Content-Length"
        if declared is None:
            declared = file.get("size_bytes")
            field = "CreateFileRequest.file.size_bytes"
        return cls(
            name=file.get("name"),
            display_name=file.get("display_name"),
            mime_type=file.get("mime_type")
            or headers.get("x-goog-upload-header-content-type")
            or "application/octet-stream",
            declared_bytes=None if declared is None else _size(declared, field),
        )

    @classmethod
    def from_raw(cls, headers: Mapping[str, str]) -> FileMetadata:
        """Read what a request says that is nothing but the file's bytes."""
        file_name = headers.get("x-goog-upload-file-name")
        return cls(
            name=None,
            display_name=None if file_name is None else _utf8(file_name),
            mime_type=headers.get("content-type") or "application/octet-stream",
            declared_bytes=None,
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """What a fault may be aimed at."""
        return tuple(label for label in (self.name, self.display_name) if label)

    @property
    def named(self) -> bool:
        """Has the caller chosen a name?"""
        return self.name not in (None, "", "files/")

    def chosen_id(self, max_chars: int = MAX_ID_CHARS) -> str | None:
        """The id the caller chose, None if the service is to make one; 400 if it is not allowed."""
        if self.name is None or not self.named:
            return None
        prefix, _, file_id = self.name.partition("/")
        if prefix != "files":
            raise invalid_argument(
                "CreateFileRequest.file.name: must have the form files/<id>, "
                f"this is {self.name!r}."
            )
        if len(file_id) > max_chars or not _FILE_ID.fullmatch(file_id):
            raise invalid_argument(
                f"CreateFileRequest.file.name: the id may have up to {max_chars} lowercase "
                f"letters, digits and dashes, with no dash first or last; this is {file_id!r}."
            )
        return file_id

    def check(self) -> None:
        """400 unless display name and MIME type are such that a file can be made."""
        if self.display_name is not None and len(self.display_name) > MAX_DISPLAY_NAME_CHARS:
            raise invalid_argument(
                "CreateFileRequest.file.display_name: must be at most "
                f"{MAX_DISPLAY_NAME_CHARS} characters, this has {len(self.display_name)}."
            )
        # The batch documentation uploads with the plain word "jsonl".
        if self.mime_type != "jsonl" and not _MIME_TYPE.fullmatch(self.mime_type):
            raise invalid_argument(
                f"Unsupported MIME type: {self.mime_type}. "
                "It must be type/subtype without parameters."
            )


def _utf8(header: str) -> str:
    """Some clients send UTF-8 in a header; the ASGI server has read it as Latin-1."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _size(value: Any, field: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
        return int(value)
    raise invalid_argument(f"{field}: must be a number of bytes, this is {value!r}.")


# About what Google documents for the same upload front end elsewhere.
LIFETIME_NS = 7 * 24 * 3600 * SECOND_NS

# A request that has sent nothing for this long loses its session to a newer request.
SILENCE_S = 1.0

_ZEROS_BYTES = 1024 * 1024

HangUp = Callable[[], None]


class SessionState(StrEnum):
    """Where a session stands; the words are those of X-Goog-Upload-Status."""

    ACTIVE = "active"
    FINAL = "final"
    CANCELLED = "cancelled"


class UploadSession:
    """One upload: what was declared, what has arrived, and what became of it.

    The bytes on disk, ``received_bytes`` and the running hash always agree, whenever and however
    a request ends.
    """

    def __init__(
        self, upload_id: str, owner: str, metadata: FileMetadata, path: Path, start_ns: int
    ) -> None:
        self.upload_id = upload_id
        self.owner = owner
        self.metadata = metadata
        self.path = path
        self.start_ns = start_ns
        self.state = SessionState.ACTIVE
        self.outcome: StoredFile | ApiError | None = None
        self.received_bytes = 0
        # So far a hole may be left, where bytes were thrown away as ordered.
        self.lost_until = 0
        self._hash = hashlib.sha256()
        # Where the latest request began, and the hash up to there: what a repeated one is known by.
        self._began = (0, self._hash.copy())
        self._lock = asyncio.Lock()
        self._hang_up: HangUp | None = None
        self._last_bytes_s = 0.0

    @property
    def sha256_hex(self) -> str:
        """The digest of what has arrived."""
        return self._hash.hexdigest()

    @asynccontextmanager
    async def turn(
        self, hang_up: HangUp | None, *, at_once: bool = False
    ) -> AsyncIterator[UploadSession]:
        """Have the session to oneself, so that what is read from it stays true.

        A newer request waits while the older one still receives bytes, and cuts it off when it
        has fallen silent (``at_once``: in any case). Otherwise a query could name an offset while
        a half-dead connection still adds bytes behind it.
        """
        while True:
            if self._lock.locked() and self._hang_up is not None:
                silent_s = time.monotonic() - self._last_bytes_s
                if at_once or silent_s >= SILENCE_S:
                    self._hang_up()
            try:
                await asyncio.wait_for(self._lock.acquire(), SILENCE_S / 4)
                break
            except TimeoutError:
                continue
        self._hang_up = hang_up
        self._last_bytes_s = time.monotonic()
        try:
            yield self
        finally:
            self._hang_up = None
            self._lock.release()

    def writer(self) -> _Writer:
        """Open the file on disk to append to it."""
        self._began = (self.received_bytes, self._hash.copy())
        return _Writer(self)

    def hash_at(self, offset: int) -> hashlib._Hash | None:
        """A hash of the bytes up to where the upload or its latest request began; else None."""
        if offset == 0:
            return hashlib.sha256()
        return self._began[1].copy() if offset == self._began[0] else None

    def leave_hole(self, offset: int) -> None:
        """Go on at ``offset``: zeros stand for what is missing until there."""
        if offset == self.received_bytes:
            return
        with self.writer() as writer:
            while missing_bytes := offset - self.received_bytes:
                writer.write(bytes(min(missing_bytes, _ZEROS_BYTES)))

    def finish(self, outcome: StoredFile | ApiError) -> None:
        """The session is over: from now on every request is answered with ``outcome``."""
        self.state = SessionState.FINAL
        self.outcome = outcome
        if not isinstance(outcome, StoredFile) or outcome.path != self.path:
            self.path.unlink(missing_ok=True)

    def cancel(self) -> None:
        """The session is over without a file."""
        self.state = SessionState.CANCELLED
        self.path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Cancel without a turn of one's own: whoever is sending is cut off."""
        if self.state is SessionState.ACTIVE:
            if self._hang_up is not None:
                self._hang_up()
            self.cancel()


class _Writer:
    """Appends to a session's file; unbuffered, so that a crash of a request loses nothing.

    uvicorn hands over all that arrived since it was last asked, 64 KiB and more under load:
    joining blocks again here would only copy them once more.
    """

    def __init__(self, session: UploadSession) -> None:
        self._session = session
        self._file = session.path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, block: bytes) -> None:
        session = self._session
        rest = memoryview(block)
        while rest:
            written = self._file.write(rest)
            session._hash.update(rest[:written])
            session.received_bytes += written
            rest = rest[written:]
        session._last_bytes_s = time.monotonic()


class SessionStore:
    """All sessions, found by the id in their URL: who knows it may use it, no key is asked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[str, UploadSession] = {}  # oldest first

    def __iter__(self) -> Iterator[UploadSession]:
        """The sessions that can still take bytes."""
        self._forget_expired()
        return (s for s in tuple(self._sessions.values()) if s.state is SessionState.ACTIVE)

    def start(self, owner: str, metadata: FileMetadata, folder: Path) -> UploadSession:
        """Open a session whose bytes will be collected in ``folder``."""
        self._forget_expired()
        upload_id = secrets.token_urlsafe(48)
        path = folder / secrets.token_hex(16)
        session = UploadSession(upload_id, owner, metadata, path, self._clock())
        self._sessions[upload_id] = session
        return session

    def get(self, upload_id: str) -> UploadSession:
        """The session of that id; 404 if nobody knows it."""
        self._forget_expired()
        try:
            return self._sessions[upload_id]
        except KeyError:
            raise not_found("The upload session was not found.") from None

    def discard(self, session: UploadSession) -> None:
        """Forget a session nobody was told about; if it did not become a file, its bytes too."""
        if session.state is SessionState.ACTIVE:
            session.cancel()
        self._sessions.pop(session.upload_id, None)

    def clear(self) -> None:
        """Forget all sessions and cut off whoever still sends."""
        for session in self._sessions.values():
            session.abandon()
        self._sessions.clear()

    def _forget_expired(self) -> None:
        now_ns = self._clock()
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            if now_ns < oldest.start_ns + LIFETIME_NS:
                return
            oldest.abandon()
            del self._sessions[oldest.upload_id]
