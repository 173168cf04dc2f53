"""Answers that stand within a job, whatever pieces its JSON comes in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_uploads.providers.inline_answers import answers, split, without_answers

TRICKY = '"inlinedResponses": [ {"a": "]}"} \\'
ANSWERS: list[dict[str, Any]] = [
    {"response": {"candidates": [{"content": {"parts": [{"text": TRICKY}]}}]}},
    {"error": {"code": 3, "details": [{"@type": "x", "n": [1, [2]]}]}, "metadata": {"key": "b"}},
    {"response": {"text": "ü€😀" * 200}, "metadata": {"key": "c"}},
]


def operation(found: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    output = {"inlinedResponses": {"inlinedResponses": found}}
    metadata = {"displayName": TRICKY, "state": "BATCH_STATE_SUCCEEDED", "output": output}
    return {"name": "batches/x", "metadata": metadata, "done": True, "response": output, **more}


def in_pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("found", [ANSWERS, ANSWERS[:1], []])
def test_a_job(size: int, indent: int | None, found: list[dict[str, Any]]) -> None:
    text = json.dumps(operation(found), indent=indent, ensure_ascii=False)
    assert json.loads(without_answers(in_pieces(text, size))) == operation([])
    assert [*answers(in_pieces(text, size))] == found


def test_a_list_of_jobs() -> None:
    listed = {"operations": [operation(ANSWERS), operation([]), {"name": "batches/y"}]}
    bare = {"operations": [operation([]), operation([]), {"name": "batches/y"}]}
    pieces = in_pieces(json.dumps(listed), 50)
    assert json.loads(without_answers(pieces)) == bare
    assert len([one for one in split(pieces) if isinstance(one, dict)]) == 2 * len(ANSWERS)


def test_no_more_is_read_than_the_first_list() -> None:
    """The service says the answers twice."""
    read = 0

    def pieces() -> Any:
        nonlocal read
        for piece in in_pieces(json.dumps(operation(ANSWERS * 50)), 100):
            read += len(piece)
            yield piece

    assert [*answers(pieces())] == ANSWERS * 50
    assert read < len(json.dumps(operation(ANSWERS * 50))) * 0.6


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_text_that_ends_too_soon(cut: int) -> None:
    text = json.dumps(operation(ANSWERS))
    begin = text.index("candidates")
    with pytest.raises(ValueError, match="middle"):
        without_answers(in_pieces(text[: begin + cut], 30))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda one: st.lists(one) | st.dictionaries(st.text(), one),
    ),
    st.integers(1, 300),
)
def test_any_other_json_stays_as_it_is(value: Any, size: int) -> None:
    text = json.dumps({"value": value})
    assert without_answers(in_pieces(text, size)) == text
