"""The list of files, page by page, by its own JSON.

    GET files?pageSize=100&pageToken=…    {"files": [{"name": …, "state": …}, …],
                                           "nextPageToken": "…"}

Not by google-genai, whose records of a hundred files cost several times what this does: whoever
watches ten thousand files reads the whole list again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import httpx2

from provider_uploads.errors import ProviderUnavailableError
from provider_uploads.profiles import Profile
from provider_uploads.providers.error_mapping import error_for, mapped_errors
from provider_uploads.providers.wire import read_file
from provider_uploads.schemas import ProviderFile

#: A page is a hundred short records: one that takes longer has no answer, and whoever watches many
#: files by it must not wait as long as for a file's bytes.
_ANSWER_S: Final = 10.0


class GeminiFilePages:
    """The files of one profile, at Gemini's own service; thread-safe."""

    def __init__(self, http: httpx2.Client, profile: Profile) -> None:
        """Use the profile; raises MissingCredentialsError when it has no key."""
        self._http = http
        self._url = "/".join(
            filter(None, [profile.base_url.rstrip("/"), profile.api_version, "files"])
        )
        self._headers = {"x-goog-api-key": profile.key()}

    def page(self, token: str = "", size: int = 100) -> tuple[Sequence[ProviderFile], str]:
        """Return a page of the account's files and the token of the next one, empty for none."""
        query = {"pageSize": str(size), **({"pageToken": token} if token else {})}
        with mapped_errors("list"):
            answer = self._http.get(
                self._url, params=query, headers=self._headers, timeout=_ANSWER_S
            )
            if answer.status_code != 200:
                raise error_for("list", answer.status_code, answer.content, answer.headers)
            said = answer.json()
            if not isinstance(said, dict):
                raise ProviderUnavailableError("list", "the answer is no object", 200)
        listed = said.get("files") or []
        return [read_file("list", one) for one in listed], str(said.get("nextPageToken") or "")
