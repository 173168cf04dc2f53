"""The OpenAI-compatible calls that ask: chat completions with files in them, and embeddings.

POST /v1beta/openai/chat/completions          Authorization: Bearer <the API key>
{"model": "gemini-2.5-flash", "messages": [{"role": "user", "content": [
    {"type": "text", "text": "Describe it."},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}]}]}

A part may also be ``input_audio``, or a ``file`` with ``file_data`` (a data URL) or ``file_id``.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.calls import Call, Endpoint
from provider_uploads.emulator.config import SECOND_NS, Operation
from provider_uploads.emulator.embeddings import vector_of
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import invalid_argument, json_reply
from provider_uploads.emulator.generation import MAX_REQUEST_BYTES, given_to, response_for
from provider_uploads.emulator.models import model_for, models_of
from provider_uploads.emulator.openai_files import answer_openai, owner_of
from provider_uploads.emulator.prompt_parts import PromptPart
from provider_uploads.emulator.prompts import Prompt
from provider_uploads.emulator.request_types import GENERATE_CONTENT
from provider_uploads.emulator.streams import StreamedReply, chunks_of

_DATA_URL = re.compile(r"data:([^;,]+);base64,(.*)", re.DOTALL)
_ROLES = {"user": "user", "assistant": "model", "tool": "user", "function": "user"}


async def chat_completions(engine: Engine, request: Request) -> Response:
    """``POST /<version>/openai/chat/completions``, with ``stream`` or without."""

    async def handler(call: Call) -> Response:
        owner = owner_of(call)
        body = await _object(call)
        model = model_for(engine, _text_of(body, "model"), "generateContent").name
        prompt = Prompt.from_request(GENERATE_CONTENT.parse(_request_of(body)))
        response = response_for(model, await given_to(call, owner, model, prompt))
        created_s = engine.clock() // SECOND_NS
        if body.get("stream"):
            chunks = chunks_of(response)
            pieces = [_completion(chunk, model, created_s, streamed=True) for chunk in chunks]
            lines = [f"data: {json.dumps(piece, ensure_ascii=False)}\n\n" for piece in pieces]
            encoded = [line.encode() for line in (*lines, "data: [DONE]\n\n")]
            return StreamedReply(encoded, "text/event-stream")
        return json_reply(_completion(response, model, created_s, streamed=False))

    return await answer_openai(engine, request, Operation.GENERATE, handler)


async def _object(call: Call) -> dict[str, Any]:
    body = await call.json(MAX_REQUEST_BYTES)
    if not isinstance(body, dict):
        raise invalid_argument("The body must be a JSON object.")
    return body


def _text_of(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise invalid_argument(f"{name}: must be a string that is not empty.")
    return value


def _request_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The chat as a GenerateContentRequest."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid_argument("messages: must be a list that is not empty.")
    contents, instructions = [], []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in (*_ROLES, "system", "developer"):
            raise invalid_argument(f"{where}.role: {role!r} is none.")
        parts = _parts(message.get("content"), where)
        if role in ("system", "developer"):
            instructions += parts
        elif parts:
            contents.append({"role": _ROLES[role], "parts": parts})
    request: dict[str, Any] = {"contents": contents}
    if instructions:
        request["systemInstruction"] = {"parts": instructions}
    if (body.get("response_format") or {}).get("type") in ("json_object", "json_schema"):
        request["generationConfig"] = {"responseMimeType": "application/json"}
    return request


def _parts(content: Any, where: str) -> list[dict[str, Any]]:
    if content is None:  # an assistant's message that called a tool
        return []
    if isinstance(content, str):
        return [{"text": content}] if content else []
    if not isinstance(content, list):
        raise invalid_argument(f"{where}.content: must be a string or a list of parts.")
    return [_part(part, f"{where}.content[{n}]") for n, part in enumerate(content)]


def _part(part: Any, where: str) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str(text)}:
            return {"text": text}
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            return _at(url)
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(kind)}}:
            return {"inlineData": {"mimeType": f"audio/{kind}", "data": data}}
        case {"type": "file", "file": {"file_id": str(file_id)}}:
            name = file_id.removeprefix("files/")
            return {"fileData": {"fileUri": f"http://files/v1beta/files/{name}"}}
        case {"type": "file", "file": {"file_data": str(url)}}:
            return _at(url)
    raise invalid_argument(f"{where}: is no text, image_url, input_audio or file.")


def _at(url: str) -> dict[str, Any]:
    found = _DATA_URL.fullmatch(url)
    if found is None:
        return {"fileData": {"fileUri": url}}
    return {"inlineData": {"mimeType": found[1], "data": found[2]}}


def _completion(
    response: Mapping[str, Any], model: str, created_s: int, *, streamed: bool
) -> dict[str, Any]:
    (candidate,) = response["candidates"]
    message = {"role": "assistant", "content": candidate["content"]["parts"][0]["text"]}
    ended = "stop" if "finishReason" in candidate else None
    usage = response["usageMetadata"]
    prompt_tokens = usage["promptTokenCount"]
    return {
        "id": response["responseId"],
        "object": "chat.completion.chunk" if streamed else "chat.completion",
        "created": created_s,
        "model": model,
        "choices": [
            {"index": 0, "finish_reason": ended, "delta" if streamed else "message": message}
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": usage["totalTokenCount"] - prompt_tokens,
            "total_tokens": usage["totalTokenCount"],
        },
    }


async def embeddings(engine: Engine, request: Request) -> Response:
    """``POST /<version>/openai/embeddings``, as numbers or as base64 of them."""

    async def handler(call: Call) -> Response:
        owner_of(call)
        body = await _object(call)
        model = model_for(engine, _text_of(body, "model"), "embedContent").name
        texts = [body["input"]] if isinstance(body.get("input"), str) else body.get("input")
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            raise invalid_argument("input: must be a string, or a list of strings.")
        dimensions = body.get("dimensions", 3072)
        if not isinstance(dimensions, int) or not 1 <= dimensions <= 3072:
            raise invalid_argument("dimensions: must be from 1 to 3072.")
        await call.apply_faults((f"models/{model}",))
        given = [PromptPart(kind="text", text=text) for text in texts]
        vectors = [vector_of([part], dimensions) for part in given]
        in_base64 = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": n, "embedding": _packed(v) if in_base64 else v}
            for n, v in enumerate(vectors)
        ]
        tokens = sum(part.tokens for part in given)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_reply({"object": "list", "model": model, "data": data, "usage": usage})

    return await answer_openai(engine, request, Operation.EMBED, handler)


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


async def list_models(engine: Engine, request: Request) -> Response:
    """``GET /<version>/openai/models``."""

    async def handler(call: Call) -> Response:
        owner_of(call)
        await call.apply_faults()
        data = [_model(name) for name in models_of(engine)]
        return json_reply({"object": "list", "data": data})

    return await answer_openai(engine, request, Operation.MODELS, handler)


async def get_model(engine: Engine, request: Request) -> Response:
    """``GET /<version>/openai/models/{model}``."""

    async def handler(call: Call) -> Response:
        owner_of(call)
        name: str = request.path_params["model"]
        await call.apply_faults((f"models/{name.removeprefix('models/')}",))
        return json_reply(_model(model_for(engine, name, "get").name))

    return await answer_openai(engine, request, Operation.MODELS, handler)


def _model(name: str) -> dict[str, str]:
    return {"id": f"models/{name}", "object": "model", "owned_by": "google"}


def openai_chat_endpoints(version_path: str) -> list[Endpoint]:
    """The paths of these calls."""
    openai = f"{version_path}/openai"
    return [
        (f"{openai}/chat/completions", "POST", chat_completions),
        (f"{openai}/embeddings", "POST", embeddings),
        (f"{openai}/models", "GET", list_models),
        (f"{openai}/models/{{model:path}}", "GET", get_model),
    ]
