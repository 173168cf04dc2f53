"""What an upload becomes: a file, or a document of a file search store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from provider_uploads.emulator.calls import Call
from provider_uploads.emulator.config import MAX_DOCUMENT_BYTES
from provider_uploads.emulator.errors import gone
from provider_uploads.emulator.files import StoredFile
from provider_uploads.emulator.search_stores import DocumentRequest
from provider_uploads.emulator.sessions import FileMetadata, UploadSession


def described(call: Call, body: Any, headers: Mapping[str, str]) -> FileMetadata:
    """What the client says of the upload, in JSON and headers; 403 if there is no such store."""
    store_name = _store_name(call)
    if store_name is None:
        return FileMetadata.from_start(body, headers)
    return FileMetadata.for_store(store_name, body, headers)


def undescribed(call: Call) -> FileMetadata:
    """What is known of an upload that is nothing but bytes; 403 if there is no such store."""
    metadata = FileMetadata.from_raw(call.request.headers)
    store_name = _store_name(call)
    if store_name is None:
        return metadata
    return replace(metadata, document=DocumentRequest(store_name=store_name))


def _store_name(call: Call) -> str | None:
    store: str | None = call.request.path_params.get("store")
    if store is None:
        return None
    return call.engine.search.get(f"fileSearchStores/{store}", call.owner()).name


def check_room(call: Call, owner: str, metadata: FileMetadata, more_bytes: int) -> None:
    """429 if the owner's files would be too much; documents do not count."""
    if metadata.document is None:
        call.engine.check_storage(owner, more_bytes)


def limit_of(call: Call, metadata: FileMetadata) -> int:
    """The most bytes that may come."""
    max_file_bytes = call.engine.config.max_file_bytes
    if metadata.document is None:
        return max_file_bytes
    return min(max_file_bytes, MAX_DOCUMENT_BYTES)


def final_body(call: Call, session: UploadSession, file: StoredFile) -> dict[str, Any]:
    """What is answered once all bytes are there: the file, or the document's operation."""
    wanted = session.metadata.document
    if wanted is None:
        return {"file": call.resource(file)}
    document = call.engine.search.of_file(file, wanted.store_name)
    if document is None:
        raise gone("The document has been deleted.")
    return document.operation(call.engine.clock())
