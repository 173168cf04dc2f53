"""The providers that do batches, and how each names them."""

from __future__ import annotations

import secrets
import string
from dataclasses import replace
from typing import Any

from provider_uploads.emulator.batch_jobs import Backend
from provider_uploads.emulator.batch_lines import (
    Asked,
    BatchLine,
    Dialect,
    Outcome,
    bad_field,
    gemini_line,
    gemini_output,
    rpc_status,
)
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import ApiError
from provider_uploads.emulator.generation import Given, cached_parts, response_for
from provider_uploads.emulator.prompts import Prompt

_ID_CHARS = string.ascii_lowercase + string.digits
_ID_LENGTH = 36


def answer_line(line: BatchLine, asked: Asked) -> Outcome:
    """What the model answers, or why it does not."""
    try:
        prompt = Prompt.from_json(line.request)
        cached = cached_parts(asked.caches, asked.owner, asked.model, prompt)
        given = prompt.prompt_parts(asked.files, asked.owner, asked.now_ns)
    except ApiError as refused:
        return "error", rpc_status(refused)
    all_given = Given(
        parts=[*cached, *given], cached=cached, documents=[], wants_json=prompt.wants_json
    )
    return "response", response_for(asked.model, all_given)


_GEMINI = Dialect(gemini_line, answer_line, gemini_output)


def gemini_backend(engine: Engine) -> Backend:
    """The service itself."""
    return Backend(
        provider="gemini",
        files=engine.files,
        caches=engine.caches,
        dialect=_GEMINI,
        new_id=_gemini_id,
        output_id=_gemini_output_id,
    )


def _gemini_id() -> str:
    return "".join(secrets.choice(_ID_CHARS) for _ in range(_ID_LENGTH))


def _gemini_output_id(batch_id: str) -> str:
    return f"batch-{batch_id}"


def openai_backend(engine: Engine) -> Backend:
    """OpenAI as a gateway reaches it: requests given inline go through files there."""
    return Backend(
        provider="openai",
        files=engine.gateway.openai_files,
        caches=engine.caches,
        dialect=_OPENAI,
        new_id=_openai_id,
        output_id=_openai_output_id,
        all_in_files=True,
    )


def anthropic_backend(engine: Engine) -> Backend:
    """Anthropic as a gateway reaches it: requests inline, and no files of its own."""
    return Backend(
        provider="anthropic",
        files=engine.gateway.openai_files,  # none of them is ever named there
        caches=engine.caches,
        dialect=_GEMINI,
        new_id=_anthropic_id,
        output_id=_gemini_output_id,
    )


def _openai_id() -> str:
    return f"batch_{secrets.token_hex(16)}"


def _openai_output_id(batch_id: str) -> str:
    return f"file-{batch_id.removeprefix('batch_')[:24]}"


def _anthropic_id() -> str:
    return f"msgbatch_01{secrets.token_hex(11)}"


def openai_line(number: int, value: Any) -> BatchLine:
    """A line as OpenAI wants it."""
    if not isinstance(value, dict):
        raise bad_field("expected an object")
    for name in ("custom_id", "method", "url"):
        if not isinstance(value.get(name), str):
            raise bad_field(f"{name} must be a string", name)
    body = value.get("body")
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise bad_field("body must be an object with messages", "body")
    return BatchLine(number, value["custom_id"], body)


def openai_answer(line: BatchLine, asked: Asked) -> Outcome:
    """What the model answers to messages; requests given inline are a Gemini's still."""
    messages = line.request.get("messages")
    if messages is None:
        return answer_line(line, asked)
    said: dict[str, list[dict[str, Any]]] = {"system": [], "user": []}
    for message in messages:
        if isinstance(message, dict):
            side = "system" if message.get("role") == "system" else "user"
            said[side] += _texts(message.get("content"))
    request: dict[str, Any] = {"contents": [{"role": "user", "parts": said["user"]}]}
    if said["system"]:
        request["systemInstruction"] = {"parts": said["system"]}
    model = line.request.get("model")
    if isinstance(model, str):
        asked = replace(asked, model=model)
    return answer_line(BatchLine(line.number, line.key, request), asked)


def _texts(content: Any) -> list[dict[str, Any]]:
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return [{"text": text} for text in texts if isinstance(text, str)]


def openai_output(line: BatchLine, outcome: Outcome) -> dict[str, Any]:
    """A line of the output as OpenAI writes it: a refused request is an answer with an error."""
    kind, value = outcome
    custom_id = line.label if line.key is None else line.key
    written = {"id": f"batch_req_{line.number:032x}", "custom_id": custom_id, "error": None}
    if kind == "error":
        message = {"message": value.get("message", ""), "code": value.get("code")}
        body: dict[str, Any] = {"error": message | {"type": "invalid_request_error"}}
        return written | {"response": {"status_code": 400, "request_id": "", "body": body}}
    usage = value["usageMetadata"]
    body = {
        "id": f"chatcmpl-{value['responseId']}",
        "object": "chat.completion",
        "model": value["modelVersion"],
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": value["candidates"][0]["content"]["parts"][0]["text"],
                },
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": usage["promptTokenCount"],
            "completion_tokens": usage["candidatesTokenCount"],
            "total_tokens": usage["totalTokenCount"],
        },
    }
    response = {"status_code": 200, "request_id": value["responseId"], "body": body}
    return written | {"response": response}


_OPENAI = Dialect(openai_line, openai_answer, openai_output)
