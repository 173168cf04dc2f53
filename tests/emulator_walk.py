"""Every call of the local Gemini that google-genai has, sync and async: run by any version of it.

python emulator_walk.py <URL> prints the SDK's version and the calls that were made.
"""

import asyncio
import inspect
import io
import json
import sys
import time
from typing import Any

from google import genai
from google.genai import types

CHAT = "gemini-2.5-flash"
EMBEDDER = "gemini-embedding-001"
TEXT = b"hello " * 2000


async def now(value: Any) -> Any:
    """What a call answers, by a client that waits or by one that is waited for."""
    return await value if inspect.isawaitable(value) else value


async def items(pager: Any) -> list[Any]:
    """All items of a pager or of a stream, sync or async."""
    pager = await now(pager)
    if hasattr(pager, "__aiter__"):
        return [item async for item in pager]
    return list(pager)


async def done(client: Any, operation: Any) -> Any:
    """An operation, once it is done."""
    until_s = time.monotonic() + 20
    while not operation.done:
        assert time.monotonic() < until_s, operation
        await asyncio.sleep(0.02)
        operation = await now(client.operations.get(operation))
    return operation


async def walk(client: Any, tag: str) -> list[str]:
    """Call everything; ``client`` is a Client or its ``aio``."""
    files, models, caches = client.files, client.models, client.caches
    stores = client.file_search_stores

    # files
    text = types.UploadFileConfig(mime_type="text/plain", display_name="d", name=f"t-{tag}")
    file = await now(files.upload(file=io.BytesIO(TEXT), config=text))
    assert (await now(files.get(name=file.name))).size_bytes == len(TEXT)
    other = await now(files.upload(file=io.BytesIO(b""), config={"mime_type": "text/plain"}))
    listed = await items(files.list(config={"page_size": 1}))
    assert {one.name for one in listed} >= {file.name, other.name}
    await now(files.delete(name=other.name))

    # models
    assert f"models/{CHAT}" in [model.name for model in await items(models.list())]
    assert (await now(models.get(model=CHAT))).output_token_limit == 65_536
    said = await now(models.generate_content(model=CHAT, contents=["What?", file]))
    assert file.name in said.text
    stream = models.generate_content_stream(model=CHAT, contents=["What?", file])
    chunks = await items(stream)
    assert len(chunks) > 1
    assert "".join(chunk.text for chunk in chunks) == said.text
    assert chunks[-1].usage_metadata == said.usage_metadata
    counted = await now(models.count_tokens(model=CHAT, contents=["What?", file]))
    assert counted.total_tokens == said.usage_metadata.prompt_token_count
    config: Any = {"output_dimensionality": 16}
    made = await now(models.embed_content(model=EMBEDDER, contents=["a", "b"], config=config))
    assert [len(one.values) for one in made.embeddings] == [16, 16]
    schema = {
        "type": "OBJECT",
        "properties": {"a": {"type": "STRING", "nullable": True}},
        "required": ["a"],
    }
    everything: Any = {
        "system_instruction": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 1,
        "stop_sequences": ["x"],
        "max_output_tokens": 100,
        "candidate_count": 1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1,
        "response_mime_type": "application/json",
        "response_schema": schema,
        "safety_settings": [
            {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"},
        ],
        "thinking_config": {"include_thoughts": True, "thinking_budget": 0},
        "media_resolution": "MEDIA_RESOLUTION_LOW",
        "tools": [
            {"function_declarations": [{"name": "f", "description": "d", "parameters": schema}]},
            {"google_search": {}},
            {"code_execution": {}},
            {"url_context": {}},
        ],
        "tool_config": {"function_calling_config": {"mode": "AUTO"}},
        "speech_config": {"voice_config": {"prebuilt_voice_config": {"voice_name": "Kore"}}},
        "response_modalities": ["TEXT"],
    }
    said = await now(models.generate_content(model=CHAT, contents="Well?", config=everything))
    assert json.loads(said.text)["asked_as"] == CHAT
    parts = [
        types.Part.from_function_call(name="f", args={"a": {"b": [1, None]}}),
        types.Part.from_function_response(name="f", response={"c": 1}),
        types.Part.from_bytes(data=b"png", mime_type="image/png"),
        types.Part.from_uri(file_uri="https://youtu.be/x", mime_type="video/mp4"),
    ]
    assert "youtu.be" in (await now(models.generate_content(model=CHAT, contents=parts))).text

    # cached contents
    cached: Any = {"contents": [file], "system_instruction": "s", "ttl": "60s", "display_name": "c"}
    cache = await now(caches.create(model=CHAT, config=cached))
    before = (await now(caches.get(name=cache.name))).expire_time
    assert (await now(caches.update(name=cache.name, config={"ttl": "600s"}))).expire_time > before
    assert cache.name in [one.name for one in await items(caches.list())]
    using: Any = {"cached_content": cache.name}
    said = await now(models.generate_content(model=CHAT, contents="Well?", config=using))
    assert said.usage_metadata.cached_content_token_count == cache.usage_metadata.total_token_count
    await now(caches.delete(name=cache.name))

    # file search stores
    store = await now(stores.create(config={"display_name": f"Store {tag}"}))
    assert (await now(stores.get(name=store.name))).display_name == f"Store {tag}"
    assert store.name in [one.name for one in await items(stores.list())]
    described: Any = {
        "mime_type": "text/plain",
        "display_name": "doc",
        "custom_metadata": [{"key": "k", "string_value": "v"}, {"key": "n", "numeric_value": 1}],
        "chunking_config": {"white_space_config": {"max_tokens_per_chunk": 200}},
    }
    begun = await now(
        stores.upload_to_file_search_store(
            file_search_store_name=store.name, file=io.BytesIO(b"document"), config=described
        )
    )
    uploaded = (await done(client, begun)).response.document_name
    begun = await now(stores.import_file(file_search_store_name=store.name, file_name=file.name))
    imported = (await done(client, begun)).response.document_name
    documents = await items(stores.documents.list(parent=store.name))
    assert [document.name for document in documents] == [uploaded, imported]
    document = await now(stores.documents.get(name=uploaded))
    assert (document.state.name, document.size_bytes) == ("STATE_ACTIVE", 8)
    searching: Any = {
        "tools": [{"file_search": {"file_search_store_names": [store.name]}}],
    }
    said = await now(models.generate_content(model=CHAT, contents="Well?", config=searching))
    assert len(said.candidates[0].grounding_metadata.grounding_chunks) == 2
    await now(stores.documents.delete(name=imported, config={"force": True}))
    await now(stores.delete(name=store.name, config={"force": True}))
    assert store.name not in [one.name for one in await items(stores.list())]

    await now(files.delete(name=file.name))
    return ["files", "models", "caches", "stores"]


async def main(url: str) -> None:
    options = types.HttpOptions(base_url=url)
    client = genai.Client(vertexai=False, api_key="a-key", http_options=options)
    walked = {"sync": await walk(client, "sync"), "async": await walk(client.aio, "async")}
    print(json.dumps({"version": genai.__version__, **walked}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
