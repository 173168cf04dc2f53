"""Answers that stand within a job, read as they come: a job may hold 20 MB of them, a list many.

    {"name": "batches/…", "metadata": {…, "output": {"inlinedResponses": {"inlinedResponses": [
        {"response": {…}, "metadata": {"key": "1"}}, …]}}}, "done": true, "response": {…}}

The service says them twice, in ``metadata`` and in ``response``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Final

#: Where a list of answers begins. Within a text it could not: there a quote has a backslash.
_BEGIN: Final = re.compile(r'"inlinedResponses"\s*:\s*\[')
#: So much of what was read is held back, because it may begin one.
_HELD: Final = 256
_NEXT: Final = re.compile(r"[^\s,]")
_decode = json.JSONDecoder().raw_decode


def split(pieces: Iterable[str]) -> Iterator[str | dict[str, Any]]:
    """Yield a JSON text as it comes, its lists of inline answers empty, and each answer.

    Holds one answer in memory. Raises ValueError for a text that ends within a list.
    """
    text = ""
    coming = iter(pieces)
    for piece in coming:
        text += piece
        while begun := _BEGIN.search(text):
            yield text[: begun.end()]
            text = yield from _answers(text[begun.end() :], coming)
        if len(text) > _HELD:
            yield text[:-_HELD]
            text = text[-_HELD:]
    yield text


def without_answers(pieces: Iterable[str]) -> str:
    """Return a JSON text without its inline answers."""
    return "".join(one for one in split(pieces) if isinstance(one, str))


def answers(pieces: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the inline answers of a job, those of the first list."""
    begun = False
    for one in split(pieces):
        if isinstance(one, dict):
            begun = True
            yield one
        elif begun:
            return


def _answers(text: str, coming: Iterator[str]) -> Generator[dict[str, Any], None, str]:
    """Yield the answers of a list; return what follows them, from its bracket on."""
    at = 0
    while True:
        found = _NEXT.search(text, at)
        at = len(text) if found is None else found.start()
        if text.startswith("]", at):
            return text[at:]
        try:
            answer, at = _decode(text, at)
        except json.JSONDecodeError:
            more = _next(coming, len(text) - at)
            if not more:
                raise ValueError("the answers end in the middle") from None
            text, at = text[at:] + more, 0
            continue
        if isinstance(answer, dict):
            yield answer


def _next(coming: Iterator[str], wanted: int) -> str:
    """Return more of a text: as much as there is already, so that a long answer is read soon."""
    found: list[str] = []
    size = 0
    for piece in coming:
        found.append(piece)
        size += len(piece)
        if size >= wanted:
            break
    return "".join(found)
