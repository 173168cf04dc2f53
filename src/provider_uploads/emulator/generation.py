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
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.calls import Call, answer
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import invalid_argument, json_reply, not_found
from provider_uploads.emulator.prompts import Prompt, PromptPart

# What a request may weigh with all it carries inline; more has to go through files.
_MAX_REQUEST_BYTES = 20 * 1024 * 1024

_QUOTED_CHARS = 1000


async def generate_content(engine: Engine, request: Request) -> Response:
    """``POST /<version>/models/{model}:generateContent``."""

    async def handler(call: Call) -> Response:
        return await generate(call, call.owner(), request.path_params["model"])

    return await answer(engine, request, Operation.GENERATE, handler)


async def generate(call: Call, owner: str, model: str) -> Response:
    """Read the prompt, check its files, say what was there."""
    model = model.removeprefix("models/")
    if not model.startswith("gemini-"):
        raise not_found(
            f"models/{model} is not found, or is not supported for generateContent: this server "
            "knows every name that begins with gemini-."
        )
    body = await call.json(_MAX_REQUEST_BYTES)
    if not isinstance(body, dict):
        raise invalid_argument("The body must be a JSON object.")
    prompt = Prompt.from_json(body)
    labels = [f"models/{model}"]
    for uri in prompt.file_uris:
        file = call.engine.files.peek(uri.rpartition("/")[2])
        labels += [uri] if file is None else [uri, *file.labels]
    await call.apply_faults(labels)
    given = prompt.prompt_parts(call.engine.files, owner, call.engine.clock())
    text = _json_text(model, given) if prompt.wants_json else _text(model, given)
    prompt_tokens = sum(item.tokens for item in given)
    answer_tokens = -(-len(text) // 4)
    return json_reply(
        {
            "candidates": [
                {
                    "content": {"parts": [{"text": text}], "role": "model"},
                    "finishReason": "STOP",
                    "index": 0,
                }
            ],
            "usageMetadata": {
                "promptTokenCount": prompt_tokens,
                "candidatesTokenCount": answer_tokens,
                "totalTokenCount": prompt_tokens + answer_tokens,
                "promptTokensDetails": _by_modality(given),
            },
            "modelVersion": model,
            "responseId": _response_id(text),
        }
    )


def _text(model: str, given: list[PromptPart]) -> str:
    lines = [f"This is a local Gemini without a model, asked as {model}. It was given:"]
    for number, item in enumerate(given, 1):
        lines.append(f"{number}. {item.sentence(_QUOTED_CHARS)}")
    return "\n".join(lines)


def _json_text(model: str, given: list[PromptPart]) -> str:
    answer = {"local_gemini": "no model", "asked_as": model, "given": [g.json() for g in given]}
    return json.dumps(answer, ensure_ascii=False)


def _by_modality(given: list[PromptPart]) -> list[dict[str, Any]]:
    counts: dict[str, int] = {}
    for item in given:
        counts[item.modality] = counts.get(item.modality, 0) + item.tokens
    return [{"modality": name, "tokenCount": count} for name, count in counts.items()]


def _response_id(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:15]).decode()
