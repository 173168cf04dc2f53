"""The calls about batches: create, get, list, cancel, delete.

    POST /v1beta/models/gemini-3-flash-preview:batchGenerateContent
    {"batch": {"displayName": "nightly", "inputConfig": {"fileName": "files/x1"}}}
    {"batch": {"inputConfig": {"requests": {"requests": [
        {"request": {"contents": […]}, "metadata": {"key": "1"}}]}}}}

    200 OK
    {"name": "batches/…", "metadata": {"state": "BATCH_STATE_PENDING", …}}

Keys are in camelCase or snake_case. Creating twice makes two jobs.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from provider_uploads.emulator.batch_backends import gemini_backend
from provider_uploads.emulator.batch_jobs import BatchJob, BatchSpec, WebhookConfig
from provider_uploads.emulator.batch_lines import BatchLine, check_request
from provider_uploads.emulator.calls import Call, Handler, answer
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import invalid_argument, json_reply, not_found

MAX_DISPLAY_NAME_CHARS = 512
_INT64 = re.compile(r"-?[0-9]{1,18}")


def batch_routes(engine: Engine, version_path: str) -> list[Route]:
    """The routes under one version of the API."""

    def route(path: str, method: str, operation: Operation, handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            return await answer(engine, request, operation, handler)

        return Route(f"{version_path}{path}", endpoint, methods=[method])

    create = "/models/{model:path}:batchGenerateContent"
    return [
        route(create, "POST", Operation.CREATE_BATCH, _create),
        route("/batches", "GET", Operation.LIST_BATCHES, _list),
        route("/batches/{batch_id}:cancel", "POST", Operation.CANCEL_BATCH, _cancel),
        route("/batches/{batch_id}", "GET", Operation.GET_BATCH, _get),
        route("/batches/{batch_id}", "DELETE", Operation.DELETE_BATCH, _delete),
    ]


async def _create(call: Call) -> Response:
    owner = call.owner()
    engine = call.engine
    body = await call.json(engine.config.batches.max_inline_bytes)
    spec = await _spec(call, body, owner)
    job = engine.batches.create(owner, spec)
    return json_reply(job.operation(engine.clock()))


async def _spec(call: Call, body: Any, owner: str) -> BatchSpec:
    """What a request asks for; faults aimed at it had their chance."""
    engine = call.engine
    model = call.request.path_params["model"].removeprefix("models/")
    batch = body.get("batch") if isinstance(body, dict) else None
    if not isinstance(batch, dict):
        raise invalid_argument("* GenerateContentBatchRequest.batch: must be an object.\n")
    display_name = either(batch, "displayName", "display_name")
    source = either(batch, "inputConfig", "input_config")
    if not isinstance(source, dict):
        raise invalid_argument("* GenerateContentBatch.input_config: must be an object.\n")
    file_name = either(source, "fileName", "file_name")
    labels = [f"models/{model}", *(t for t in (display_name, file_name) if isinstance(t, str))]
    await call.apply_faults(labels)
    if not model.startswith("gemini-"):
        raise not_found(
            f"models/{model} is not found, or is not supported for batchGenerateContent: this "
            "server knows every name that begins with gemini-."
        )
    check_display_name(display_name)
    spec = partial(
        BatchSpec,
        model=model,
        display_name=display_name,
        priority=_priority(batch.get("priority")),
        webhook=_webhook(either(batch, "webhookConfig", "webhook_config")),
        backend=gemini_backend(engine),
    )
    if file_name is None:
        return spec(inline=inline_lines(source.get("requests")))
    if not isinstance(file_name, str) or not file_name.startswith("files/"):
        raise invalid_argument(
            f"* InputConfig.file_name: must have the form files/<id>, this is {file_name!r}.\n"
        )
    return spec(input_file=engine.files.get(file_name.removeprefix("files/"), owner))


def either(body: dict[str, Any], camel: str, snake: str) -> Any:
    """A field in one of its two spellings."""
    return body.get(camel, body.get(snake))


def check_display_name(display_name: Any) -> None:
    """400 unless it is a text that is not too long, or not there."""
    if display_name is None:
        return
    if not isinstance(display_name, str) or len(display_name) > MAX_DISPLAY_NAME_CHARS:
        raise invalid_argument(
            f"* GenerateContentBatch.display_name: must be a text of at most "
            f"{MAX_DISPLAY_NAME_CHARS} characters.\n"
        )


def inline_lines(requests: Any) -> tuple[BatchLine, ...]:
    """The requests given in the call itself; 400 if there are none, or one is none."""
    listed = requests.get("requests") if isinstance(requests, dict) else None
    if not isinstance(listed, list) or not listed:
        raise invalid_argument(
            "* InputConfig.source: either file_name or requests must be given, with at least one "
            "request.\n"
        )
    lines = []
    for number, item in enumerate(listed, 1):
        request = item.get("request") if isinstance(item, dict) else None
        metadata = item.get("metadata") if isinstance(item, dict) else None
        where = f"InlinedRequests.requests[{number - 1}]"
        if not isinstance(request, dict):
            raise invalid_argument(f"* {where}.request: must be an object.\n")
        if not isinstance(metadata, dict | None):
            raise invalid_argument(f"* {where}.metadata: must be an object.\n")
        try:
            check_request(request)
        except ValueError as error:
            raise invalid_argument(
                f"Invalid JSON payload received. At '{where}.request': {error}"
            ) from None
        lines.append(BatchLine(number, None, request, metadata))
    return tuple(lines)


def _priority(value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and _INT64.fullmatch(value):
        return int(value)
    raise invalid_argument("* GenerateContentBatch.priority: must be a whole number.\n")


def _webhook(value: Any) -> WebhookConfig | None:
    if value is None:
        return None
    uris = value.get("uris") if isinstance(value, dict) else None
    metadata = either(value, "userMetadata", "user_metadata") if isinstance(value, dict) else None
    uris = [] if uris is None else uris
    good = isinstance(uris, list) and all(isinstance(uri, str) for uri in uris)
    if not isinstance(value, dict) or not good or not isinstance(metadata, dict | None):
        raise invalid_argument(
            "* GenerateContentBatch.webhook_config: must have uris and may have user_metadata.\n"
        )
    return WebhookConfig(uris=tuple(uris), user_metadata=metadata)


async def _get(call: Call) -> Response:
    return json_reply((await _addressed(call)).operation(call.engine.clock()))


async def _cancel(call: Call) -> Response:
    job = await _addressed(call)
    await call.drain()
    call.engine.batches.cancel(job)
    return json_reply({})


async def _delete(call: Call) -> Response:
    call.engine.batches.delete(await _addressed(call))
    return json_reply({})


async def _addressed(call: Call) -> BatchJob:
    """The job in the path, once the faults aimed at it had their chance."""
    owner, batch_id = call.owner(), call.request.path_params["batch_id"]
    if ":" in batch_id:  # a custom method nobody knows
        raise not_found()
    batches = call.engine.batches
    job = batches.peek(batch_id)
    await call.apply_faults((f"batches/{batch_id}",) if job is None else job.labels)
    return batches.get(batch_id, owner, gemini_backend(call.engine))


async def _list(call: Call) -> Response:
    owner = call.owner()
    await call.apply_faults()
    size, before = page_asked_for(call)
    jobs, next_before = call.engine.batches.page(owner, gemini_backend(call.engine), size, before)
    now_ns = call.engine.clock()
    # An empty list is an empty object, as always in JSON made from protobuf.
    page: dict[str, Any] = {"operations": [job.operation(now_ns) for job in jobs]} if jobs else {}
    if next_before is not None:
        page["nextPageToken"] = page_token(next_before)
    return json_reply(page)


def page_asked_for(call: Call) -> tuple[int, int | None]:
    """The size of the page a request asks for (0 for the usual), and where it begins."""
    query = call.request.query_params
    if query.get("filter"):
        raise invalid_argument("ListOperationsRequest.filter: is not supported.")
    size = query.get("pageSize", query.get("page_size", "0"))
    if not (size.isascii() and size.isdigit()):
        raise invalid_argument("ListOperationsRequest.page_size: must be a number.")
    token = query.get("pageToken", query.get("page_token"))
    return int(size), _before(token) if token else None


def page_token(before: int) -> str:
    """What a client sends to get the next page."""
    return base64.urlsafe_b64encode(f"jobs:{before}".encode()).decode().rstrip("=")


def _before(token: str) -> int:
    try:
        padded = token + "=" * (-len(token) % 4)
        word, _, number = base64.b64decode(padded, altchars=b"-_", validate=True).partition(b":")
        if word == b"jobs" and number.isdigit():
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise invalid_argument("ListOperationsRequest.page_token: the page token is not valid.")
