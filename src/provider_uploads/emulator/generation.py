"""generateContent without a model: the answer states what was given, and pretends nothing.

POST /v1beta/models/gemini-3-flash-preview:generateContent
{"contents": [{"role": "user", "parts": [
    {"text": "Describe it."},
    {"fileData": {"file_uri": "https://…/v1beta/files/x1", "mime_type": "image/png"}}]}]}

200 OK
{"candidates": [{"content": {"role": "model", "parts": [{"text": "…"}]}, …}], …}
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.cached_contents import CachedContents
from provider_uploads.emulator.calls import Call, answer
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import invalid_argument, json_reply
from provider_uploads.emulator.models import model_for
from provider_uploads.emulator.prompt_parts import PromptPart
from provider_uploads.emulator.prompts import Prompt
from provider_uploads.emulator.request_types import COUNT_TOKENS
from provider_uploads.emulator.search_stores import Document

# What a request may weigh with all it carries inline; more has to go through files.
MAX_REQUEST_BYTES = 100 * 1024 * 1024

_QUOTED_CHARS = 1000


async def generate_content(engine: Engine, request: Request) -> Response:
    """``POST /<version>/models/{model}:generateContent``."""

    async def handler(call: Call) -> Response:
        return await generate(call, call.owner(), request.path_params["model"])

    return await answer(engine, request, Operation.GENERATE, handler)


async def generate(call: Call, owner: str, model: str) -> Response:
    """Read the prompt, check its files, say what was there."""
    model = model_for(call.engine, model, "generateContent").name
    return json_reply(response_for(model, await read_prompt(call, owner, model)))


async def count_tokens(engine: Engine, request: Request) -> Response:
    """``POST /<version>/models/{model}:countTokens``."""

    async def handler(call: Call) -> Response:
        owner = call.owner()
        model = model_for(engine, request.path_params["model"], "countTokens").name
        body = await call.parse(COUNT_TOKENS, MAX_REQUEST_BYTES)
        whole = body.get("generate_content_request")
        if (whole is None) == ("contents" not in body):
            raise invalid_argument(
                "* CountTokensRequest: one of contents and generate_content_request must be there\n"
            )
        prompt = Prompt.from_request(body if whole is None else whole)
        given = await given_to(call, owner, model, prompt)
        counts = token_counts(given)
        total = {"totalTokens": counts.pop("promptTokenCount")}
        return json_reply(total | counts)

    return await answer(engine, request, Operation.COUNT, handler)


@dataclass(frozen=True, kw_only=True)
class Given:
    """All that a model would have had: cached parts first, and documents to search in."""

    parts: list[PromptPart]
    cached: list[PromptPart]
    documents: list[Document]
    wants_json: bool


async def read_prompt(call: Call, owner: str, model: str) -> Given:
    """What the prompt in a request's body gives; faults aimed at it had their chance."""
    prompt = Prompt.from_json(await call.json(MAX_REQUEST_BYTES))
    return await given_to(call, owner, model, prompt)


async def given_to(call: Call, owner: str, model: str, prompt: Prompt) -> Given:
    """What a prompt gives to a model; faults aimed at it had their chance."""
    labels = [f"models/{model}"]
    for uri in prompt.file_uris:
        file = call.engine.files.peek(uri.rpartition("/")[2])
        labels += [uri] if file is None else [uri, *file.labels]
    await call.apply_faults(labels)
    engine = call.engine
    cached = cached_parts(engine.caches, owner, model, prompt)
    given = prompt.prompt_parts(engine.files, owner, engine.clock())
    return Given(
        parts=[*cached, *given],
        cached=cached,
        documents=_documents(engine, owner, prompt),
        wants_json=prompt.wants_json,
    )


def cached_parts(
    caches: CachedContents, owner: str, model: str, prompt: Prompt
) -> list[PromptPart]:
    """The parts that a prompt has cached; 403 if they are not there, 400 for another model's."""
    if prompt.cached_content is None:
        return []
    cache = caches.get(prompt.cached_content, owner)
    if cache.model != model:
        raise invalid_argument(
            f"Model used by GenerateContent request (models/{model}) and CachedContent "
            f"(models/{cache.model}) has to be the same."
        )
    return list(cache.given)


def _documents(engine: Engine, owner: str, prompt: Prompt) -> list[Document]:
    """The documents that can be searched; nobody here searches them."""
    stores = [engine.search.get(name, owner) for name in prompt.store_names]
    now_ns = engine.clock()
    return [
        document
        for store in stores
        for document in store.documents.values()
        if document.state(now_ns) == "ACTIVE"
    ]


def response_for(model: str, given: Given) -> dict[str, Any]:
    """The GenerateContentResponse to what was given."""
    text = _json_text(model, given.parts) if given.wants_json else _text(model, given.parts)
    answer_tokens = -(-len(text) // 4)
    candidate: dict[str, Any] = {
        "content": {"parts": [{"text": text}], "role": "model"},
        "finishReason": "STOP",
        "index": 0,
    }
    if given.documents:
        chunks = [_grounding_chunk(document) for document in given.documents]
        candidate["groundingMetadata"] = {"groundingChunks": chunks}
    counts = token_counts(given)
    return {
        "candidates": [candidate],
        "usageMetadata": {
            **counts,
            "candidatesTokenCount": answer_tokens,
            "totalTokenCount": counts["promptTokenCount"] + answer_tokens,
        },
        "modelVersion": model,
        "responseId": _response_id(text),
    }


def token_counts(given: Given) -> dict[str, Any]:
    """What the prompt counts, and how much of it was cached."""
    counts: dict[str, Any] = {
        "promptTokenCount": sum(item.tokens for item in given.parts),
        "promptTokensDetails": by_modality(given.parts),
    }
    if given.cached:
        counts["cachedContentTokenCount"] = sum(item.tokens for item in given.cached)
        counts["cacheTokensDetails"] = by_modality(given.cached)
    return counts


def _grounding_chunk(document: Document) -> dict[str, Any]:
    context = {"fileSearchStore": document.request.store_name, "documentName": document.name}
    return {"retrievedContext": context | {"title": document.display_name or document.name}}


def _text(model: str, given: list[PromptPart]) -> str:
    lines = [f"This is a local Gemini without a model, asked as {model}. It was given:"]
    for number, item in enumerate(given, 1):
        lines.append(f"{number}. {item.sentence(_QUOTED_CHARS)}")
    return "\n".join(lines)


def _json_text(model: str, given: list[PromptPart]) -> str:
    answer = {"local_gemini": "no model", "asked_as": model, "given": [g.json() for g in given]}
    return json.dumps(answer, ensure_ascii=False)


def by_modality(given: list[PromptPart]) -> list[dict[str, Any]]:
    """How many tokens there are of each kind."""
    counts: dict[str, int] = {}
    for item in given:
        counts[item.modality] = counts.get(item.modality, 0) + item.tokens
    return [{"modality": name, "tokenCount": count} for name, count in counts.items()]


def _response_id(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:15]).decode()
