"""The engine behind every door: files, sessions, faults and counters under one clock.

It belongs to the thread of its event loop; other threads reach it through LocalGemini or HTTP.
"""

from __future__ import annotations

import asyncio
import mimetypes
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from provider_uploads.emulator.batch_lines import may_be_input
from provider_uploads.emulator.batch_store import BatchStore
from provider_uploads.emulator.cached_contents import CachedContents
from provider_uploads.emulator.config import (
    SECOND_NS,
    AdjustableClock,
    Clock,
    EmulatorConfig,
    Operation,
    rfc3339,
    system_clock,
)
from provider_uploads.emulator.errors import ApiError, name_taken, storage_full
from provider_uploads.emulator.fault_kinds import FaultPoint
from provider_uploads.emulator.fault_orders import FaultOrders
from provider_uploads.emulator.faults import Fault
from provider_uploads.emulator.files import Fate, FileStore, Source, StoredFile
from provider_uploads.emulator.gateway_store import GatewayStore
from provider_uploads.emulator.limits import Counters, Quotas
from provider_uploads.emulator.search_stores import SearchStores
from provider_uploads.emulator.sessions import (
    MAX_ID_CHARS,
    FileMetadata,
    SessionStore,
    UploadSession,
)
from provider_uploads.emulator.webhook_sender import WebhookSender
from provider_uploads.emulator.webhook_store import WebhookStore

# PromptPart a file's labels and whether the client chose its name: what goes wrong with it.
ApplyFileFault = Callable[[Sequence[str], bool], Fault | None]

# The ids the service gives to what it makes are longer than those it lets others choose.
_MAX_GENERATED_ID_CHARS = 63


class Engine:
    """One local Gemini, without its HTTP."""

    def __init__(self, config: EmulatorConfig, clock: Clock = system_clock) -> None:
        self.config = config
        self.clock = AdjustableClock(clock)
        self.files = FileStore(self.clock)
        self.sessions = SessionStore(self.clock)
        self.gateway = GatewayStore(self.clock)
        self.batches = BatchStore(
            config.batches,
            self.clock,
            (self.files, self.gateway.openai_files),
            lambda: self.folder,
        )
        self.webhooks = WebhookStore(self.clock)
        self.webhook_sender = WebhookSender(self.webhooks, self.clock)
        self.batches.on_end = self.webhook_sender.batch_ended
        self.caches = CachedContents(self.clock, config.min_cache_tokens)
        self.search = SearchStores(self.clock, lambda: config.processing_s)
        self.faults = FaultOrders(self.clock)
        self.counters = Counters(self.clock)
        self.quotas = Quotas(config.requests_per_minute, config.requests_per_day, self.clock)
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

    @contextmanager
    def temporary_session(self, owner: str, metadata: FileMetadata) -> Iterator[UploadSession]:
        """Open a session nobody is told about: it does not outlive the block."""
        session = self.start_session(owner, metadata)
        try:
            yield session
        finally:
            self.sessions.discard(session)

    def strike(self, fault_point: FaultPoint) -> Fault | None:
        """What was ordered to go wrong here, if anything; it is counted."""
        fault = self.faults.strike(fault_point)
        if fault is not None:
            self.counters.faults[fault.operation][fault.kind] += 1
        return fault

    def use_quota(self, operation: Operation, project: str) -> None:
        """429 if the project may not call that operation now; it is counted."""
        try:
            self.quotas.take(operation, project)
        except ApiError:
            self.counters.over_quota[operation] += 1
            raise

    def finish_session(
        self,
        session: UploadSession,
        source: Source = Source.UPLOADED,
        apply_fault: ApplyFileFault | None = None,
    ) -> StoredFile:
        """Make the file out of a complete session, or end the session with the refusal.

        Name, display name and MIME type are looked at only now, when all bytes are sent: that is
        where the real service refuses them too.
        """
        document = session.metadata.document
        try:
            file = self._make_file(session, source, apply_fault)
            if document is not None:
                self.search.add(document, file, uploaded=True)
        except ApiError as refusal:
            final = refusal.final()
            session.finish(final)
            raise final from None
        session.finish(file)
        if document is None:
            self.files.add(file)
        self.counters.files_made += 1
        return file

    def check_storage(self, owner: str, more_bytes: int) -> None:
        """429 if the owner's files would be too much with these."""
        if self.files.project_bytes(owner) + more_bytes > self.config.max_project_bytes:
            raise storage_full(self.config.max_project_bytes)

    def register(self, owner: str, gcs_uri: str) -> StoredFile:
        """Make a file of what lies in Cloud Storage; nobody looks there."""
        file = StoredFile(
            file_id=self.files.name_for(None),
            owner=owner,
            display_name=None,
            mime_type=mimetypes.guess_type(gcs_uri)[0] or "application/octet-stream",
            size_bytes=None,
            sha256_hex=None,
            create_ns=self.clock(),
            sequence=self.files.next_sequence(),
            source=Source.REGISTERED,
            gcs_uri=gcs_uri,
        )
        self.files.add(file)
        self.counters.files_made += 1
        return file

    def _make_file(
        self, session: UploadSession, source: Source, apply_fault: ApplyFileFault | None
    ) -> StoredFile:
        metadata = session.metadata
        generated = source is Source.GENERATED
        chosen_id = metadata.chosen_id(_MAX_GENERATED_ID_CHARS if generated else MAX_ID_CHARS)
        metadata.check()
        file_id = self.files.name_for(chosen_id)
        if metadata.document is None:
            self.check_storage(session.owner, session.received_bytes)
        fault = None
        if apply_fault is not None:
            labels = (f"files/{file_id}", metadata.display_name or "")
            fault = apply_fault(labels, chosen_id is not None)
        if fault is not None and fault.rule.takes_name:
            self.files.withhold(file_id)
            raise name_taken(file_id)
        processing_s = 0 if generated else self.config.processing_s_for(metadata.mime_type)
        return StoredFile(
            file_id=file_id,
            owner=session.owner,
            display_name=metadata.display_name or None,
            mime_type=metadata.mime_type,
            size_bytes=session.received_bytes,
            sha256_hex=session.sha256_hex,
            create_ns=self.clock(),
            processing_ns=int(processing_s * SECOND_NS),
            fate=Fate.ACTIVE if fault is None else fault.rule.fate,
            sequence=self.files.next_sequence(),
            source=source,
            path=session.path if generated or self.keeps(session.path) else None,
        )

    def keeps(self, path: Path) -> bool:
        """Shall the bytes of an upload stay? They may be what a batch is made from."""
        return self.config.keep_bytes or may_be_input(path)

    def resource(self, file: StoredFile, base_url: str) -> dict[str, Any]:
        """The File resource, for a client that reaches this server at ``base_url``."""
        config = self.config
        return file.resource(self.clock(), base_url, config.sha256_encoding, config.public_uri)

    def counters_json(self) -> dict[str, Any]:
        """The counters, and how much is held right now."""
        return {
            **self.counters.json(),
            "sessions_open": len(self.sessions_json()),
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
                "source": str(file.source),
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
            for session in chain(self.sessions, self.gateway)
        ]

    def clock_json(self) -> dict[str, Any]:
        """What time it is here, and how far the clock has been put forward."""
        return {"now": rfc3339(self.clock()), "advanced_s": self.clock.advanced_s}

    def reset(self) -> None:
        """Forget files, sessions, faults, quotas used and counters; the clock stays as it is."""
        self.quotas.clear()
        self.batches.clear()
        self.webhooks.clear()
        self.webhook_sender.clear()
        self.files.clear()
        self.sessions.clear()
        self.gateway.clear()
        self.caches.clear()
        self.search.clear()
        self.faults.clear()
        self.counters.clear()

    def close(self) -> None:
        """Forget everything and remove the folder."""
        self.reset()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
