"""The calls of fileSearchStores, their documents and operations; bytes go the way of files.

POST /upload/v1beta/fileSearchStores/x:uploadToFileSearchStore     as POST /upload/v1beta/files
{"displayName": "report"}                                          … and the answer at the end:
                                         {"name": "fileSearchStores/x/upload/operations/report-…"}
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.calls import Call, Endpoint, answer
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import invalid_argument, json_reply, not_active
from provider_uploads.emulator.messages import from_query
from provider_uploads.emulator.models import models_of
from provider_uploads.emulator.pages import page_of_items
from provider_uploads.emulator.request_types import FILE_SEARCH_STORE, IMPORT_FILE
from provider_uploads.emulator.search_stores import DEFAULT_EMBEDDING_MODEL, DocumentRequest

_AboutStore = Callable[[Call, str], Awaitable[Response]]


async def create_store(engine: Engine, request: Request) -> Response:
    """``POST /<version>/fileSearchStores``."""

    async def handler(call: Call) -> Response:
        owner = call.owner()
        wanted = await call.parse(FILE_SEARCH_STORE)
        model = wanted.get("embedding_model") or DEFAULT_EMBEDDING_MODEL
        known = models_of(engine).get(model.removeprefix("models/"))
        if known is None or not known.embeds:
            raise invalid_argument(f"embedding_model: {model} is no embedding model.")
        await call.apply_faults([wanted["display_name"]] if "display_name" in wanted else [])
        store = engine.search.create(owner, wanted.get("display_name"), f"models/{known.name}")
        return json_reply(store.resource(engine.clock()))

    return await answer(engine, request, Operation.SEARCH, handler)


async def list_stores(engine: Engine, request: Request) -> Response:
    """``GET /<version>/fileSearchStores``."""

    async def handler(call: Call) -> Response:
        stores = list(engine.search.of(call.owner()))
        await call.apply_faults()
        page, token = page_of_items(call, stores, default=10, most=20)
        listed = [store.resource(engine.clock()) for store in page]
        return json_reply(({"fileSearchStores": listed} if listed else {}) | token)

    return await answer(engine, request, Operation.SEARCH, handler)


async def get_store(engine: Engine, request: Request) -> Response:
    """``GET /<version>/fileSearchStores/{store}``."""

    async def get(call: Call, name: str) -> Response:
        return json_reply(engine.search.get(name, call.owner()).resource(engine.clock()))

    return await _about(engine, request, get)


async def delete_store(engine: Engine, request: Request) -> Response:
    """``DELETE /<version>/fileSearchStores/{store}``."""

    async def delete(call: Call, name: str) -> Response:
        engine.search.delete(name, call.owner(), force=_force(call))
        return json_reply({})

    return await _about(engine, request, delete)


async def import_file(engine: Engine, request: Request) -> Response:
    """``POST /<version>/fileSearchStores/{store}:importFile``: a file becomes a document too."""

    async def import_it(call: Call, name: str) -> Response:
        owner = call.owner()
        wanted = await call.parse(IMPORT_FILE)
        engine.search.get(name, owner)
        file = engine.files.get(wanted.get("file_name", "").removeprefix("files/"), owner)
        if file.state(engine.clock()) != "ACTIVE":
            raise not_active(file.file_id)
        document = engine.search.add(
            DocumentRequest(
                store_name=name, custom_metadata=tuple(wanted.get("custom_metadata", ()))
            ),
            file,
            uploaded=False,
        )
        return json_reply(document.operation(engine.clock()))

    return await _about(engine, request, import_it)


async def list_documents(engine: Engine, request: Request) -> Response:
    """``GET /<version>/fileSearchStores/{store}/documents``."""

    async def list_them(call: Call, name: str) -> Response:
        documents = list(engine.search.get(name, call.owner()).documents.values())
        page, token = page_of_items(call, documents, default=10, most=20)
        listed = [document.resource(engine.clock()) for document in page]
        return json_reply(({"documents": listed} if listed else {}) | token)

    return await _about(engine, request, list_them)


async def get_document(engine: Engine, request: Request) -> Response:
    """``GET /<version>/fileSearchStores/{store}/documents/{document}``."""

    async def get(call: Call, name: str) -> Response:
        document = f"{name}/documents/{request.path_params['document']}"
        found = engine.search.get(name, call.owner()).document(document)
        return json_reply(found.resource(engine.clock()))

    return await _about(engine, request, get)


async def delete_document(engine: Engine, request: Request) -> Response:
    """``DELETE /<version>/fileSearchStores/{store}/documents/{document}``."""

    async def delete(call: Call, name: str) -> Response:
        document = f"{name}/documents/{request.path_params['document']}"
        engine.search.delete_document(document, call.owner(), force=_force(call))
        return json_reply({})

    return await _about(engine, request, delete)


async def get_operation(engine: Engine, request: Request) -> Response:
    """``GET /<version>/fileSearchStores/{store}/[upload/]operations/{operation}``."""

    async def get(call: Call, name: str) -> Response:
        operation = name + request.url.path.partition(name)[2]
        document = engine.search.of_operation(operation, call.owner())
        return json_reply(document.operation(engine.clock()))

    return await _about(engine, request, get)


async def _about(engine: Engine, request: Request, about: _AboutStore) -> Response:
    """Answer a call about one store; faults aimed at its name had their chance."""

    async def handler(call: Call) -> Response:
        call.owner()
        name = f"fileSearchStores/{request.path_params['store']}"
        await call.apply_faults((name,))
        return await about(call, name)

    return await answer(engine, request, Operation.SEARCH, handler)


def _force(call: Call) -> bool:
    return (from_query(call.request.query_params, "force") or "").lower() == "true"


def search_endpoints(version_path: str) -> list[Endpoint]:
    """The paths of all these calls."""
    stores = f"{version_path}/fileSearchStores"
    store = f"{stores}/{{store}}"
    return [
        (stores, "POST", create_store),
        (stores, "GET", list_stores),
        (f"{store}:importFile", "POST", import_file),
        (f"{store}/documents", "GET", list_documents),
        (f"{store}/documents/{{document}}", "GET", get_document),
        (f"{store}/documents/{{document}}", "DELETE", delete_document),
        (f"{store}/operations/{{operation}}", "GET", get_operation),
        (f"{store}/upload/operations/{{operation}}", "GET", get_operation),
        (store, "GET", get_store),
        (store, "DELETE", delete_store),
    ]
