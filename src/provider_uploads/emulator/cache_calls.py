"""The calls of cachedContents: a prompt's beginning, files in it or not, kept for later prompts.

POST /v1beta/cachedContents
{"model": "models/gemini-2.5-flash", "ttl": "300s",
 "contents": [{"role": "user", "parts": [{"fileData": {"fileUri": "https://…/files/x1"}}]}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.calls import Call, Endpoint, answer
from provider_uploads.emulator.config import SECOND_NS, Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import invalid_argument, json_reply
from provider_uploads.emulator.generation import MAX_REQUEST_BYTES
from provider_uploads.emulator.messages import from_query, snake_case
from provider_uploads.emulator.models import model_for
from provider_uploads.emulator.pages import page_of_items
from provider_uploads.emulator.prompts import look_up, parts_of
from provider_uploads.emulator.request_types import CACHED_CONTENT


async def create_cache(engine: Engine, request: Request) -> Response:
    """``POST /<version>/cachedContents``."""

    async def handler(call: Call) -> Response:
        owner = call.owner()
        wanted = await call.parse(CACHED_CONTENT, MAX_REQUEST_BYTES)
        if not wanted.get("model"):
            raise invalid_argument("* CachedContent.model: model is not specified\n")
        model = model_for(engine, wanted["model"], "createCachedContent")
        parts = parts_of(wanted, "CreateCachedContentRequest.cached_content", required=False)
        await call.apply_faults([wanted["display_name"]] if "display_name" in wanted else [])
        cache = engine.caches.create(
            owner,
            model.name,
            wanted.get("display_name"),
            tuple(look_up(parts, engine.files, owner, engine.clock())),
            _expiry(engine, wanted),
        )
        return json_reply(cache.resource())

    return await answer(engine, request, Operation.CACHE, handler)


async def list_caches(engine: Engine, request: Request) -> Response:
    """``GET /<version>/cachedContents``."""

    async def handler(call: Call) -> Response:
        caches = list(engine.caches.of(call.owner()))
        await call.apply_faults()
        page, token = page_of_items(call, caches, default=100, most=1000)
        listed = [cache.resource() for cache in page]
        return json_reply(({"cachedContents": listed} if listed else {}) | token)

    return await answer(engine, request, Operation.CACHE, handler)


async def get_cache(engine: Engine, request: Request) -> Response:
    """``GET /<version>/cachedContents/{cache}``."""

    async def handler(call: Call) -> Response:
        owner, name = call.owner(), await _name_of(call)
        return json_reply(engine.caches.get(name, owner).resource())

    return await answer(engine, request, Operation.CACHE, handler)


async def update_cache(engine: Engine, request: Request) -> Response:
    """``PATCH /<version>/cachedContents/{cache}``: only when it expires."""

    async def handler(call: Call) -> Response:
        owner, name = call.owner(), await _name_of(call)
        wanted = await call.parse(CACHED_CONTENT, MAX_REQUEST_BYTES)
        mask = from_query(request.query_params, "update_mask") or ""
        fields = {snake_case(field) for field in mask.split(",") if field} or wanted.keys()
        expire_ns = _expiry(engine, {key: wanted[key] for key in fields if key in wanted})
        if fields - {"ttl", "expire_time"} or expire_ns is None:
            raise invalid_argument(
                "CachedContent: only its expiration can be updated, by ttl or expire_time."
            )
        return json_reply(engine.caches.expire(name, owner, expire_ns).resource())

    return await answer(engine, request, Operation.CACHE, handler)


async def delete_cache(engine: Engine, request: Request) -> Response:
    """``DELETE /<version>/cachedContents/{cache}``."""

    async def handler(call: Call) -> Response:
        owner, name = call.owner(), await _name_of(call)
        engine.caches.delete(name, owner)
        return json_reply({})

    return await answer(engine, request, Operation.CACHE, handler)


async def _name_of(call: Call) -> str:
    name = f"cachedContents/{call.request.path_params['cache']}"
    await call.apply_faults((name,))
    return name


def _expiry(engine: Engine, wanted: Mapping[str, Any]) -> int | None:
    """When it is to expire; 400 unless that is to come."""
    now_ns = engine.clock()
    if "ttl" in wanted:
        expire_ns = now_ns + int(float(wanted["ttl"][:-1]) * SECOND_NS)
    elif "expire_time" in wanted:
        try:
            expire_ns = int(datetime.fromisoformat(wanted["expire_time"]).timestamp() * SECOND_NS)
        except ValueError:  # a day its month does not have
            raise invalid_argument("CachedContent.expire_time: is no time there is.") from None
    else:
        return None
    if not now_ns < expire_ns < now_ns + 10 * 366 * 24 * 3600 * SECOND_NS:
        raise invalid_argument("CachedContent: must expire in the future, within ten years.")
    return expire_ns


def cache_endpoints(version_path: str) -> list[Endpoint]:
    """The paths of all these calls."""
    caches = f"{version_path}/cachedContents"
    return [
        (caches, "POST", create_cache),
        (caches, "GET", list_caches),
        (f"{caches}/{{cache}}", "GET", get_cache),
        (f"{caches}/{{cache}}", "PATCH", update_cache),
        (f"{caches}/{{cache}}", "DELETE", delete_cache),
    ]
