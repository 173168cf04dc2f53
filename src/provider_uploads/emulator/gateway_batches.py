"""Batches through the gateway: at Gemini itself, at OpenAI, at Anthropic.

    POST /genai/v1beta/models/gpt-4o-mini:batchGenerateContent     x-model-provider: openai
    {"batch": {"inputConfig": {"fileName": "file-…"}}}

    200 OK
    {"name": "batches/batch_…", "metadata": {"state": "BATCH_STATE_RUNNING", …}}

Shown is what the gateway keeps of a job: neither its display name nor its model, its error or
answers given inline. A display name that is asked for does not reach the provider. A job is never
pending, and ``ended`` at Anthropic is a success, whatever became of its requests.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from provider_uploads.emulator.batch_backends import (
    anthropic_backend,
    gemini_backend,
    openai_backend,
)
from provider_uploads.emulator.batch_jobs import Backend, BatchJob, BatchSpec, Phase
from provider_uploads.emulator.batch_lines import BatchLine
from provider_uploads.emulator.batches import either, inline_lines, page_asked_for, page_token
from provider_uploads.emulator.calls import Call, Handler, answer
from provider_uploads.emulator.config import Operation, rfc3339
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import ApiError, json_reply
from provider_uploads.emulator.gateway import (
    PREFIX,
    GatewayRefusalError,
    check_upstream,
    client_of,
    in_its_words,
    provider_of,
)
from provider_uploads.emulator.gateway_store import Provider

_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1beta.BatchPredictionJob"
# Of a request, the rest is dropped on the way.
_KEPT = ("contents", "generationConfig", "safetySettings", "systemInstruction")

_BACKENDS: dict[str, Callable[[Engine], Backend]] = {
    Provider.GEMINI: gemini_backend,
    Provider.OPENAI: openai_backend,
    Provider.ANTHROPIC: anthropic_backend,
}

# What a provider calls the states that have a name of Gemini's.
_OWN_STATES = {
    "BATCH_STATE_PENDING": "validating",
    "BATCH_STATE_RUNNING": "in_progress",
    "BATCH_STATE_CANCELLING": "cancelling",
    "BATCH_STATE_SUCCEEDED": "completed",
    "BATCH_STATE_FAILED": "failed",
    "BATCH_STATE_CANCELLED": "cancelled",
    "BATCH_STATE_EXPIRED": "expired",
}
_ANTHROPIC_ENDED = {"completed", "failed", "cancelled", "expired"}


def gateway_batch_routes(engine: Engine) -> list[Route]:
    """The routes, over the engine of the service behind the gateway."""

    def route(path: str, method: str, operation: Operation, handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            return await answer(engine, request, operation, partial(in_its_words, handler))

        return Route(f"{PREFIX}/v1beta{path}", endpoint, methods=[method])

    create = "/models/{model:path}:batchGenerateContent"
    return [
        route(create, "POST", Operation.CREATE_BATCH, _create),
        route("/batches", "GET", Operation.LIST_BATCHES, _list),
        route("/batches/{batch_id}:cancel", "POST", Operation.CANCEL_BATCH, _cancel),
        route("/batches/{batch_id}", "GET", Operation.GET_BATCH, _get),
        route("/batches/{batch_id}", "DELETE", Operation.DELETE_BATCH, _delete),
    ]


def _backend(call: Call, request_type: str) -> Backend:
    provider = provider_of(call)
    if provider not in _BACKENDS:
        raise GatewayRefusalError(400, f"{request_type} is not supported by {provider} provider")
    return _BACKENDS[provider](call.engine)


async def _create(call: Call) -> Response:
    engine = call.engine
    body = await call.json(engine.config.batches.max_inline_bytes)
    model = call.request.path_params["model"].removeprefix("models/")
    batch = body.get("batch") if isinstance(body, dict) else None
    source = either(batch, "inputConfig", "input_config") if isinstance(batch, dict) else None
    if not isinstance(source, dict):
        raise GatewayRefusalError(400, "either input_file_id or requests must be provided")
    file_name = either(source, "fileName", "file_name")
    await call.apply_faults((f"models/{model}", *([file_name] if file_name else ())))
    backend = _backend(call, "batch_create")
    owner = check_upstream(call, client_of(call))
    if backend.provider == Provider.GEMINI and not model.startswith("gemini-"):
        raise GatewayRefusalError(404, f"models/{model} is not found", 404)
    spec = partial(BatchSpec, model=model, display_name=_display_name(), backend=backend)
    if file_name is None:
        lines = tuple(_kept(line) for line in inline_lines(source.get("requests")))
        job = engine.batches.create(owner, spec(inline=lines))
    elif backend.provider == Provider.ANTHROPIC:
        raise GatewayRefusalError(400, "requests array is required for anthropic batch create")
    else:
        file_id = str(file_name).removeprefix("files/")
        try:
            file = backend.files.get(file_id, owner)
        except ApiError:
            if backend.provider == Provider.GEMINI:
                raise
            raise GatewayRefusalError(404, f"No such File object: {file_id}", 404) from None
        job = engine.batches.create(owner, spec(input_file=file))
    return json_reply(_shown(call, job))


def _display_name() -> str:
    return f"bifrost-batch-{secrets.token_hex(8)}"


def _kept(line: BatchLine) -> BatchLine:
    request = {name: value for name, value in line.request.items() if name in _KEPT}
    return BatchLine(line.number, None, request, line.metadata)


def _shown(call: Call, job: BatchJob) -> dict[str, Any]:
    """A job as the gateway shows it."""
    backend, name = job.spec.backend, _name(call, job)
    created = rfc3339(job.create_ns, fraction_digits=0)
    metadata: dict[str, Any] = {
        "@type": _TYPE,
        "name": name,
        "createTime": created,
        "updateTime": created,
        "state": _state(call, job),
        "batchStats": {
            name: str(count)
            for name, count in job.counts(call.engine.clock()).items()
            if name != "failedRequestCount"
        },
    }
    if job.end_ns is not None:
        metadata["endTime"] = rfc3339(job.end_ns, fraction_digits=0)
    prefix = "files/" if backend.provider == Provider.GEMINI else ""
    if job.spec.input_file is not None:
        metadata["inputConfig"] = {"fileName": f"{prefix}{job.spec.input_file.file_id}"}
    shown: dict[str, Any] = {"name": name, "metadata": metadata}
    if job.output_file is not None:
        metadata["output"] = {"responsesFile": f"{prefix}{job.output_file}"}
        shown["dest"] = {"fileName": f"{prefix}{job.output_file}"}
    if job.ended:
        shown["done"] = True
    return shown


def _name(call: Call, job: BatchJob) -> str:
    bare = call.engine.config.batches.gateway_bare_names
    return job.batch_id if bare and job.spec.backend.provider != Provider.GEMINI else job.name


def _state(call: Call, job: BatchJob) -> str:
    state = "BATCH_STATE_CANCELLING" if job.phase is Phase.CANCELLING else job.state
    provider = job.spec.backend.provider
    if call.engine.config.batches.gateway_own_states and provider != Provider.GEMINI:
        own = _OWN_STATES.get(state, state)
        anthropic = provider == Provider.ANTHROPIC
        return "ended" if anthropic and own in _ANTHROPIC_ENDED else own
    if state == "BATCH_STATE_PENDING":
        return "BATCH_STATE_RUNNING"
    if provider == Provider.ANTHROPIC and job.ended and state in _OWN_STATES:
        return "BATCH_STATE_SUCCEEDED"  # the job has ended, and that is all it says
    return state if state in _OWN_STATES else "BATCH_STATE_UNSPECIFIED"


async def _get(call: Call) -> Response:
    return json_reply(_shown(call, await _addressed(call, "batch_retrieve")))


async def _cancel(call: Call) -> Response:
    job = await _addressed(call, "batch_cancel")
    await call.drain()
    call.engine.batches.cancel(job)
    return json_reply({})


async def _delete(call: Call) -> Response:
    call.engine.batches.delete(await _addressed(call, "batch_delete"))
    return json_reply({})


async def _addressed(call: Call, request_type: str) -> BatchJob:
    batch_id: str = call.request.path_params["batch_id"]
    batches = call.engine.batches
    job = batches.peek(batch_id)
    await call.apply_faults((f"batches/{batch_id}",) if job is None else job.labels)
    backend = _backend(call, request_type)
    return batches.get(batch_id, check_upstream(call, client_of(call)), backend)


async def _list(call: Call) -> Response:
    await call.apply_faults()
    backend = _backend(call, "batch_list")
    size, before = page_asked_for(call)
    owner = check_upstream(call, client_of(call))
    jobs, next_before = call.engine.batches.page(owner, backend, size, before)
    page: dict[str, Any] = {"operations": [_shown(call, job) for job in jobs]}
    if next_before is not None:
        page["nextPageToken"] = page_token(next_before)
    return json_reply(page)
