"""The files a key holds at the provider: list, get, delete, register."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

from provider_uploads import protocol
from provider_uploads.errors import FileGoneError, InvalidRequestError
from provider_uploads.providers import open_provider
from provider_uploads.providers.base import Operation
from provider_uploads.schemas import ProviderFile

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_NAME = re.compile(r"(?:https?://[^/]+/(?:.*/)?)?(?:files/)?([A-Za-z0-9][A-Za-z0-9_-]*)")


class Files:
    """The Files service for one API key or profile; a context manager.

    Raises MissingDependencyError without google-genai and MissingCredentialsError without a key;
    every call raises this library's errors only, UnsupportedOperationError where the
    profile's provider cannot do it.
    """

    def __init__(self, api_key: str | None = None, *, profile: str = "default") -> None:
        """Use ``api_key``, else the profile's."""
        self._provider = open_provider(profile, api_key or None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._provider.close()

    def list(self, page_size: int = 100) -> Iterator[ProviderFile]:
        """Yield all files, newest first, fetching pages of 1 to 100 as they are needed."""
        if not 1 <= page_size <= 100:
            raise InvalidRequestError("page_size", str(page_size), "must be between 1 and 100")
        return map(_with_own_name, self._provider.list(page_size))

    def get(self, name: str) -> ProviderFile:
        """Return a file by its name, with or without ``files/``, or by its URI.

        Raises FileGoneError when it is deleted, expired, or of another key: the provider does not
        say which.
        """
        return _with_own_name(self._provider.get(file_name(name)))

    def delete(self, name: str, *, missing_ok: bool = True) -> bool:
        """Delete a file and return whether it was there.

        Gone is success; with ``missing_ok=False`` it is a FileGoneError.
        """
        asked = file_name(name)
        was_there = self._provider.delete(asked)
        if not was_there and not missing_ok:
            raise FileGoneError("delete", 403, "PERMISSION_DENIED", asked)
        return was_there

    def register(
        self, uris: Sequence[str], credentials: Credentials | None = None
    ) -> builtins.list[ProviderFile]:
        """Make ``gs://bucket/object`` files usable without copying them; return them in order.

        ``credentials`` are google-auth's, by default those of the environment; they must be
        allowed to read the bucket. Raises MissingCredentialsError where there are none.
        """
        self._provider.capabilities.require(Operation.REGISTER)
        wrong = next((uri for uri in uris if not re.fullmatch(r"gs://[^/]+/.+", uri)), None)
        if wrong is not None:
            raise InvalidRequestError("uris", repr(wrong), "write it as gs://bucket/object")
        return [*self._provider.register(uris, credentials)]


def _with_own_name(file: ProviderFile) -> ProviderFile:
    """Return a file with its user's display name: through a gateway ours is put before it."""
    found = protocol.LABEL.match(file.display_name or "")
    if not found:
        return file
    return file.model_copy(update={"display_name": (file.display_name or "")[found.end() :]})


def file_name(given: str) -> str:
    """Return ``files/<id>`` for a name, an id or a URI; raises InvalidRequestError.

    The SDK cuts the id out of a URI at its first dash, and takes an http URI for a name.
    """
    found = _NAME.fullmatch(given)
    if not found:
        raise InvalidRequestError("name", repr(given), "write it as files/<id>")
    return f"files/{found[1]}"
