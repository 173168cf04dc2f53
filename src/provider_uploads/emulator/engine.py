"""The engine behind every door: files, sessions, faults and counters under one clock.

It belongs to the thread of its event loop; other threads reach it through LocalGemini or HTTP.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

from provider_uploads.emulator.clock import SECOND_NS, Clock, rfc3339, system_clock
from provider_uploads.emulator.config import EmulatorConfig
from provider_uploads.emulator.counters import Counters
from provider_uploads.emulator.errors import ApiError
from provider_uploads.emulator.faults import FaultBook
from provider_uploads.emulator.files import FileStore, StoredFile
from provider_uploads.emulator.metadata import FileMetadata
from provider_uploads.emulator.sessions import SessionStore, UploadSession


class Engine:
    """One local Gemini, without its HTTP."""

    def __init__(self, config: EmulatorConfig, clock: Clock = system_clock) -> None:
        self.config = config
        self.clock = clock
        self.files = FileStore(clock)
        self.sessions = SessionStore(clock)
        self.faults = FaultBook()
        self.counters = Counters()
        self.stopping = asyncio.Event()
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the bytes are; made when first needed, removed by ``close``."""
        if self._folder is None:
            parent = self.config.data_dir
            if parent is not None:
                parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix="local-gemini-", dir=parent))
        return self._folder

    def start_session(self, owner: str, metadata: FileMetadata) -> UploadSession:
        """Open an upload session; nothing is on disk yet."""
        return self.sessions.start(owner, metadata, self.folder)

    def finish_session(self, session: UploadSession) -> StoredFile:
        """Make the file out of a complete session, or end the session with the refusal.

        Name, display name and MIME type are looked at only now, when all bytes are sent: that is
        where the real service refuses them too.
        """
        try:
            file = self._make_file(session)
        except ApiError as refusal:
            final = refusal.final()
            session.finish(final)
            raise final from None
        session.finish(file)
        self.files.add(file)
        self.counters.files_made += 1
        return file

    def _make_file(self, session: UploadSession) -> StoredFile:
        metadata = session.metadata
        chosen_id = metadata.chosen_id()
        metadata.check()
        file_id = self.files.name_for(chosen_id)
        labels = (f"files/{file_id}", metadata.display_name or "")
        return StoredFile(
            file_id=file_id,
            owner=session.owner,
            display_name=metadata.display_name or None,
            mime_type=metadata.mime_type,
            size_bytes=session.received_bytes,
            sha256_hex=session.sha256_hex,
            create_ns=self.clock(),
            processing_ns=int(self.config.processing_s_for(metadata.mime_type) * SECOND_NS),
            fate=self.faults.at_file(labels),
            sequence=self.files.next_sequence(),
            path=session.path if self.config.keep_bytes else None,
        )

    def counters_json(self) -> dict[str, Any]:
        """The counters, and how much is held right now."""
        return {
            **self.counters.json(),
            "sessions_open": sum(1 for _ in self.sessions),
            "bytes_stored": self.files.stored_bytes,
        }

    def files_json(self) -> list[dict[str, Any]]:
        """All files of all keys, oldest first, without their keys."""
        now_ns = self.clock()
        return [
            {
                "name": file.name,
                "display_name": file.display_name,
                "mime_type": file.mime_type,
                "size_bytes": file.size_bytes,
                "sha256": file.sha256_hex,
                "state": file.state(now_ns),
                "create_time": rfc3339(file.create_ns),
                "path": None if file.path is None else str(file.path),
            }
            for file in self.files
        ]

    def sessions_json(self) -> list[dict[str, Any]]:
        """The sessions that can still take bytes, oldest first, without their ids."""
        return [
            {
                "name": session.metadata.name,
                "display_name": session.metadata.display_name,
                "mime_type": session.metadata.mime_type,
                "received_bytes": session.received_bytes,
                "declared_bytes": session.metadata.declared_bytes,
            }
            for session in self.sessions
        ]

    def reset(self) -> None:
        """Forget files, sessions, faults and counters."""
        self.files.clear()
        self.sessions.clear()
        self.faults.clear()
        self.counters.clear()

    def close(self) -> None:
        """Forget everything and remove the folder."""
        self.reset()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
