"""The X-Goog-Upload protocol: bytes to the provider, verified, from any offset.

    POST /upload/v1beta/files                       POST <session URL>
    X-Goog-Upload-Protocol: resumable               X-Goog-Upload-Command: upload, finalize
    X-Goog-Upload-Command: start                    X-Goog-Upload-Offset: 0
    X-Goog-Upload-Header-Content-Length: 12345      Content-Length: 12345
    X-Goog-Upload-Header-Content-Type: video/mp4
    x-goog-api-key: …                               <bytes>
    {"file": {"name": "files/pu-…", …}}
                                                    200, X-Goog-Upload-Status: final
    200, X-Goog-Upload-URL: <session URL>           {"file": {"name": …, "state": …, …}}

The session URL is itself the credential. All that remains goes in one streamed request; on any
doubt ``query`` says how many bytes arrived (``X-Goog-Upload-Size-Received``), or answers with the
finished file. The ``*_request`` functions and the ``read_*`` functions do no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx2

from provider_uploads.errors import (
    NameTakenError,
    ProviderUnavailableError,
    SessionLostError,
)
from provider_uploads.providers.base import Progress
from provider_uploads.providers.error_mapping import error_for, mapped_errors
from provider_uploads.providers.multipart import multipart_request
from provider_uploads.providers.verification import Digest, verified, verify
from provider_uploads.providers.wire import WireRequest, answer_json, read_file, upload_url
from provider_uploads.schemas import ProviderFile
from provider_uploads.sources.base import Source


@dataclass(frozen=True, slots=True)
class SessionState:
    """What the server says of a session: the bytes it has, or the finished file."""

    received_bytes: int = 0
    file: ProviderFile | None = None


def start_request(
    base_url: str,
    api_version: str,
    api_key: str,
    *,
    name: str,
    display_name: str,
    mime_type: str,
    size_bytes: int,
) -> WireRequest:
    """Ask for a session. ``display_name`` travels in JSON only: headers cannot hold all names."""
    return WireRequest(
        url=upload_url(base_url, api_version),
        headers={
            "x-goog-api-key": api_key,
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(size_bytes),
            "X-Goog-Upload-Header-Content-Type": mime_type,
        },
        json={
            "file": {
                "name": name,
                "displayName": display_name,
                "mimeType": mime_type,
                "sizeBytes": str(size_bytes),
            }
        },
    )


def read_start(response: httpx2.Response, name: str) -> str:
    """Return the session URL for the file of this name."""
    if response.status_code == 409:
        raise NameTakenError(name)
    if response.status_code != 200:
        raise error_for("start", response.status_code, response.content, response.headers)
    url = response.headers.get("x-goog-upload-url")
    if not url:
        raise ProviderUnavailableError("start", "the answer has no upload URL", 200)
    return url


def send_request(session_url: str, offset: int, remaining_bytes: int) -> WireRequest:
    """Send everything from ``offset`` on, and finalize."""
    return WireRequest(
        session_url,
        {
            "X-Goog-Upload-Command": "upload, finalize",
            "X-Goog-Upload-Offset": str(offset),
            "Content-Length": str(remaining_bytes),
        },
    )


def query_request(session_url: str) -> WireRequest:
    """Ask what the server has."""
    return WireRequest(session_url, {"X-Goog-Upload-Command": "query", "Content-Length": "0"})


def cancel_request(session_url: str) -> WireRequest:
    """Give the session up."""
    return WireRequest(session_url, {"X-Goog-Upload-Command": "cancel", "Content-Length": "0"})


def read_session(operation: str, response: httpx2.Response, name: str) -> SessionState:
    """Return what an answer to ``send`` or ``query`` says.

    Raises SessionLostError for a session that is gone, NameTakenError for a 409 at finalize,
    ProviderUnavailableError where a later ``query`` may help, and the mapped error otherwise.
    """
    code, status = response.status_code, response.headers.get("x-goog-upload-status", "")
    if code == 200 and status == "final":
        return SessionState(file=read_file(operation, answer_json(operation, response).get("file")))
    if code == 200 and status == "active":
        return SessionState(_received(operation, response.headers))
    if code in {404, 410} or (code == 200 and status == "cancelled"):
        raise SessionLostError(code)
    if status == "active" or code == 200:
        raise ProviderUnavailableError(operation, f"upload status {status or 'missing'}", code)
    # With a name, a 403 would mean that the file is gone; here it is about the session.
    named = name if code == 409 else ""
    raise error_for(operation, code, response.content, response.headers, name=named)


class Sender:
    """Moves a file's bytes over one HTTP client; safe to share between threads.

    Each method is one attempt: what to do about a TransientError is the caller's business, and
    calling ``send`` again with the same session goes on where the server stands.
    """

    def __init__(
        self,
        http: httpx2.Client,
        *,
        base_url: str,
        api_version: str,
        api_key: str,
        resumes: bool = True,
    ) -> None:
        """Send over ``http``.

        ``resumes=False`` says that a server forgets a session with its first request, whose body
        it takes for the whole file: then nothing else is ever asked of a session.
        """
        self._resumes = resumes
        self._http = http
        self._base_url = base_url
        self._api_version = api_version
        self._api_key = api_key

    def start(self, *, name: str, display_name: str, mime_type: str, size_bytes: int) -> str:
        """Open a session for a file of ``size_bytes`` and return its URL, which is a secret."""
        request = start_request(
            self._base_url,
            self._api_version,
            self._api_key,
            name=name,
            display_name=display_name,
            mime_type=mime_type,
            size_bytes=size_bytes,
        )
        with mapped_errors("start"):
            response = self._http.post(request.url, headers=request.headers, json=request.json)
        return read_start(response, name)

    def send_in_one(
        self, source: Source, *, name: str, display_name: str, mime_type: str
    ) -> ProviderFile:
        """Send a small source in one request, and verify the result; raises as ``send`` does."""
        digest = Digest()
        content = b"".join(digest.blocks(source, source.size_bytes))
        source.unchanged()
        request, body = multipart_request(
            self._base_url,
            self._api_version,
            self._api_key,
            name=name,
            display_name=display_name,
            mime_type=mime_type,
            content=content,
        )
        with mapped_errors("upload"):
            response = self._http.post(request.url, headers=request.headers, content=body)
        if response.status_code == 409:
            raise NameTakenError(name)
        if response.status_code != 200:
            raise error_for("upload", response.status_code, response.content, response.headers)
        file = read_file("upload", answer_json("upload", response).get("file"))
        return verified(file, source.size_bytes, digest.hexdigest())

    def query(self, session_url: str, name: str) -> SessionState:
        """Ask the server what it has of ``name``; raises SessionLostError where none is kept."""
        if not self._resumes:
            raise SessionLostError(410)
        return self._ask("query", query_request(session_url), name)

    def cancel(self, session_url: str) -> None:
        """Give a session up; one that is gone or finished is fine.

        Raises the error of a server that did not get as far as the session.
        """
        if not self._resumes:
            return
        request = cancel_request(session_url)
        with mapped_errors("cancel"):
            response = self._http.post(request.url, headers=request.headers)
        code, status = response.status_code, response.headers.get("x-goog-upload-status")
        if (code == 429 or code >= 500) and status is None:
            raise error_for("cancel", code, response.content, response.headers)

    def send(
        self,
        session_url: str,
        source: Source,
        *,
        name: str,
        resume: bool = False,
        on_progress: Progress = lambda sent_bytes: None,
    ) -> ProviderFile:
        """Send the source, or with ``resume`` what the server lacks, and verify the result.

        ``on_progress`` gets the bytes handed to the connection so far, for each block that is sent
        or read once more; what it raises stops the transfer. Raises VerificationError when size or
        sha256 differ.
        """
        answer = self.query(session_url, name) if resume else SessionState()
        digest = Digest()
        source.stream.seek(0)
        if answer.file is not None:
            return verify(answer.file, source, on_progress)
        there = min(answer.received_bytes, source.size_bytes)
        for _ in digest.blocks(source, there):  # the hash covers what an earlier attempt sent
            on_progress(there)
        answer = self._stream(session_url, source, digest, name, on_progress)
        if answer.file is None:
            # `active` after the last byte: ask once more before calling it a doubt.
            answer = self.query(session_url, name)
        if answer.file is None:
            raise ProviderUnavailableError("upload", "all bytes sent, file not finalized", 200)
        source.unchanged()  # what was hashed is then one version of it, and all of that
        return verified(answer.file, source.size_bytes, digest.hexdigest())

    def _stream(
        self, session_url: str, source: Source, digest: Digest, name: str, on_progress: Progress
    ) -> SessionState:
        offset = digest.read_bytes
        request = send_request(session_url, offset, source.size_bytes - offset)

        stopped: list[BaseException] = []

        def body() -> Iterator[bytes]:
            for block in digest.blocks(source, source.size_bytes):
                yield block
                try:
                    on_progress(digest.read_bytes)
                except BaseException as error:
                    stopped.append(error)
                    raise

        try:
            with mapped_errors("upload"):
                response = self._http.post(request.url, headers=request.headers, content=body())
        except ProviderUnavailableError:
            if stopped:  # the caller's own error, which is not the provider's fault
                raise stopped[0] from None
            raise
        if response.status_code in {400, 412, 416}:
            # A refusal, or offsets that disagree: then the session is not where we expected.
            try:
                answer = self.query(session_url, name)
            except SessionLostError:
                return read_session("upload", response, name)
            if answer.file is not None:
                return answer
            if answer.received_bytes not in {offset, source.size_bytes}:
                raise ProviderUnavailableError("upload", "offsets disagree", response.status_code)
        return read_session("upload", response, name)

    def _ask(self, operation: str, request: WireRequest, name: str) -> SessionState:
        with mapped_errors(operation):
            response = self._http.post(request.url, headers=request.headers)
        return read_session(operation, response, name)


def _received(operation: str, headers: Mapping[str, str]) -> int:
    said = headers.get("x-goog-upload-size-received", "0")
    if not said.isdecimal():
        raise ProviderUnavailableError(operation, "the answer's received size is malformed", 200)
    return int(said)
