"""Answering the requests of a batch, and the file their answers end up in."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from provider_uploads.emulator.batch_jobs import BatchJob
from provider_uploads.emulator.batch_lines import Asked, BatchLine, Outcome, read_lines
from provider_uploads.emulator.files import Source, StoredFile

_Item = TypeVar("_Item")


def lines_of(job: BatchJob) -> Iterator[BatchLine]:
    """The requests of a job; BadInputError while they are read, if they cannot be."""
    file = job.spec.input_file
    return (
        iter(job.spec.inline)
        if file is None
        else read_lines(file.path, job.spec.backend.dialect.read)
    )


def answering(job: BatchJob, now_ns: int) -> Iterator[None]:
    """Answer the requests, one with each step; BadInputError if they cannot be read.

    The answers go to ``output_path``, or if there is none to ``inline_output``.
    """
    if job.output_path is None:
        answers = []
        for answer in _outputs(job, lines_of(job), now_ns):
            answers.append(answer)
            yield
        job.inline_output = answers
        return
    with job.output_path.open("wb") as output:
        for answer in _outputs(job, lines_of(job), now_ns):
            output.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
            yield


def tokens_of(job: BatchJob, now_ns: int) -> int:
    """What the requests of a job count; one that is refused counts nothing."""
    return sum(
        answer["usageMetadata"]["promptTokenCount"]
        for kind, answer in (_outcome(job, line, now_ns) for line in lines_of(job))
        if kind == "response"
    )


def keep_output(job: BatchJob, path: Path, now_ns: int) -> StoredFile:
    """Make a file of the owner's out of the answers: it can be downloaded, and expires."""
    files = job.spec.backend.files
    with path.open("rb") as output:
        sha256_hex = hashlib.file_digest(output, "sha256").hexdigest()
    file = StoredFile(
        file_id=job.spec.backend.output_id(job.batch_id),
        owner=job.owner,
        display_name=None,
        mime_type="application/jsonl",
        size_bytes=path.stat().st_size,
        sha256_hex=sha256_hex,
        create_ns=now_ns,
        sequence=files.next_sequence(),
        source=Source.GENERATED,
        path=path,
    )
    files.add(file)
    return file


def _outputs(job: BatchJob, lines: Iterator[BatchLine], now_ns: int) -> Iterator[dict[str, Any]]:
    """What is answered to each line, in the order of the input unless ordered otherwise."""
    fate = job.fate
    for line in _shuffled(lines) if fate.shuffled else lines:
        if fate.fails(line.label, line.number):
            outcome = ("error", fate.line_error)
        else:
            outcome = _outcome(job, line, now_ns)
        if outcome[0] == "error":
            job.failed += 1
        else:
            job.succeeded += 1
        if line.label in fate.missing_keys:
            continue
        written = job.spec.backend.dialect.write(line, outcome)
        yield written
        if line.label in fate.doubled_keys:
            yield written


def _outcome(job: BatchJob, line: BatchLine, now_ns: int) -> Outcome:
    backend = job.spec.backend
    asked = Asked(job.spec.model, job.owner, backend.files, backend.caches, now_ns)
    return backend.dialect.answer(line, asked)


def _shuffled(items: Iterator[_Item]) -> Iterator[_Item]:
    every = list(items)
    random.Random(0).shuffle(every)  # noqa: S311
    return iter(every)
