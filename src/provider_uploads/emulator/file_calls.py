"""The calls about files that are not uploads: get, list, delete, register, download."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from provider_uploads.emulator.calls import Call, answer, bearer_token
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import (
    invalid_argument,
    json_reply,
    not_found,
    unauthenticated,
)
from provider_uploads.emulator.files import FileStore, Source, StoredFile

_GCS_OBJECT = re.compile(r"gs://[^/]+/.+")


async def get_file(engine: Engine, request: Request) -> Response:
    """``GET /<version>/files/{id}``."""

    async def handler(call: Call) -> Response:
        owner, file_id = call.owner(), await _file_id(call)
        return json_reply(call.resource(engine.files.get(file_id, owner)))

    return await answer(engine, request, Operation.GET, handler)


async def delete_file(engine: Engine, request: Request) -> Response:
    """``DELETE /<version>/files/{id}``."""

    async def handler(call: Call) -> Response:
        owner, file_id = call.owner(), await _file_id(call)
        engine.files.delete(file_id, owner)
        return json_reply({})

    return await answer(engine, request, Operation.DELETE, handler)


async def list_files(engine: Engine, request: Request) -> Response:
    """``GET /<version>/files``."""

    async def handler(call: Call) -> Response:
        owner = call.owner()
        await call.apply_faults()
        files, next_page_token = page_of(call, engine.files, owner)
        # An empty list is an empty object, as always in JSON made from protobuf.
        page: dict[str, Any] = {"files": [call.resource(f) for f in files]} if files else {}
        if next_page_token is not None:
            page["nextPageToken"] = next_page_token
        return json_reply(page)

    return await answer(engine, request, Operation.LIST, handler)


def page_of(call: Call, files: FileStore, owner: str) -> tuple[list[StoredFile], str | None]:
    """The page a request asks for, and the token of the next."""
    query = call.request.query_params
    page_size = query.get("pageSize", query.get("page_size", "0"))
    if not (page_size.isascii() and page_size.isdigit()):
        raise invalid_argument("ListFilesRequest.page_size: must be a number.")
    return files.page(owner, int(page_size), query.get("pageToken", query.get("page_token")))


async def register_files(engine: Engine, request: Request) -> Response:
    """``POST /<version>/files:register``: objects in Cloud Storage become files, all or none."""

    async def handler(call: Call) -> Response:
        if bearer_token(request) is None:
            raise unauthenticated()
        owner = call.owner()
        body = await call.json()
        uris = body.get("uris") if isinstance(body, dict) else None
        if not isinstance(uris, list) or not uris:
            raise invalid_argument("RegisterFilesRequest.uris: must be a list that is not empty.")
        for uri in uris:
            if not (isinstance(uri, str) and _GCS_OBJECT.fullmatch(uri)):
                raise invalid_argument(
                    "RegisterFilesRequest.uris: must have the form gs://<bucket>/<object>, "
                    f"this is {uri!r}."
                )
        await call.apply_faults(uris)
        files = [engine.register(owner, uri) for uri in uris]
        return json_reply({"files": [call.resource(file) for file in files]})

    return await answer(engine, request, Operation.REGISTER, handler)


async def redirect_download(engine: Engine, request: Request) -> Response:
    """``GET /<version>/files/{id}:download``: 302 to where the bytes are, whoever asks for what."""

    async def handler(call: Call) -> Response:
        call.owner()
        await _apply_faults(call)
        query = f"?{request.url.query}" if request.url.query else ""
        location = f"{call.base_url}/download{request.url.path}{query}"
        return Response(status_code=302, headers={"Location": location})

    return await answer(engine, request, Operation.DOWNLOAD, handler)


async def download_file(engine: Engine, request: Request) -> Response:
    """``GET /download/<version>/files/{id}:download?alt=media``: the bytes of a generated file."""

    async def handler(call: Call) -> Response:
        owner = call.owner()
        file = engine.files.get(await _apply_faults(call), owner)
        if file.source is not Source.GENERATED or file.path is None:
            raise invalid_argument(
                f"The file {file.name} is {file.source}: only generated files can be downloaded."
            )
        if request.query_params.get("alt") != "media":
            return json_reply({})  # the method's own answer is an empty message
        return FileResponse(Path(file.path), media_type=file.mime_type)

    return await answer(engine, request, Operation.DOWNLOAD, handler)


async def _file_id(call: Call) -> str:
    """The id in the path, once the faults aimed at that file had their chance."""
    if ":" in call.request.path_params["file_id"]:  # a custom method nobody knows
        raise not_found()
    return await _apply_faults(call)


async def _apply_faults(call: Call) -> str:
    file_id: str = call.request.path_params["file_id"]
    file = call.engine.files.peek(file_id)
    await call.apply_faults((f"files/{file_id}",) if file is None else file.labels)
    return file_id
