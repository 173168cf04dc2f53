"""What a gateway remembers between two requests, and the files of the providers behind it."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from provider_uploads.emulator.config import SECOND_NS, Clock
from provider_uploads.emulator.files import FileStore
from provider_uploads.emulator.sessions import FileMetadata, UploadSession

SESSION_LIFETIME_NS = 60 * SECOND_NS

_OPENAI_ID_CHARS = string.ascii_letters + string.digits


class Provider(StrEnum):
    """Whom the gateway speaks to; the words are those of ``x-model-provider``."""

    GEMINI = "gemini"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    BEDROCK = "bedrock"


@dataclass(frozen=True)
class GatewaySession:
    """An upload to one provider: only it knows to which, the requests with bytes do not say."""

    provider: str
    upload: UploadSession


class GatewayStore:
    """The sessions of the gateway, one minute each, and the files at OpenAI.

    Files at Gemini are those of the service itself.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[str, GatewaySession] = {}  # oldest first
        self.openai_files = FileStore(clock, _openai_id)

    def __iter__(self) -> Iterator[UploadSession]:
        """The uploads that can still take bytes."""
        self._forget_expired()
        return (session.upload for session in tuple(self._sessions.values()))

    def start(
        self, provider: str, owner: str, metadata: FileMetadata, folder: Path
    ) -> UploadSession:
        """Open a session."""
        self._forget_expired()
        upload_id = f"genai_upload_session:{secrets.token_urlsafe(32)}"
        path = folder / secrets.token_hex(16)
        upload = UploadSession(upload_id, owner, metadata, path, self._clock())
        self._sessions[upload_id] = GatewaySession(provider, upload)
        return upload

    def get(self, upload_id: str) -> GatewaySession | None:
        """The session of that id, if it is still there."""
        self._forget_expired()
        return self._sessions.get(upload_id)

    def take(self, upload_id: str) -> GatewaySession | None:
        """The session of that id, which nobody will find again."""
        self._forget_expired()
        return self._sessions.pop(upload_id, None)

    def clear(self) -> None:
        """Forget sessions and files."""
        for session in self._sessions.values():
            session.upload.abandon()
        self._sessions.clear()
        self.openai_files.clear()

    def _forget_expired(self) -> None:
        now_ns = self._clock()
        while self._sessions:
            upload = next(iter(self._sessions.values())).upload
            if now_ns < upload.start_ns + SESSION_LIFETIME_NS:
                return
            upload.abandon()
            del self._sessions[upload.upload_id]


def _openai_id() -> str:
    return "file-" + "".join(secrets.choice(_OPENAI_ID_CHARS) for _ in range(24))
