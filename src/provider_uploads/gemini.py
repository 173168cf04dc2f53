"""The provider: google-genai for every call but the bytes, one HTTP client for both."""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Self

from provider_uploads.errors import (
    FileGoneError,
    MissingCredentialsError,
    MissingDependencyError,
    ProviderUnavailableError,
)
from provider_uploads.records import ProviderFile
from provider_uploads.settings import Settings, settings

try:
    import httpx2
    from google import genai
    from google.auth import exceptions as auth_errors
    from google.auth.credentials import Credentials
    from google.genai import types
except ImportError as error:
    raise MissingDependencyError("google-genai", "google") from error

from provider_uploads.refusals import provider_call
from provider_uploads.resumable import Sender, read_sha256

#: What results say the provider is.
PROVIDER = "google"


class Gemini:
    """The Gemini Files service for one API key; thread-safe, one connection pool.

    Make one per process, after any fork. Close it, or use it as a context manager.
    """

    def __init__(
        self, api_key: str, *, base_url: str, api_version: str = "v1beta", timeout_s: float = 60.0
    ) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._api_version = api_version
        self._timeout_s = timeout_s
        self._http = httpx2.Client(
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
        )

    @classmethod
    def from_settings(cls, given: Settings | None = None) -> Self:
        """Return a client for the settings' key; raises MissingCredentialsError without one."""
        given = given or settings()
        return cls(
            given.key(),
            base_url=given.base_url,
            api_version=given.api_version,
            timeout_s=given.provider_timeout_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @cached_property
    def client(self) -> genai.Client:
        """The SDK's client, on our HTTP client."""
        options = types.HttpOptions(
            base_url=self._base_url,
            api_version=self._api_version,
            httpx_client=self._http,
            # In milliseconds. Without it the SDK sends each request with no timeout at all,
            # whatever the HTTP client says.
            timeout=math.ceil(self._timeout_s * 1000),
        )
        return genai.Client(api_key=self._api_key, http_options=options, vertexai=False)

    @cached_property
    def sender(self) -> Sender:
        """What moves the bytes."""
        return Sender(
            self._http,
            base_url=self._base_url,
            api_version=self._api_version,
            api_key=self._api_key,
        )

    def get(self, name: str) -> ProviderFile:
        """Look a file up by ``files/…`` name; raises FileGoneError when it is not there."""
        with provider_call("get", name, by_sdk=True):
            return _record(self.client.files.get(name=name))

    def list(self, page_size: int = 100) -> Iterator[ProviderFile]:
        """Yield all files of this key; each page is asked for when the one before is used up."""
        with provider_call("list", by_sdk=True):
            pager = self.client.files.list(config={"page_size": page_size})
        while True:
            yield from (_record(file, "list") for file in pager.page)
            with provider_call("list", by_sdk=True):
                try:
                    pager.next_page()
                except IndexError:  # the SDK's way to say that this was the last one
                    return

    def register(
        self, uris: Sequence[str], credentials: Credentials
    ) -> builtins.list[ProviderFile]:
        """Make files of a Google Cloud bucket (``gs://…``) known to the service, uncopied."""
        with provider_call("register", by_sdk=True):
            try:
                answer = self.client.files.register_files(auth=credentials, uris=[*uris])
            except auth_errors.TransportError as error:
                raise ProviderUnavailableError("register", type(error).__name__) from None
            except auth_errors.GoogleAuthError:
                raise MissingCredentialsError("Google Cloud") from None
        return [_record(file, "register") for file in answer.files or []]

    def delete(self, name: str) -> bool:
        """Delete a file by name. Gone is success: returns whether it was still there."""
        try:
            with provider_call("delete", name, by_sdk=True):
                self.client.files.delete(name=name)
        except FileGoneError:
            return False
        return True


def _record(file: types.File, operation: str = "get") -> ProviderFile:
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
    )
