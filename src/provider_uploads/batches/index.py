"""The keys of a batch on disk, in input order, each with its answer once it is there.

A batch may have millions of lines: in memory their keys alone would be more than a worker has.
SQLite keeps them in a file of its own that is gone when it is closed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Final, Self

from provider_uploads.batches.answers import answer_in
from provider_uploads.schemas import BatchAnswer, BatchCounts

#: What SQLite keeps in memory, in KiB; the rest is in a temporary file.
_CACHE_KIB: Final = 4096
_BY_KEY: Final = "UPDATE keys SET answer = ? WHERE key = ? AND (answer IS NULL OR ?)"
_BY_NUMBER: Final = "UPDATE keys SET answer = ? WHERE number = ? AND (answer IS NULL OR ?)"
_NO_ANSWER: Final = {"code": 13, "message": "the service gave no answer to this request"}


class KeyIndex:
    """Keys and answers; a context manager, for one thread."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # "": a file that SQLite removes
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._db.execute("PRAGMA temp_store = 1")
        for setting in ("journal_mode = OFF", "synchronous = OFF"):
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute(
            "CREATE TABLE keys (key TEXT PRIMARY KEY, number INTEGER, answer TEXT) WITHOUT ROWID"
        )
        self._db.execute("BEGIN")
        self._count = 0
        self._reasons: list[tuple[int, int, dict[str, Any]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def __len__(self) -> int:
        return self._count

    def add(self, key: str) -> bool:
        """Take the next key of the input; False when it was there before."""
        done = self._db.execute(
            "INSERT OR IGNORE INTO keys (key, number) VALUES (?, ?)", (key, self._count)
        )
        self._count += done.rowcount
        return done.rowcount == 1

    def __contains__(self, key: str) -> bool:
        return self._db.execute("SELECT 1 FROM keys WHERE key = ?", (key,)).fetchone() is not None

    def answer(self, lines: Iterable[dict[str, Any]], start: int = 0) -> None:
        """Take answers in any order; one without a key is for the line as far from ``start``.

        The first answer to a key counts, a response before an error; what nobody asked for is
        passed over.
        """
        self._db.execute("CREATE INDEX IF NOT EXISTS in_order ON keys (number)")
        for number, line in enumerate(lines, start):
            found = answer_in(line)
            text = json.dumps([found.response, found.error], ensure_ascii=False)
            subject = found.key or number
            # Two statements, each by its index: an OR would read all keys for each answer.
            self._db.execute(
                _BY_KEY if found.key else _BY_NUMBER, (text, subject, found.response is not None)
            )

    def explain(self, start: int, end: int, error: dict[str, Any]) -> None:
        """Say why the keys number ``start`` to ``end``, excluded, may have no answer."""
        self._reasons.append((start, end, error))

    def in_order(self) -> Iterator[BatchAnswer]:
        """Yield an answer for every key, in the order of the input."""
        self._db.execute("CREATE INDEX IF NOT EXISTS in_order ON keys (number)")
        found = self._db.execute("SELECT key, answer, number FROM keys ORDER BY number")
        for key, text, number in found:
            response, error = json.loads(text) if text else (None, self._why(number))
            yield BatchAnswer(key, response, error)

    def _why(self, number: int) -> dict[str, Any]:
        said = (error for start, end, error in self._reasons if start <= number < end)
        return next(said, _NO_ANSWER)

    def missing(self) -> int:
        """Return how many keys have no answer."""
        row = self._db.execute("SELECT COUNT(*) FROM keys WHERE answer IS NULL").fetchone()
        return int(row[0])


def counts_of(answers: Iterable[BatchAnswer]) -> BatchCounts:
    """Return how many there are, and how many failed."""
    total = failed = 0
    for answer in answers:
        total += 1
        failed += answer.error is not None
    return BatchCounts(requests=total, succeeded=total - failed, failed=failed)
