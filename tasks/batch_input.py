"""A job's input: checked and written in one pass, and sent as a file of ours."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from celery import Task

from config.policy import policy
from config.tiers import tier_of
from provider_uploads.batches.attached import ActiveFile, attached, resolved
from provider_uploads.batches.index import KeyIndex
from provider_uploads.batches.lines import entries
from provider_uploads.batches.reading import checked, inlined, line_for
from provider_uploads.batches.shapes import Request, Shape
from provider_uploads.batches.tokens import LookUp, tokens_in
from provider_uploads.errors import PermanentError, StorageFullError, UnknownTicketError
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.batch_state import BatchState
from provider_uploads.ledger.encryption import decrypted
from provider_uploads.ledger.state import UploadState
from provider_uploads.protocol import MAX_BATCH_FILE_BYTES
from provider_uploads.requests import request_of
from provider_uploads.schemas import BatchJob, JobPart, Stage
from provider_uploads.settings import settings
from provider_uploads.sources.base import Source, SourcePolicy, Version
from provider_uploads.sources.open import open_source
from provider_uploads.transfer import Interrupted, Lease, transfer
from tasks import canvases
from tasks.admission import cool_down_on_429, reserve_storage, wait_for_permit
from tasks.batch_files import facts_of_files
from tasks.batches import calls_of
from tasks.connections import batches, ledger, provider, stopping, through_breaker
from tasks.later import retry_later
from tasks.outcomes import end_upload

#: What the Batch API takes its input as.
MIME_TYPE: Final = "application/jsonl"
#: The input stays in memory up to here, and goes to a temporary file beyond.
_IN_MEMORY_BYTES: Final = 1024**2


@dataclass
class Prepared:
    """What one job sends."""

    file: Any
    #: The whole input.
    requests: int = 0
    shape: Shape = Shape.GEMINI
    #: This job's part of it.
    count: int = 0
    size_bytes: int = 0
    inline_bytes: int = 0
    #: An estimate.
    tokens: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    unknown: set[str] = field(default_factory=set)

    def inline(self) -> Iterator[dict[str, Any]]:
        """Yield the requests as they stand within a call."""
        self.file.seek(0)
        for line in map(json.loads, self.file):
            yield inlined(line["key"], line["request"])

    def source(self, shown: str) -> Source:
        """Return the file as a source that is the same however often it is written."""
        self.file.seek(0)
        version = Version(self.size_bytes, self.digest.hexdigest())
        return Source(shown, self.file, version, lambda: version)


@contextmanager
def requests_of(row: BatchState, keys: KeyIndex) -> Iterator[Iterator[Request]]:
    """Open a batch's input and yield its requests, checked; their keys are then in ``keys``."""
    with ExitStack() as opened:
        if row.request.source is None:
            stream = _readable(_Joined(batches().input_lines(row.ticket)))
        else:
            location = decrypted(row.source_url) if row.source_url else row.request.source
            source = opened.enter_context(open_source(location, SourcePolicy.of(settings())))
            stream = _readable(source.stream)
        limit = tier_of(row.request.profile).batch_file_bytes or MAX_BATCH_FILE_BYTES
        yield checked(
            entries(stream, row.source),
            row.source,
            keys,
            check_fields=row.request.check_fields,
            limit_bytes=limit,
        )


@contextmanager
def prepared(row: BatchState, job: JobPart, files: Mapping[str, ActiveFile]) -> Iterator[Prepared]:
    """Yield what a job sends, from one reading of the input.

    What requests name and ``files`` has not is in ``unknown``.
    """
    with (
        tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as file,
        KeyIndex() as keys,
        KeyIndex() as answered,
    ):
        _add_answered(row, job, answered)
        found = Prepared(file)
        facts = facts_of_files()
        with requests_of(row, keys) as requests:
            for number, request in enumerate(requests):
                found.requests, found.shape = number + 1, request.shape
                found.unknown.update(one for one in attached(request) if one not in files)
                within = job.start <= number and (job.end < 0 or number < job.end)
                if within and not found.unknown and request.key not in answered:
                    _write(found, request, resolved(request, files.__getitem__), facts)
                if stopping.is_set() and number % 1000 == 0:
                    raise Interrupted("the worker is stopping")
        yield found


def _write(found: Prepared, request: Request, body: dict[str, Any], facts: LookUp) -> None:
    line = line_for(request, body)
    found.file.write(line)
    found.digest.update(line)
    found.count += 1
    found.size_bytes += len(line)
    found.tokens += tokens_in(body, facts)
    # {"request": …, "metadata": {"key": …}} instead of {"key": …, "request": …}, and a comma
    found.inline_bytes += len(line) + 16


def _add_answered(row: BatchState, job: JobPart, answered: KeyIndex) -> None:
    """Take note of what earlier jobs for the same lines have answered."""
    for earlier in row.jobs:
        if earlier.replaced and earlier.has_answers and earlier.start <= job.start < earlier.end:
            for answer in calls_of(row).answers(as_job(earlier)):
                key = answer.get("key") or answer.get("custom_id")
                if key:
                    answered.add(str(key))


def as_job(part: JobPart) -> BatchJob:
    """Return what is known of a job as the provider describes it."""
    return BatchJob(
        name=part.name or "",
        state=part.state,
        output_file=part.output_file,
        inlined=part.inlined,
        error=part.error,
    )


# -- sending it ------------------------------------------------------------------------------------


def input_ticket(row: BatchState, job: JobPart) -> str:
    """Return the ticket of the upload that carries a job's input."""
    return uuid.uuid5(uuid.UUID(row.ticket), f"input:{job.number}:{job.generation}").hex


def sent_input(ticket: str) -> UploadState | None:
    """Return the upload of an input, if there is one."""
    try:
        return ledger().read(ticket)
    except UnknownTicketError:
        return None


def send_input(
    task: Task[Any, Any], row: BatchState, job: JobPart, found: Prepared, lease: Lease
) -> UploadState:
    """Send a job's input, or what the provider lacks of it; return the upload."""
    ticket, profile = job.input_ticket or input_ticket(row, job), row.request.profile
    upload = sent_input(ticket)
    if upload is None:
        name = f"{row.request.display_name or 'batch'}.jsonl"
        source = f"batch://{row.ticket}/{job.number}"
        request = request_of(
            ticket, source, name[-512:], found.size_bytes, mime_type=MIME_TYPE, profile=profile
        )
        ledger().open([request])
        upload = ledger().read(ticket)
    if upload.stage not in (Stage.QUEUED, Stage.UPLOADING):
        return upload
    try:
        reserve_storage(upload.request, found.size_bytes)
        token = wait_for_permit(task, Work.UPLOAD, profile, lease=lease, upload_id=ticket)
        with cool_down_on_429(Work.UPLOAD, profile, token), through_breaker(profile):
            upload, file = transfer(
                ledger(),
                provider(profile),
                upload,
                found.source(request_name(row)),
                lease=lease,
                stopping=stopping.is_set,
                progress_every_s=policy.progress_every_s,
            )
    except StorageFullError as full:
        batches().note(row.ticket, str(full))
        retry_later(task, policy.storage_look_s)
    except PermanentError as error:
        raise end_upload(ticket, error) from None
    if file.state == Stage.ACTIVE:
        ledger().active(upload, file)
    elif ledger().processing(upload, file) is not None:
        canvases.wait_until_active(upload.request).set(task_id=ticket).apply_async()
    return ledger().read(ticket)


def request_name(row: BatchState) -> str:
    """Return what a batch's input is called."""
    return f"the input of batch {row.ticket}"


class _Joined(io.RawIOBase):
    """Lines without newlines as one stream."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._held = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            line = next(self._lines, None)
            if line is None:
                return 0
            self._held = line + b"\n"
        count = min(len(buffer), len(self._held))
        buffer[:count], self._held = self._held[:count], self._held[count:]
        return count


class _Raw(io.RawIOBase):
    """Whatever can be read, for a buffer that finds its lines."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


def _readable(stream: Any) -> BinaryIO:
    if isinstance(stream, io.RawIOBase):
        return io.BufferedReader(stream)
    if isinstance(stream, io.BufferedReader):
        return stream
    return io.BufferedReader(_Raw(stream.read))
