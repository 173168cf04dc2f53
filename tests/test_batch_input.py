"""A batch's input: read as a stream, checked with line and column, brought into the REST shape."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_uploads.batches.attached import (
    ActiveFile,
    attached,
    resolved,
    with_absolute_paths,
)
from provider_uploads.batches.index import KeyIndex
from provider_uploads.batches.lines import entries
from provider_uploads.batches.reading import checked, line_for
from provider_uploads.batches.shapes import Request, Shape
from provider_uploads.errors import BatchInputError

CONTENTS = [{"parts": [{"text": "Hi"}], "role": "user"}]


def read(text: str | bytes, **options: Any) -> list[Request]:
    stream = io.BytesIO(text if isinstance(text, bytes) else text.encode())
    with KeyIndex() as keys:
        return list(checked(entries(stream, "in.jsonl"), "in.jsonl", keys, **options))


def line(key: str = "a", **request: Any) -> str:
    return json.dumps({"key": key, "request": {"contents": CONTENTS, **request}})


class TestFormats:
    def test_gemini_s_own_lines_stay_as_they_are(self) -> None:
        (request,) = read(line(generationConfig={"temperature": 0}) + "\n\n")
        assert request.line
        assert request.key == "a"
        assert json.loads(line_for(request, request.body)) == json.loads(
            line(generationConfig={"temperature": 0})
        )

    def test_openai_s_lines(self) -> None:
        given = {
            "custom_id": "request-1",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]},
        }
        (request,) = read(json.dumps(given))
        assert (request.shape, request.key) == (Shape.OPENAI, "request-1")
        assert json.loads(line_for(request, request.body)) == given

    def test_the_sdk_s_flat_config_goes_where_it_belongs(self) -> None:
        config = {
            "temperature": 0,
            "response_mime_type": "application/json",
            "system_instruction": "Be brief",
            "safety_settings": [],
            "tools": [{"google_search": {}}],
            "tool_config": {},
            "cached_content": "cachedContents/x",
            "http_options": {"timeout": 1},
            "max_output_tokens": None,
        }
        (request,) = read(json.dumps({"contents": "Hi", "config": config}))
        assert request.body == {
            "contents": CONTENTS,
            "generationConfig": {"temperature": 0, "responseMimeType": "application/json"},
            "systemInstruction": {"parts": [{"text": "Be brief"}]},
            "safetySettings": [],
            "tools": [{"google_search": {}}],
            "toolConfig": {},
            "cachedContent": "cachedContents/x",
        }
        assert request.key == "1"

    def test_a_flat_config_within_a_line(self) -> None:
        (request,) = read(line(config={"temperature": 1}))
        assert request.body["generationConfig"] == {"temperature": 1}
        assert not request.line

    def test_inline_requests_keep_the_key_of_their_metadata(self) -> None:
        (request,) = read(json.dumps({"contents": "Hi", "metadata": {"key": "mine"}}))
        assert request.key == "mine"

    def test_an_array_over_many_lines(self) -> None:
        many = [json.loads(line(str(n))) for n in range(5000)]
        found = read("\ufeff" + json.dumps(many, indent=2))
        assert [request.key for request in found] == [str(n) for n in range(5000)]

    def test_unknown_fields_pass_where_that_is_wanted(self) -> None:
        (request,) = read(line(brandNew=1), check_fields=False)
        assert request.body["brandNew"] == 1


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("", (1, 1), "no request"),
        ("[]", (1, 1), "no request"),
        (line("a") + '\n{"key": }', (2, 9), "no JSON"),
        (line("a") + "\n[1]", (2, 1), "not an object"),
        (line("a") + "\n" + line("b") + "\n" + line("a"), (3, 9), "used before"),
        ('{"request": {"contents": "x"}}', (1, 1), "has no key"),
        ('{"key": " ", "request": {"contents": "x"}}', (1, 2), "has no key"),
        ('{"key": "a", "request": {}}', (1, 14), "no contents"),
        ('{"key": "a", "request": {"contents": "x", "temperature": 1}}', (1, 43), "belongs into"),
        (line("a", generationConfig={"temprature": 1}), (1, 106), "is it temperature?"),
        ('{"contents": "x", "cofig": {}}', (1, 19), "is it config?"),
        ('{"prompt": "x"}', (1, 2), "is no request"),
        ('{"custom_id": "a", "method": "POST", "body": {}}', (1, 1), "has no url"),
        (line("a") + '\n{"custom_id": "b", "url": "/v1", "body": {}}', (2, 1), "openai"),
        ('[\n{"contents": "x"}\n{"contents": "x"}]', (3, 1), "expected ,"),
        ('[{"contents": "x"},\n {"contents" "x"}]', (2, 14), "no JSON"),
        ('[{"contents": "x"},\n {"contents": "x",\n  "confg": 1}]', (3, 3), "confg"),
        ('[{"contents": "x"}] more', (1, 21), "after the end"),
        (b'{"key": "\xff"}', (1, 10), "UTF-8"),
        ("[" * 100_000, (1, 2), "nested too deeply"),
    ],
)
def test_an_error_names_line_and_column(
    text: str | bytes, place: tuple[int, int], problem: str
) -> None:
    with pytest.raises(BatchInputError) as caught:
        read(text)
    assert (caught.value.line, caught.value.column) == place
    assert problem in str(caught.value)


def test_more_than_the_provider_takes() -> None:
    with pytest.raises(BatchInputError, match="more than 100 bytes") as caught:
        read("\n".join(line(str(n)) for n in range(3)), limit_bytes=100)
    assert caught.value.line == 2


@given(st.lists(st.text(min_size=1).filter(str.strip), unique=True, min_size=1), st.integers(1, 9))
def test_keys_survive_in_either_format(keys: list[str], indent: int) -> None:
    many = [json.loads(line(key)) for key in keys]
    assert [one.key for one in read("\n".join(map(json.dumps, many)))] == keys
    assert [one.key for one in read(json.dumps(many, indent=indent))] == keys


def test_never_the_whole_file_in_memory() -> None:
    class Endless(io.RawIOBase):
        """A hundred thousand lines that are made as they are read."""

        def __init__(self) -> None:
            self.lines: Iterator[str] = (line(f"key-{n}") + "\n" for n in range(100_000))

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            block = next(self.lines, "").encode()
            buffer[: len(block)] = block
            return len(block)

    tracemalloc.start()
    try:
        with KeyIndex() as keys:
            stream = io.BufferedReader(Endless())
            assert sum(1 for _ in checked(entries(stream, "in.jsonl"), "in.jsonl", keys)) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024**2
    finally:
        tracemalloc.stop()


class TestAttachedFiles:
    TICKET = "0123456789abcdef" * 2

    def resolve(self, subject: str) -> ActiveFile:
        return ActiveFile(f"files/{subject[:4]}", f"https://g/files/{subject[:4]}", "video/mp4")

    def test_parts_name_paths_tickets_and_sources(self) -> None:
        parts: list[Any] = [
            {"file": "talk.mp4"},
            {"fileData": {"fileUri": self.TICKET}},
            {"file_data": {"file_uri": "notes.pdf", "mime_type": "text/plain"}},
            {"file": "s3://bucket/key"},
            {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/x"}},
            {"fileData": {"fileUri": "files/x"}},
            {"text": "Compare"},
        ]
        (request,) = read(line(contents=[{"parts": parts}]))
        assert list(attached(request)) == ["talk.mp4", self.TICKET, "notes.pdf", "s3://bucket/key"]
        body = resolved(request, self.resolve)
        wired = body["contents"][0]["parts"]
        assert wired[0] == {
            "fileData": {"fileUri": "https://g/files/talk", "mimeType": "video/mp4"}
        }
        assert [part["fileData"]["fileUri"][-4:] for part in wired[1:4]] == ["0123", "note", "s3:/"]
        assert wired[4:] == parts[4:]

    def test_openai_s_file_ids(self) -> None:
        content = [{"type": "file", "file": {"file_id": self.TICKET}}]
        kept = [{"type": "file", "file": {"file_id": "file-abc"}}]
        messages = [{"role": "user", "content": content}, {"role": "user", "content": kept}]
        (request,) = read(
            json.dumps({"custom_id": "a", "url": "/v1/x", "body": {"messages": messages}})
        )
        assert list(attached(request)) == [self.TICKET]
        body = resolved(request, self.resolve)["body"]["messages"]
        assert body[0]["content"][0]["file"] == {"file_id": "0123"}
        assert body[1] == messages[1]

    def test_relative_paths_become_absolute_where_they_are_submitted(self) -> None:
        parts = [{"file": "talk.mp4"}, {"file": "gs://b/o"}, {"file": self.TICKET}]
        (request,) = read(line(contents=[{"parts": parts}]))
        wired = with_absolute_paths(request)
        sent = json.loads(line_for(wired, wired.body))["request"]["contents"][0]["parts"]
        assert [part["file"] for part in sent] == [
            str(Path("talk.mp4").absolute()),
            "gs://b/o",
            self.TICKET,
        ]

    def test_a_request_without_files_is_not_copied(self) -> None:
        (request,) = read(line())
        assert resolved(request, self.resolve) is request.body
