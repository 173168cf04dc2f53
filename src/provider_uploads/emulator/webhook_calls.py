"""The calls about webhooks that a project registers, and the key that signs all others.

POST /v1beta/webhooks
{"name": "mine", "uri": "https://…", "subscribed_events": ["batch.succeeded"]}

200 OK
{"id": "…", "new_signing_secret": "whsec_…", …}         the secret is told this once
"""

from __future__ import annotations

import base64
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from provider_uploads.emulator.calls import Call, Handler, answer
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import invalid_argument, json_reply, not_found
from provider_uploads.emulator.webhook_store import StaticWebhook

DEFAULT_PAGE_SIZE = 50
JWKS_PATH = "/.well-known/jwks.json"
_AT_ONCE = "revoke_previous_secrets_immediately"


def webhook_routes(engine: Engine, version_path: str) -> list[Route]:
    """The routes under one version of the API."""

    def route(path: str, method: str, handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            return await answer(engine, request, Operation.WEBHOOK, handler)

        return Route(f"{version_path}/webhooks{path}", endpoint, methods=[method])

    return [
        route("", "POST", _create),
        route("", "GET", _list),
        route("/{webhook_id}:ping", "POST", _ping),
        route("/{webhook_id}:rotateSigningSecret", "POST", _rotate),
        route("/{webhook_id}", "GET", _get),
        route("/{webhook_id}", "PATCH", _update),
        route("/{webhook_id}", "DELETE", _delete),
    ]


def jwks_route(engine: Engine) -> Route:
    """Where the key of dynamic webhooks can be looked up, by anybody."""

    async def show(request: Request) -> Response:
        return json_reply(engine.webhook_sender.key.jwks())

    return Route(JWKS_PATH, show, methods=["GET"])


async def _create(call: Call) -> Response:
    owner = call.owner()
    body = await call.json()
    await call.apply_faults()
    webhook = call.engine.webhooks.create(owner, body)
    return json_reply(webhook.json() | {"new_signing_secret": webhook.secrets[0].text})


async def _list(call: Call) -> Response:
    owner = call.owner()
    await call.apply_faults()
    query = call.request.query_params
    size = query.get("page_size", query.get("pageSize", "0"))
    if not (size.isascii() and size.isdigit()):
        raise invalid_argument("ListWebhooksRequest.page_size: must be a number.")
    after = _decoded(query.get("page_token", query.get("pageToken", "")))
    webhooks = list(call.engine.webhooks.of(owner))
    at = next((n for n, webhook in enumerate(webhooks, 1) if webhook.webhook_id == after), 0)
    end = at + (int(size) or DEFAULT_PAGE_SIZE)
    page: dict[str, Any] = {"webhooks": [webhook.json() for webhook in webhooks[at:end]]}
    if end < len(webhooks):
        last: str = webhooks[end - 1].webhook_id
        page["next_page_token"] = base64.urlsafe_b64encode(last.encode()).decode()
    return json_reply(page)


def _decoded(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode()
    except ValueError:
        raise invalid_argument("ListWebhooksRequest.page_token: is not valid.") from None


async def _get(call: Call) -> Response:
    return json_reply((await _addressed(call)).json())


async def _update(call: Call) -> Response:
    webhook, body = await _addressed(call), await call.json()
    call.engine.webhooks.update(webhook, body)
    return json_reply(webhook.json())


async def _delete(call: Call) -> Response:
    call.engine.webhooks.delete(await _addressed(call))
    return json_reply({})


async def _ping(call: Call) -> Response:
    webhook = await _addressed(call)
    await call.drain()
    call.engine.webhook_sender.ping(webhook)
    return json_reply({})


async def _rotate(call: Call) -> Response:
    webhook, body = await _addressed(call), await call.json()
    behavior = body.get("revocation_behavior") if isinstance(body, dict) else None
    at_once = isinstance(behavior, str) and behavior.lower() == _AT_ONCE
    return json_reply({"secret": call.engine.webhooks.rotate(webhook, at_once=at_once)})


async def _addressed(call: Call) -> StaticWebhook:
    owner, webhook_id = call.owner(), call.request.path_params["webhook_id"]
    await call.apply_faults((webhook_id,))
    if ":" in webhook_id:  # a custom method nobody knows
        raise not_found()
    return call.engine.webhooks.get(webhook_id, owner)
