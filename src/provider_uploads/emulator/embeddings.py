"""embedContent without a model: vectors made from words, the same for the same, alike for alike.

Each word sets eight places of the vector, chosen by its hash. So texts that share words are near
each other, which is enough to test an index, and says nothing of meaning.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.calls import Call, Endpoint, answer
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import invalid_argument, json_reply
from provider_uploads.emulator.generation import MAX_REQUEST_BYTES
from provider_uploads.emulator.models import Model, model_for
from provider_uploads.emulator.prompt_parts import PromptPart
from provider_uploads.emulator.prompts import content_parts, look_up
from provider_uploads.emulator.request_types import BATCH_EMBED_CONTENTS, EMBED_CONTENT

_DIMENSIONS = 3072
_MAX_REQUESTS = 100
_PLACES = 8


async def embed_content(engine: Engine, request: Request) -> Response:
    """``POST /<version>/models/{model}:embedContent``."""

    async def handler(call: Call) -> Response:
        owner, model = call.owner(), _model(call, "embedContent")
        wanted = await call.parse(EMBED_CONTENT, MAX_REQUEST_BYTES)
        await call.apply_faults((f"models/{model.name}",))
        return json_reply({"embedding": _embedding(call, owner, model, wanted)})

    return await answer(engine, request, Operation.EMBED, handler)


async def batch_embed_contents(engine: Engine, request: Request) -> Response:
    """``POST /<version>/models/{model}:batchEmbedContents``."""

    async def handler(call: Call) -> Response:
        owner, model = call.owner(), _model(call, "embedContent")
        body = await call.parse(BATCH_EMBED_CONTENTS, MAX_REQUEST_BYTES)
        wanted = body.get("requests", [])
        if not 0 < len(wanted) <= _MAX_REQUESTS:
            raise invalid_argument(
                f"* BatchEmbedContentsRequest.requests: from 1 to {_MAX_REQUESTS} requests can be "
                "in one batch\n"
            )
        await call.apply_faults((f"models/{model.name}",))
        made = [_embedding(call, owner, model, one) for one in wanted]
        return json_reply({"embeddings": made})

    return await answer(engine, request, Operation.EMBED, handler)


def _model(call: Call, method: str) -> Model:
    return model_for(call.engine, call.request.path_params["model"], method)


def _embedding(call: Call, owner: str, model: Model, wanted: Mapping[str, Any]) -> dict[str, Any]:
    named = wanted.get("model", model.name).removeprefix("models/")
    if named != model.name:
        raise invalid_argument(
            f"EmbedContentRequest.model: is models/{named}, but models/{model.name} was asked."
        )
    parts = content_parts(wanted.get("content", {}), "EmbedContentRequest.content", "text")
    dimensions = wanted.get("output_dimensionality", _DIMENSIONS)
    if not 1 <= dimensions <= _DIMENSIONS:
        raise invalid_argument(
            f"EmbedContentRequest.output_dimensionality: must be from 1 to {_DIMENSIONS}."
        )
    engine = call.engine
    given = look_up(parts, engine.files, owner, engine.clock())
    return {"values": vector_of(given, dimensions)}


def vector_of(given: list[PromptPart], dimensions: int) -> list[float]:
    """A vector of length one; it depends on the words and files that are there, and how often."""
    vector = [0.0] * dimensions
    for part in given:
        words = re.findall(r"\w+", part.text.lower()) if part.text is not None else []
        for word in words or [part.sha256_hex or part.text or part.name or ""]:
            digest = hashlib.sha256(word.encode()).digest()
            for at in range(0, 4 * _PLACES, 4):
                place = int.from_bytes(digest[at : at + 4])
                vector[(place >> 1) % dimensions] += 1.0 if place & 1 else -1.0
    length = math.hypot(*vector)
    if not length:  # the words took each other back
        return [1.0] + [0.0] * (dimensions - 1)
    return [round(value / length, 8) for value in vector]


def embedding_endpoints(version_path: str) -> list[Endpoint]:
    """The paths of these calls."""
    model = f"{version_path}/models/{{model}}"
    return [
        (f"{model}:embedContent", "POST", embed_content),
        (f"{model}:batchEmbedContents", "POST", batch_embed_contents),
    ]
