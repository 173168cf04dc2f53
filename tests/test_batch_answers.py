"""A batch's answers: read as each provider writes them, in the order of the input, and kept."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from provider_uploads.batches import results
from provider_uploads.batches.answers import answer_in
from provider_uploads.batches.index import KeyIndex, counts_of
from provider_uploads.errors import (
    InvalidRequestError,
    SourceNotAllowedError,
    SourceUnavailableError,
)
from provider_uploads.schemas import BatchAnswer, BatchJob, job_state

GOOD = {"candidates": [{"content": {"parts": [{"text": "Ja 🏞"}]}}]}
BAD = {"code": 3, "message": "no", "details": [{"@type": "x", "field": ["y"]}]}


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ({"key": "a", "response": GOOD}, ("a", GOOD, None)),
        ({"key": "a", "error": BAD}, ("a", None, BAD)),
        ({"metadata": {"key": "a"}, "response": GOOD}, ("a", GOOD, None)),
        ({"response": GOOD}, ("", GOOD, None)),
        (
            {"custom_id": "a", "response": {"status_code": 200, "body": GOOD}, "error": None},
            ("a", GOOD, None),
        ),
        (
            {
                "custom_id": "a",
                "response": {"status_code": 400, "body": {"error": {"message": "no"}}},
            },
            ("a", None, {"code": 400, "message": "no"}),
        ),
        ({"custom_id": "a", "error": "timed out"}, ("a", None, {"message": "timed out"})),
        ({"custom_id": "a", "result": {"type": "succeeded", "message": GOOD}}, ("a", GOOD, None)),
        ({"custom_id": "a", "result": {"type": "expired"}}, ("a", None, {"message": "expired"})),
    ],
)
def test_each_provider_s_way(line: dict[str, Any], answer: tuple[Any, ...]) -> None:
    assert answer_in(line) == answer


def test_a_line_with_neither_is_an_error() -> None:
    assert answer_in({"key": "a"}).error is not None


def test_answers_come_in_the_order_of_the_input() -> None:
    names = [f"key-{n}" for n in range(2000)]
    shuffled = random.Random(1).sample(names, len(names))
    with KeyIndex() as keys:
        assert all(keys.add(name) for name in names)
        assert not keys.add("key-7")
        keys.answer({"key": name, "response": {"for": name}} for name in shuffled[:-1])
        keys.answer([{"key": "nobody asked", "response": GOOD}])
        assert keys.missing() == 1
        found = list(keys.in_order())
    assert [answer.key for answer in found] == names
    lost = [answer for answer in found if answer.error]
    assert [answer.key for answer in lost] == [shuffled[-1]]
    assert "no answer" in (lost[0].error or {})["message"]
    assert all(a.response == {"for": a.key} for a in found if not a.error)
    counts = counts_of(found)
    assert (counts.requests, counts.succeeded, counts.failed) == (2000, 1999, 1)


def test_inline_answers_without_keys_are_matched_by_their_place() -> None:
    with KeyIndex() as keys:
        for name in "abcd":
            keys.add(name)
        keys.answer([{"response": {"n": 2}}, {"error": BAD}], start=2)
        assert [(a.key, bool(a.response)) for a in keys.in_order()][2:] == [
            ("c", True),
            ("d", False),
        ]


def test_a_response_replaces_an_error_and_is_not_replaced_by_one() -> None:
    with KeyIndex() as keys:
        keys.add("a")
        keys.answer([{"key": "a", "error": BAD}, {"key": "a", "response": GOOD}])
        keys.answer([{"key": "a", "error": BAD}])
        assert [a.response for a in keys.in_order()] == [GOOD]


class TestPlaces:
    ANSWERS = (BatchAnswer("a", GOOD, None), BatchAnswer("ß", None, BAD))

    @pytest.mark.parametrize("name", ["out.jsonl", "sub/out.parquet"])
    def test_written_and_read_again(self, tmp_path: Path, name: str) -> None:
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        place = str(tmp_path / name)
        for _ in range(2):  # a second time replaces the first
            results.write(self.ANSWERS, place, (tmp_path,))
            assert list(results.read(place)) == [*self.ANSWERS]
        assert [path.name for path in (tmp_path / name).parent.iterdir()] == [Path(name).name]

    def test_an_fsspec_url(self) -> None:
        pytest.importorskip("fsspec")
        results.write(self.ANSWERS, "memory://batches/out.jsonl", ())
        assert list(results.read("memory://batches/out.jsonl")) == [*self.ANSWERS]

    def test_whole_or_not_at_all(self, tmp_path: Path) -> None:
        def broken() -> Any:
            yield self.ANSWERS[0]
            raise RuntimeError

        with pytest.raises(RuntimeError):
            results.write(broken(), str(tmp_path / "out.jsonl"), None)
        assert list(tmp_path.iterdir()) == []

    def test_outside_the_roots(self, tmp_path: Path) -> None:
        with pytest.raises(SourceNotAllowedError):
            results.write(self.ANSWERS, str(tmp_path / "out.jsonl"), (tmp_path / "roots",))

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(SourceUnavailableError):
            list(results.read(str(tmp_path / "none.jsonl")))

    def test_a_credential_does_not_travel(self) -> None:
        with pytest.raises(InvalidRequestError):
            results.check_place("https://user:secret@host/out.jsonl")


@pytest.mark.parametrize(
    ("said", "state", "ended"),
    [
        ("JOB_STATE_QUEUED", "QUEUED", False),
        ("BATCH_STATE_PENDING", "PENDING", False),
        ("BATCH_STATE_CANCELLING", "CANCELLING", False),
        ("JOB_STATE_PARTIALLY_SUCCEEDED", "PARTIALLY_SUCCEEDED", True),
        ("BATCH_STATE_EXPIRED", "EXPIRED", True),
        ("ended", "SUCCEEDED", True),
        ("in_progress", "RUNNING", False),
        ("BATCH_STATE_HIBERNATING", "HIBERNATING", False),
        (None, "UNSPECIFIED", False),
    ],
)
def test_states_in_one_spelling(said: str | None, state: str, ended: bool) -> None:
    job = BatchJob(name="batches/x", state=job_state(said))
    assert (job.state, job.ended) == (state, ended)
