"""What a request is estimated to count: texts, data in it, files of which more or less is known."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import pytest

from provider_uploads.batches.tokens import FileFacts, tokens_in, tokens_of
from provider_uploads.emulator import LocalGemini

MIB = 1024**2


def asking(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [*parts]}], **fields}


def nothing(_: str) -> None:
    return None


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (asking({"text": "x" * 400}), 100),
        (asking({"text": "x"}, {"text": "y"}, {"text": "z"}), 1),
        (asking({"text": "äöü€"}), 3),  # nine bytes
        (asking({"text": "x" * 40}, system_instruction={"parts": [{"text": "y" * 40}]}), 20),
        (asking({"text": "x" * 40}, cachedContent="cachedContents/abc", labels={"a": "bc"}), 10),
        (asking({"text": "x" * 40}, safetySettings=[{"category": "HARM_CATEGORY_HATE"}]), 10),
        (
            asking(
                {"text": "x" * 40},
                tools=[{"functionDeclarations": [{"name": "f" * 4, "description": "d" * 36}]}],
            ),
            20,
        ),
        ({"contents": "x" * 40, "generationConfig": {"temperature": 0, "seed": 7}}, 10),
    ],
)
def test_texts(body: dict[str, Any], tokens: int) -> None:
    assert tokens_in(body, nothing) == tokens


@pytest.mark.parametrize(
    ("mime_type", "size_bytes", "tokens"),
    [
        ("image/png", MIB, 258),
        ("application/pdf", 250_000, 3 * 258),
        ("audio/mp3", 160_000, 320),
        ("audio/wav", 1_764_000, 320),
        ("video/mp4", 2_000_000, 526),
        ("text/plain", 4_000, 1_000),
    ],
)
def test_data_in_the_request_counts_as_what_it_is(
    mime_type: str, size_bytes: int, tokens: int
) -> None:
    data = base64.b64encode(bytes(size_bytes)).decode()
    for inline in (
        {"inlineData": {"mimeType": mime_type, "data": data}},
        {"inline_data": {"mime_type": mime_type, "data": data}},
    ):
        assert tokens_in(asking(inline), nothing) == pytest.approx(tokens, abs=2)
    url = {"type": "image_url", "image_url": {"url": f"data:{mime_type};base64,{data}"}}
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": [url]}]},
    }
    assert tokens_in(line, nothing) == pytest.approx(tokens, abs=4)


def test_files_by_what_is_known_of_them() -> None:
    talk = "https://generativelanguage.googleapis.com/v1beta/files/talk"
    known = {talk: FileFacts("video/mp4", 900 * MIB, 596.5), "files/song": FileFacts("audio/mp3")}

    def tokens(field: str, **data: str) -> int:
        return tokens_in(asking({field: data}), known.get)

    assert tokens("fileData", fileUri=talk, mimeType="video/mp4") == int(596.5 * 263)
    assert tokens("file_data", file_uri=talk) == int(596.5 * 263)
    assert tokens("fileData", fileUri="files/song") == 32  # a second at least
    assert tokens("fileData", fileUri="files/other", mimeType="image/png") == 258
    assert tokens("fileData", fileUri="files/other") == 258
    assert tokens_in({"body": {"messages": [{"file": {"file_id": "file-1"}}]}}, known.get) == 258


def test_a_pdf_has_no_more_pages_than_are_read() -> None:
    assert tokens_of(FileFacts("application/pdf", 500_000_000)) == 258_000


def test_what_the_local_gemini_counts() -> None:
    """Both go by the documented rules."""
    image = base64.b64encode(bytes(MIB)).decode()
    body = asking(
        {"text": "What is on it? " * 20},
        {"inlineData": {"mimeType": "image/png", "data": image}},
        systemInstruction={"parts": [{"text": "Be brief." * 8}]},
    )
    wanted = {"generateContentRequest": {"model": "models/gemini-2.5-flash", **body}}
    with (
        LocalGemini() as gemini,
        httpx2.Client(base_url=gemini.url, headers={"x-goog-api-key": "k"}) as client,
    ):
        counted = client.post("/v1beta/models/gemini-2.5-flash:countTokens", json=wanted)
    assert counted.json()["totalTokens"] == tokens_in(body, nothing)
