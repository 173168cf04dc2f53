"""The OpenAI-compatible paths, with OpenAI's own client."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from google import genai
from google.genai import types

from provider_uploads.emulator import EmulatorConfig, LocalGemini

KEY = "a-key"
MODEL = "gemini-2.5-flash"
DATA_URL = "data:image/png;base64," + base64.b64encode(b"png").decode()


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(processing_s=60, api_keys=frozenset({KEY}))) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[openai.OpenAI]:
    base_url = f"{gemini.url}/v1beta/openai/"
    with openai.OpenAI(api_key=KEY, base_url=base_url, max_retries=0, timeout=10) as made:
        yield made


def ask(client: openai.OpenAI, *parts: dict[str, Any]) -> str:
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": list(parts)},
    ]
    said = client.chat.completions.create(model=MODEL, messages=messages)
    assert said.choices[0].finish_reason == "stop"
    assert said.usage is not None
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
    return said.choices[0].message.content or ""


def test_a_file_is_the_same_on_both_sides(client: openai.OpenAI, gemini: LocalGemini) -> None:
    made = client.files.create(file=("Fluß.txt", b"hello", "text/plain"), purpose="batch")
    assert (made.bytes, made.filename, made.purpose, made.status) == (
        5,
        "Fluß.txt",
        "batch",
        "processed",
    )
    options = types.HttpOptions(base_url=gemini.url)
    with genai.Client(vertexai=False, api_key=KEY, http_options=options) as sdk:
        file = sdk.files.get(name=made.id)
        assert (file.display_name, file.mime_type, file.size_bytes) == ("Fluß.txt", "text/plain", 5)
        other = sdk.files.upload(file=io.BytesIO(b"v"), config={"mime_type": "video/mp4"})
    assert client.files.retrieve(made.id).bytes == 5
    assert client.files.retrieve(other.name or "").status == "uploaded"
    assert [file.id for file in client.files.list()] == [other.name, made.id]
    assert [file.id for file in client.files.list(limit=1, order="asc")] == [made.id, other.name]
    assert f"file {made.id}" in ask(client, {"type": "file", "file": {"file_id": made.id}})
    with pytest.raises(openai.BadRequestError):
        ask(client, {"type": "file", "file": {"file_id": other.name}})
    with pytest.raises(openai.BadRequestError):
        client.files.content(made.id)
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.PermissionDeniedError):
        client.files.retrieve(made.id)


def test_generated_files_can_be_read(client: openai.OpenAI, gemini: LocalGemini) -> None:
    made = gemini.add_generated(b"results", key=KEY)
    assert client.files.content(made["name"]).read() == b"results"


def test_parts_of_every_kind(client: openai.OpenAI) -> None:
    said = ask(
        client,
        {"type": "text", "text": "Well?"},
        {"type": "image_url", "image_url": {"url": DATA_URL}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "image_url", "image_url": {"url": "https://h.test/a.png"}},
        {"type": "file", "file": {"file_data": DATA_URL}},
    )
    assert [line.partition(". ")[2].split(",")[:2] for line in said.splitlines()[1:]] == [
        ["system instruction", " 9 characters: Be brief."],
        ["text", " 5 characters: Well?"],
        ["inline data", " image/png"],
        ["inline data", " audio/wav"],
        ["URL https://h.test/a.png", " image/png"],
        ["inline data", " image/png"],
    ]


def test_a_streamed_answer_is_the_same(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "hello"}]
    whole = client.chat.completions.create(model=MODEL, messages=messages)
    chunks = list(client.chat.completions.create(model=MODEL, messages=messages, stream=True))
    assert len(chunks) > 1
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]


def test_models_and_embeddings(client: openai.OpenAI) -> None:
    assert "models/gemini-2.5-flash" in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).owned_by == "google"
    made = client.embeddings.create(
        model="gemini-embedding-001", input=["a cat", "a cat", "a dog"], dimensions=64
    )
    first, again, other = (one.embedding for one in made.data)
    assert (len(first), first == again, first == other) == (64, True, False)


def test_refusals(client: openai.OpenAI, gemini: LocalGemini) -> None:
    messages: Any = [{"role": "user", "content": "hello"}]
    robot: Any = [{"role": "robot", "content": "hello"}]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4o", messages=messages)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=robot)
    url = f"{gemini.url}/v1beta/openai/files"
    reply = httpx2.post(url, headers={"Authorization": "Bearer other"})
    assert (reply.status_code, reply.json()[0]["error"]["code"]) == (400, 400)
    assert httpx2.get(url).status_code == 403
    bearer = {"Authorization": f"Bearer {KEY}"}
    form = httpx2.post(url, headers=bearer, files={"other": b"x"})
    assert "file: is missing" in form.text
    assert httpx2.post(url, headers=bearer, content=b"x").status_code == 400
