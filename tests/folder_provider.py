"""A provider of a few lines, as somebody else would write it: a folder that takes files.

The profile's ``base_url`` is the folder. A file is processed for ``FOLDER_PROCESSING_S``
seconds before it is ACTIVE.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from provider_uploads.errors import FileGoneError, SessionLostError
from provider_uploads.profiles import Profile
from provider_uploads.providers.base import Capabilities, Operation, Progress
from provider_uploads.providers.verification import Digest, verified
from provider_uploads.questions import Answer, Attachment
from provider_uploads.schemas import ProviderFile, UploadRequest
from provider_uploads.sources.base import Source

PROCESSING_S = float(os.environ.get("FOLDER_PROCESSING_S", "0.3"))


class Folder:
    """The folder of one profile."""

    capabilities = Capabilities(
        "folder", {Operation.REGISTER: "a path", Operation.GENERATE: "a gemini profile"}
    )

    def __init__(self, profile: Profile, *, timeout_s: float) -> None:
        self._folder = Path(profile.base_url)

    def start(self, name: str, request: UploadRequest, size_bytes: int) -> str:
        session = self._path(name).with_suffix(".part")
        session.touch()
        return str(session)

    def send(
        self,
        session_url: str,
        source: Source,
        *,
        name: str,
        resume: bool = False,
        on_progress: Progress = lambda sent_bytes: None,
    ) -> ProviderFile:
        digest = Digest()
        source.stream.seek(0)
        with Path(session_url).open("wb") as target:
            for block in digest.blocks(source, source.size_bytes):
                target.write(block)
                on_progress(digest.read_bytes)
        Path(session_url).rename(self._path(name))
        return verified(self.get(name), source.size_bytes, digest.hexdigest())

    def query(self, session_url: str, name: str) -> int | ProviderFile:
        if not Path(session_url).exists():
            raise SessionLostError(404)
        return 0

    def cancel(self, session_url: str) -> None:
        Path(session_url).unlink(missing_ok=True)

    def get(self, name: str) -> ProviderFile:
        try:
            found = self._path(name).stat()
        except FileNotFoundError:
            raise FileGoneError("get", 404, "NOT_FOUND", name) from None
        done = time.time() > found.st_mtime + PROCESSING_S
        return ProviderFile(
            name=name,
            uri=self._path(name).as_uri(),
            state="ACTIVE" if done else "PROCESSING",
            mime_type="text/plain",
            size_bytes=found.st_size,
            provider=self.capabilities.name,
        )

    def list(self, page_size: int = 100) -> Iterator[ProviderFile]:
        for path in self._folder.iterdir():
            if path.suffix != ".part":
                yield self.get(f"files/{path.name}")

    def delete(self, name: str) -> bool:
        there = self._path(name).exists()
        self._path(name).unlink(missing_ok=True)
        return there

    def registers(self, location: str) -> bool:
        return False

    def register(self, uris: Sequence[str], credentials: Any = None) -> Sequence[ProviderFile]:
        self.capabilities.require(Operation.REGISTER)
        return []

    def generate(
        self,
        prompt: str,
        files: Sequence[Attachment],
        *,
        model: str,
        config: dict[str, Any] | None = None,
        timeout_s: float = 600.0,
        ticket: str = "",
    ) -> Answer:
        self.capabilities.require(Operation.GENERATE)
        raise AssertionError

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, name: str) -> Path:
        return self._folder / name.removeprefix("files/")
