"""The Batch API, by its own JSON: jobs, their states, and their answers as a stream.

    POST   models/{model}:batchGenerateContent     {"batch": {"displayName": …, "inputConfig": …}}
    GET    batches/{id}          an operation: {"name": …, "metadata": {"state": …}, "done": true,
                                                "response": {…} | "error": {…}}
    GET    batches?pageSize=100  {"operations": […], "nextPageToken": "…"}
    POST   batches/{id}:cancel
    DELETE batches/{id}
    GET    files/{id}:download?alt=media              the answers, one JSON object a line

Not by google-genai, which leaves out the error of a failed job, its counts and its input, cannot
read an inline answer whose error has details, keeps a whole output file in memory, and refuses the
names that a gateway gives. Requests within a call, and answers within a job, are a stream.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Final
from urllib.parse import quote

import httpx2

from provider_uploads.errors import (
    FileGoneError,
    ProviderRefusedError,
    ProviderUnavailableError,
)
from provider_uploads.profiles import Profile
from provider_uploads.providers import inline_answers
from provider_uploads.providers.base import Capabilities, NewJob, Operation
from provider_uploads.providers.error_mapping import error_for, mapped_errors
from provider_uploads.schemas import BatchCounts, BatchJob, job_state

_LONGEST_ERROR: Final = 64 * 1024
#: A body stays in memory up to here, and goes to a temporary file beyond.
_IN_MEMORY_BYTES: Final = 1024**2


#: What is sent, written up to where it stands.
Body = IO[bytes] | None


class GeminiBatches:
    """The batches of one profile, at Gemini's own service or a gateway; thread-safe."""

    def __init__(self, http: httpx2.Client, profile: Profile, capabilities: Capabilities) -> None:
        """Use the profile; raises MissingCredentialsError when it has no key."""
        self._http = http
        self._base = "/".join(filter(None, [profile.base_url.rstrip("/"), profile.api_version]))
        self._headers = {"x-goog-api-key": profile.key()}
        self._capabilities = capabilities

    def create(self, job: NewJob) -> BatchJob:
        """Create a job; a second call makes a second one."""
        inline = job.input_file is None
        self._capabilities.require(Operation.BATCH_INLINE if inline else Operation.BATCH_FILE)
        path = f"models/{quote(job.model, safe='/')}:batchGenerateContent"
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as body:
            _write(job, body)
            said = self._json("POST", path, "create_batch", body=body)
        return _job("create_batch", said)

    def get(self, name: str) -> BatchJob:
        """Return a job; raises FileGoneError when it is not there."""
        self._require()
        return _job("get_batch", self._json("GET", _path(name), "get_batch", name=name))

    def list(self, page_size: int = 100) -> Iterator[list[BatchJob]]:
        """Yield all jobs of the account, a page for each request."""
        self._require()
        token = ""
        while True:
            after = f"&pageToken={quote(token)}" if token else ""
            page = self._json("GET", f"batches?pageSize={page_size}{after}", "list_batches")
            with mapped_errors("list_batches"):
                operations = page.get("operations") or page.get("batches") or []
                yield [_job("list_batches", one) for one in operations]
            token = str(page.get("nextPageToken") or "")
            if not token:
                return

    def cancel(self, name: str) -> bool:
        """Ask for a job's end; one that has ended, or is gone, is fine."""
        self._require()
        try:
            self._json("POST", f"{_path(name)}:cancel", "cancel_batch", name=name)
        except FileGoneError:
            return False
        except ProviderRefusedError as error:
            if error.http_status == 400 and self.get(name).ended:
                return False
            raise
        return True

    def delete(self, name: str) -> bool:
        """Delete a job; gone is success: returns whether it was still there."""
        self._require()
        try:
            self._json("DELETE", _path(name), "delete_batch", name=name)
        except FileGoneError:
            return False
        return True

    def answers(self, job: BatchJob) -> Iterator[dict[str, Any]]:
        """Yield a job's answers, as the provider writes them, one in memory."""
        if job.output_file is not None:
            yield from self._downloaded(job.output_file)
        elif job.inlined:
            with self._asked("GET", _path(job.name), "get_batch", name=job.name) as text:
                yield from inline_answers.answers(text)

    def _downloaded(self, name: str) -> Iterator[dict[str, Any]]:
        path = f"files/{quote(name.removeprefix('files/'))}:download?alt=media"
        with self._answered("GET", path, "download", name=name) as answer:
            for line in answer.iter_lines():
                if line.strip():
                    found = json.loads(line)
                    if isinstance(found, dict):
                        yield found

    def _require(self) -> None:
        """Raise UnsupportedOperationError where neither kind of batch is taken."""
        if not self._capabilities.can(Operation.BATCH_FILE):
            self._capabilities.require(Operation.BATCH_INLINE)

    def _json(
        self, method: str, path: str, operation: str, *, name: str = "", body: Body = None
    ) -> dict[str, Any]:
        """Return what is answered, without answers to requests."""
        with self._asked(method, path, operation, name=name, body=body) as text:
            whole = inline_answers.without_answers(text)
            said = json.loads(whole) if whole.strip() else {}
            if not isinstance(said, dict):
                raise ProviderUnavailableError(operation, "the answer is no object", 200)
            return said

    @contextmanager
    def _asked(
        self, method: str, path: str, operation: str, *, name: str = "", body: Body = None
    ) -> Iterator[Iterator[str]]:
        """Yield the text of an answer, as it comes."""
        with self._answered(method, path, operation, name=name, body=body) as answer:
            yield answer.iter_text()

    @contextmanager
    def _answered(
        self, method: str, path: str, operation: str, *, name: str = "", body: Body = None
    ) -> Iterator[httpx2.Response]:
        headers = dict(self._headers)
        if body is not None:
            headers |= {"content-type": "application/json", "content-length": str(body.tell())}
            body.seek(0)
        with (
            mapped_errors(operation, name),
            self._http.stream(
                method,
                f"{self._base}/{path}",
                headers=headers,
                content=body,
                follow_redirects=operation == "download",
            ) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise self._error(operation, answer, name)
            yield answer

    def _error(self, operation: str, answer: httpx2.Response, name: str) -> Exception:
        body = answer.content[:_LONGEST_ERROR]
        if answer.status_code == 404 and name:
            return FileGoneError(operation, 404, "NOT_FOUND", f"{name} is not there")
        # 409 is about a file's name; none of these calls chooses one.
        error = error_for(operation, answer.status_code, body, answer.headers)
        if answer.status_code == 409:
            return ProviderRefusedError(operation, 409, "ABORTED", str(error))
        return error


def _write(job: NewJob, body: IO[bytes]) -> None:
    """Write what creates a job; its requests may be all that fits into a call."""
    batch: dict[str, Any] = {"displayName": job.display_name}
    if job.webhooks:
        batch["webhookConfig"] = {"uris": [*job.webhooks]}
    if job.input_file is not None:
        batch["inputConfig"] = {"fileName": job.input_file}
        body.write(json.dumps({"batch": batch}).encode())
        return
    head = json.dumps({"batch": batch}).removesuffix("}}")
    body.write(f'{head}, "inputConfig": {{"requests": {{"requests": ['.encode())
    for number, request in enumerate(job.inline):
        body.write(b"," if number else b"")
        body.write(_encoded(request))
    body.write(b"]}}}}")


def _encoded(request: Mapping[str, Any]) -> bytes:
    """Return a request in UTF-8, as the limit on a call counts it; half a character escaped."""
    try:
        return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(request).encode()


def _path(name: str) -> str:
    return f"batches/{quote(name.removeprefix('batches/'))}"


def _job(operation: str, raw: Any) -> BatchJob:
    """Return an operation, or what a gateway makes of one, as a job."""
    if not isinstance(raw, dict) or not raw.get("name"):
        raise ProviderUnavailableError(operation, "the answer holds no job", 200)
    metadata = _dict(raw.get("metadata"))
    output = _dict(metadata.get("output")) or _dict(raw.get("response"))
    stats = _dict(metadata.get("batchStats"))
    done = bool(raw.get("done"))
    state = job_state(metadata.get("state") or raw.get("state"))
    error = raw.get("error") or metadata.get("error")
    return BatchJob(
        name=str(raw["name"]),
        state=state,
        display_name=metadata.get("displayName"),
        model=metadata.get("model"),
        input_file=_dict(metadata.get("inputConfig")).get("fileName"),
        output_file=output.get("responsesFile") or _dict(raw.get("dest")).get("fileName"),
        inlined="inlinedResponses" in output,
        done=done,
        counts=BatchCounts(
            requests=_number(stats, "requestCount"),
            succeeded=_number(stats, "successfulRequestCount"),
            failed=_number(stats, "failedRequestCount"),
        ),
        error=error if isinstance(error, dict) else None,
        created_at=metadata.get("createTime") or None,
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(stats: dict[str, Any], field: str) -> int:
    value = stats.get(field)
    return int(str(value)) if str(value).isdecimal() else 0
