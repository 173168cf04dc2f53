"""The provider: google-genai for every call but the bytes, one HTTP client for both."""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Self

from provider_uploads import protocol
from provider_uploads.errors import (
    FileExpiredError,
    FileGoneError,
    FileNotActiveError,
    InvalidCredentialsError,
    InvalidRequestError,
    MissingDependencyError,
    ProviderRefusedError,
    ProviderUnavailableError,
)
from provider_uploads.locations import scheme_of
from provider_uploads.profiles import Profile
from provider_uploads.protocol import MAX_DISPLAY_NAME
from provider_uploads.providers.base import Operation, Progress
from provider_uploads.providers.capabilities import capabilities_of
from provider_uploads.providers.credentials import cached_google_credentials, google_credentials
from provider_uploads.questions import DEFAULT_MODEL, Answer, Attachment
from provider_uploads.schemas import ProviderFile, Stage, UploadRequest
from provider_uploads.sources.base import Source

try:
    from google import genai
    from google.auth.credentials import Credentials
    from google.genai import types
except ImportError as error:
    raise MissingDependencyError("google-genai", "google") from error

from provider_uploads.providers.batches import GeminiBatches
from provider_uploads.providers.error_mapping import mapped_errors, refused_unsent
from provider_uploads.providers.file_pages import GeminiFilePages
from provider_uploads.providers.http import open_clients
from provider_uploads.providers.resumable import Sender
from provider_uploads.providers.wire import read_sha256


class Gemini:
    """The Files service for one profile; thread-safe, one connection pool.

    With google-genai before 2.18 it has two: the SDK's calls then go over httpx.

    Make one per process, after any fork. Close it, or use it as a context manager. What the
    profile's provider cannot do raises UnsupportedOperationError before any request.
    """

    def __init__(self, profile: Profile, *, timeout_s: float = 60.0) -> None:
        """Use the profile; raises MissingCredentialsError when it has no key."""
        self.capabilities = capabilities_of(profile)
        self._profile = profile
        self._api_key = profile.key()
        self._timeout_s = timeout_s
        self._http, self._sdk_http = open_clients(profile, timeout_s)
        self._one_request = self.capabilities.takes_names and self.capabilities.resumes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._sdk_http.close()

    @cached_property
    def client(self) -> genai.Client:
        """The SDK's client, on our HTTP client where it takes that."""
        options = types.HttpOptions(
            base_url=self._profile.base_url,
            api_version=self._profile.api_version,
            httpx_client=self._sdk_http,
            # In milliseconds. Without it the SDK sets none, whatever the HTTP client says.
            timeout=math.ceil(self._timeout_s * 1000),
        )
        return genai.Client(api_key=self._api_key, http_options=options, vertexai=False)

    @cached_property
    def _sender(self) -> Sender:
        return Sender(
            self._http,
            base_url=self._profile.base_url,
            api_version=self._profile.api_version,
            api_key=self._api_key,
            resumes=self.capabilities.resumes,
        )

    @cached_property
    def pages(self) -> GeminiFilePages:
        """The list of files, page by page."""
        return GeminiFilePages(self._http, self._profile)

    @cached_property
    def batches(self) -> GeminiBatches:
        """The Batch API."""
        return GeminiBatches(self._http, self._profile, self.capabilities)

    def start(self, name: str, request: UploadRequest, size_bytes: int) -> str:
        """Open an upload session for a file of this name; return its URL, which is a secret."""
        self.capabilities.require(Operation.UPLOAD)
        label = "" if self.capabilities.takes_names else _label(name)
        return self._sender.start(
            name=name,
            display_name=f"{label}{request.display_name}"[:MAX_DISPLAY_NAME],
            mime_type=request.mime_type,
            size_bytes=size_bytes,
        )

    def send(
        self,
        session_url: str,
        source: Source,
        *,
        name: str,
        resume: bool = False,
        on_progress: Progress = lambda sent_bytes: None,
    ) -> ProviderFile:
        """Send the source, or with ``resume`` what the server lacks, and verify the result."""
        sent = self._sender.send(
            session_url, source, name=name, resume=resume, on_progress=on_progress
        )
        return sent.model_copy(update={"provider": self.capabilities.name})

    @property
    def takes_one_request(self) -> bool:
        """Whether a small file may be sent in one request, without a session."""
        return self._one_request

    def forgo_one_request(self) -> None:
        """Take note that the service refuses that."""
        self._one_request = False

    def send_in_one(self, name: str, request: UploadRequest, source: Source) -> ProviderFile:
        """Send a small source, which is held in memory, and verify the result."""
        sent = self._sender.send_in_one(
            source,
            name=name,
            display_name=request.display_name[:MAX_DISPLAY_NAME],
            mime_type=request.mime_type,
        )
        return sent.model_copy(update={"provider": self.capabilities.name})

    def query(self, session_url: str, name: str) -> int | ProviderFile:
        """Return the bytes that a session has received, or its finished file."""
        state = self._sender.query(session_url, name)
        return state.received_bytes if state.file is None else state.file

    def cancel(self, session_url: str) -> None:
        """Give a session up; one that is gone or finished is fine."""
        self._sender.cancel(session_url)

    def get(self, name: str) -> ProviderFile:
        """Look a file up by name; raises FileGoneError when it is not there.

        One of our names is looked for among all files where the provider chooses the names.
        """
        self.capabilities.require(Operation.GET)
        if protocol.is_our_name(name) and not self.capabilities.takes_names:
            return self._labelled(name)
        with self._about_file("get", name):
            return self._record(self.client.files.get(name=name))

    @contextmanager
    def _about_file(self, operation: str, name: str) -> Iterator[None]:
        """Map the errors of a call about one file.

        Others than Google answer 404 for one that is not there; of Google it is a path that its
        gateway does not know.
        """
        try:
            with mapped_errors(operation, name, by_sdk=True):
                yield
        except ProviderRefusedError as error:
            if error.http_status == 404 and not self.capabilities.takes_names:
                raise FileGoneError(operation, 404, error.status, error.message) from None
            raise

    def _labelled(self, name: str) -> ProviderFile:
        label = _label(name)
        for file in self.list():
            if (file.display_name or "").startswith(label):
                return file
        raise FileGoneError("get", 404, "NOT_FOUND", name)

    def list(self, page_size: int = 100) -> Iterator[ProviderFile]:
        """Yield all files of this key; each page is asked for when the one before is used up."""
        self.capabilities.require(Operation.LIST)
        with mapped_errors("list", by_sdk=True):
            pager = self.client.files.list(config={"page_size": page_size})
        while True:
            yield from (self._record(file, "list") for file in pager.page)
            with mapped_errors("list", by_sdk=True):
                try:
                    pager.next_page()
                except IndexError:  # the SDK's way to say that this was the last one
                    return

    def registers(self, location: str) -> bool:
        """Whether a source is in a Google Cloud bucket that this process's account may read."""
        if scheme_of(location) != "gs" or not self.capabilities.can(Operation.REGISTER):
            return False
        return cached_google_credentials() is not None

    def register(
        self, uris: Sequence[str], credentials: Credentials | None = None
    ) -> builtins.list[ProviderFile]:
        """Make files of a Google Cloud bucket (``gs://…``) known to the service, uncopied.

        Raises MissingCredentialsError where neither the caller nor the environment has any.
        """
        self.capabilities.require(Operation.REGISTER)
        auth = credentials or cached_google_credentials() or google_credentials()
        with mapped_errors("register", by_sdk=True):
            answer = self.client.files.register_files(auth=auth, uris=[*uris])
        return [self._record(file, "register") for file in answer.files or []]

    def generate(
        self,
        prompt: str,
        files: Sequence[Attachment],
        *,
        model: str = DEFAULT_MODEL,
        config: dict[str, Any] | None = None,
        timeout_s: float = 600.0,
        ticket: str = "",
    ) -> Answer:
        """Ask a model about files, the prompt first; each file after its label.

        Raises FileExpiredError, FileGoneError or FileNotActiveError naming the file that cannot be
        used; ProviderRefusedError also when the prompt or the answer was blocked.
        """
        if files:
            self.capabilities.require(Operation.GENERATE)
        _refuse_expired(files)
        try:
            options = types.GenerateContentConfig.model_validate(config or {})
        except ValueError as error:
            raise InvalidRequestError("config", repr(sorted(config or {})), str(error)) from None
        options.http_options = types.HttpOptions(timeout=math.ceil(timeout_s * 1000))
        try:
            with mapped_errors("generate", by_sdk=True), refused_unsent("config, model or prompt"):
                said = self.client.models.generate_content(
                    model=model, contents=_contents(prompt, files), config=options
                )
        except InvalidCredentialsError:
            raise
        except ProviderRefusedError as error:
            if error.http_status in {400, 403}:
                self._blame(files)
            raise
        return _answer(said, model, len(files), ticket)

    def _blame(self, files: Sequence[Attachment]) -> None:
        """Raise the error of the file that cannot be used; the refusal itself names none."""
        for file in files:
            state = self.get(file.name).state
            if state != Stage.ACTIVE:
                raise FileNotActiveError(file.name, state)

    def delete(self, name: str) -> bool:
        """Delete a file by name. Gone is success: returns whether it was still there."""
        self.capabilities.require(Operation.DELETE)
        try:
            if protocol.is_our_name(name) and not self.capabilities.takes_names:
                name = self._labelled(name).name
            with self._about_file("delete", name):
                self.client.files.delete(name=name)
        except FileGoneError:
            return False
        return True

    def _record(self, file: types.File, operation: str = "get") -> ProviderFile:
        if not file.name:
            raise ProviderUnavailableError(operation, "the answer holds no file", 200)
        error: dict[str, Any] | None = (
            file.error.model_dump(mode="json", exclude_none=True) if file.error else None
        )
        return ProviderFile(
            name=file.name,
            uri=file.uri or "",
            state=file.state.value if file.state else "STATE_UNSPECIFIED",
            mime_type=file.mime_type or "",
            size_bytes=file.size_bytes or 0,
            display_name=file.display_name,
            sha256=read_sha256(file.sha256_hash),
            created_at=file.create_time,
            expires_at=file.expiration_time,
            source=file.source.value if file.source else None,
            video=file.video_metadata,
            error=error,
            provider=self.capabilities.name,
        )


def _refuse_expired(files: Sequence[Attachment]) -> None:
    now = datetime.now(UTC)
    for file in files:
        if file.expires_at is not None and file.expires_at <= now:
            raise FileExpiredError(file.name, file.expires_at.isoformat(timespec="seconds"))


def _contents(prompt: str, files: Sequence[Attachment]) -> builtins.list[types.Part]:
    parts = [types.Part.from_text(text=prompt)]
    for file in files:
        if file.label:
            parts.append(types.Part.from_text(text=file.label))
        parts.append(types.Part.from_uri(file_uri=file.uri, mime_type=file.mime_type))
    return parts


def _answer(said: types.GenerateContentResponse, model: str, files: int, ticket: str) -> Answer:
    candidate = next(iter(said.candidates or []), None)
    if candidate is None:
        feedback = said.prompt_feedback
        reason = feedback.block_reason if feedback else None
        raise ProviderRefusedError(
            "generate", 200, reason.value if reason else "NO_ANSWER", "the prompt got no answer"
        )
    parts = (candidate.content.parts if candidate.content else None) or []
    used = said.usage_metadata or types.GenerateContentResponseUsageMetadata()
    return Answer(
        ticket=ticket,
        model=said.model_version or model,
        text="".join(part.text for part in parts if part.text and not part.thought),
        finish_reason=candidate.finish_reason.value if candidate.finish_reason else "UNKNOWN",
        files=files,
        prompt_tokens=used.prompt_token_count or 0,
        answer_tokens=used.candidates_token_count or 0,
        thought_tokens=used.thoughts_token_count or 0,
        total_tokens=used.total_token_count or 0,
    )


def _label(name: str) -> str:
    """What a file of ours bears before its display name where the provider chooses the names."""
    return f"{name.removeprefix('files/')}-"
