"""streamGenerateContent: the answer of generateContent in pieces, and its errors.

?alt=sse                              without it
data: {"candidates": [{…}], …}        [{"candidates": [{…}], …}
                                      ,
data: {"candidates": [{…}], …}        {"candidates": [{…}], …}]
"""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from provider_uploads.emulator.calls import Call, answer
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import ApiError, listed
from provider_uploads.emulator.generation import read_prompt, response_for
from provider_uploads.emulator.models import model_for

# A piece of an answer that has no lines.
_PIECE_CHARS = 80


class StreamedReply(Response):
    """A body sent piece by piece, each as soon as the one before is on its way.

    It is whole beforehand, so that a fault can cut it as any other answer.
    """

    def __init__(self, pieces: list[bytes], media_type: str) -> None:
        super().__init__(b"".join(pieces), media_type=media_type)
        self._ends = list(accumulate(len(piece) for piece in pieces))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, without saying beforehand how long it is."""
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        body, sent = bytes(self.body), 0
        for end in self._ends:
            piece, sent = body[sent:end], end
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": body[sent:], "more_body": False})


async def stream_generate_content(engine: Engine, request: Request) -> Response:
    """``POST /<version>/models/{model}:streamGenerateContent``."""
    as_events = request.query_params.get("alt") == "sse"

    async def handler(call: Call) -> Response:
        owner = call.owner()
        model = model_for(engine, request.path_params["model"], "generateContent").name
        response = response_for(model, await read_prompt(call, owner, model))
        chunks = [json.dumps(chunk, ensure_ascii=False).encode() for chunk in chunks_of(response)]
        if as_events:
            return StreamedReply([b"data: %b\r\n\r\n" % c for c in chunks], "text/event-stream")
        first, *others = chunks
        pieces = [b"[" + first, *(b"\n,\r\n" + chunk for chunk in others), b"]"]
        return StreamedReply(pieces, "application/json; charset=UTF-8")

    async def in_a_list(call: Call) -> Response:
        """As the service has it: without ``alt=sse``, an error is a list of one."""
        try:
            return await handler(call)
        except ApiError as refused:
            await call.drain()
            return listed(refused)

    return await answer(engine, request, Operation.GENERATE, handler if as_events else in_a_list)


def chunks_of(response: dict[str, Any]) -> list[dict[str, Any]]:
    """A response in pieces; how it ended and all that was used stand in the last."""
    (candidate,) = response["candidates"]
    usage = response["usageMetadata"]
    text: str = candidate["content"]["parts"][0]["text"]
    pieces = text.splitlines(keepends=True) if "\n" in text else _cut(text)
    common = {key: response[key] for key in ("modelVersion", "responseId")}
    chunks: list[dict[str, Any]] = []
    for piece in pieces:
        content = {"parts": [{"text": piece}], "role": "model"}
        chunk: dict[str, Any] = {"candidates": [{"content": content, "index": 0}]}
        so_far = {"promptTokenCount": usage["promptTokenCount"]}
        so_far |= {"totalTokenCount": usage["promptTokenCount"]}
        chunks.append(chunk | {"usageMetadata": so_far} | common)
    ended = {key: value for key, value in candidate.items() if key not in ("content", "index")}
    chunks[-1]["candidates"][0] |= ended
    chunks[-1]["usageMetadata"] = usage
    return chunks


def _cut(text: str) -> list[str]:
    return [text[at : at + _PIECE_CHARS] for at in range(0, len(text), _PIECE_CHARS)]
