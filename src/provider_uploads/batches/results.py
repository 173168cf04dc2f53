"""The results of a batch in a file: written by a worker, read again by whoever sees the place.

The place is a path or an fsspec URL. What ends in ``.parquet`` is written as Parquet, with pyarrow,
in columns ``key``, ``response`` and ``error``, the last two as JSON; all else as JSONL:

    {"key": "request_1", "response": {…}}
    {"key": "request_2", "error": {"code": 3, "message": "…"}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from provider_uploads import locations
from provider_uploads.errors import (
    InvalidRequestError,
    MissingDependencyError,
    SourceNotAllowedError,
    SourceUnavailableError,
)
from provider_uploads.schemas import BatchAnswer

_PARQUET: Final = ".parquet"
_ROWS: Final = 1000


def answer_line(answer: BatchAnswer) -> str:
    """Return an answer as a line of JSON, without the newline."""
    said = {"response": answer.response} if answer.error is None else {"error": answer.error}
    return json.dumps({"key": answer.key, **said}, ensure_ascii=False)


def answer_of(line: str | bytes) -> BatchAnswer:
    """Return the answer in a line that ``answer_line`` wrote."""
    found = json.loads(line)
    return BatchAnswer(found["key"], found.get("response"), found.get("error"))


def check_place(place: str) -> str:
    """Return a place that results may be written to; raises InvalidRequestError."""
    if locations.scheme_of(place) is None:
        place = os.fspath(Path(place).absolute())
    if locations.credential(place) is not None:
        raise InvalidRequestError(
            "results", locations.shown(place), "holds user info or a query; use the worker's own"
        )
    return place


def check_writable(place: str, roots: tuple[Path, ...] | None) -> None:
    """Check what can be known of a place before there is anything to write; raises as ``write``."""
    if place.endswith(_PARQUET):
        _pyarrow()
    if locations.scheme_of(place) is not None:
        _fsspec()
        return
    path = Path(place).resolve()
    if roots is not None and not any(path.is_relative_to(root) for root in roots):
        raise SourceNotAllowedError(place, str(path), ":".join(map(str, roots)))


def write(answers: Iterable[BatchAnswer], place: str, roots: tuple[Path, ...] | None) -> None:
    """Write answers to a place, whole or not at all; a second time replaces the first.

    Raises SourceNotAllowedError for a path outside ``roots`` (None: anywhere),
    SourceUnavailableError where the place does not take them, MissingDependencyError.
    """
    check_writable(place, roots)
    save = _parquet if place.endswith(_PARQUET) else _jsonl
    if locations.scheme_of(place) is None:
        path = Path(place).resolve()
        with _reached(place):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.part")
            try:
                with beside.open("wb") as file:
                    save(answers, file)
                beside.replace(path)
            finally:
                with suppress(OSError):
                    beside.unlink()
        return
    with _reached(place), _opened(place, "wb") as file:
        save(answers, file)


def read(place: str) -> Iterator[BatchAnswer]:
    """Yield the answers in a place, one after another; raises SourceUnavailableError."""
    load = _from_parquet if place.endswith(_PARQUET) else _from_jsonl
    with _reached(place):
        if locations.scheme_of(place) is None:
            with Path(place).open("rb") as file:
                yield from load(file)
            return
        with _opened(place, "rb") as file:
            yield from load(file)


def _jsonl(answers: Iterable[BatchAnswer], file: Any) -> None:
    for answer in answers:
        file.write(answer_line(answer).encode() + b"\n")


def _from_jsonl(file: Any) -> Iterator[BatchAnswer]:
    for line in file:
        yield answer_of(line)


def _parquet(answers: Iterable[BatchAnswer], file: Any) -> None:
    pa, parquet = _pyarrow()
    schema = pa.schema([(name, pa.string()) for name in BatchAnswer._fields])
    with parquet.ParquetWriter(file, schema) as writer:
        rows: list[dict[str, str | None]] = []
        for answer in answers:
            rows.append(
                {
                    "key": answer.key,
                    "response": _text(answer.response),
                    "error": _text(answer.error),
                }
            )
            if len(rows) == _ROWS:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
                rows = []
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))


def _from_parquet(file: Any) -> Iterator[BatchAnswer]:
    _, parquet = _pyarrow()
    for batch in parquet.ParquetFile(file).iter_batches(_ROWS):
        for row in batch.to_pylist():
            response, error = (
                json.loads(row[n]) if row[n] else None for n in ("response", "error")
            )
            yield BatchAnswer(row["key"], response, error)


def _text(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise MissingDependencyError("pyarrow", "parquet") from None
    return pa, parquet


@contextmanager
def _opened(place: str, mode: str) -> Iterator[Any]:
    with _fsspec().open(place, mode) as file:
        yield file


def _fsspec() -> Any:
    try:
        import fsspec
    except ImportError:
        raise MissingDependencyError("fsspec", "sources") from None
    return fsspec


@contextmanager
def _reached(place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SourceUnavailableError(place, reason) from None
