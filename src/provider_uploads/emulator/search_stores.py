"""File search stores, their documents, and the operations by which files become documents.

A document is a file's bytes once more: it lives on when the file is deleted, and without end. It
is STATE_PENDING for as long as files of a processed type are PROCESSING.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from provider_uploads.emulator.config import SECOND_NS, Clock, rfc3339
from provider_uploads.emulator.errors import ApiError, failed_precondition, forbidden
from provider_uploads.emulator.files import StoredFile, random_id
from provider_uploads.emulator.messages import camel_case

_TYPES = "type.googleapis.com/google.ai.generativelanguage.v1main."
_SLUG_CHARS = 24
DEFAULT_EMBEDDING_MODEL = "models/gemini-embedding-001"


@dataclass(frozen=True, kw_only=True)
class DocumentRequest:
    """What is wanted of an upload: a document of this store."""

    store_name: str
    display_name: str | None = None
    custom_metadata: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Document:
    """A file in a store, and the operation that put it there."""

    name: str
    operation_name: str
    request: DocumentRequest
    response_type: str
    file: StoredFile

    def state(self, now_ns: int) -> str:
        """PENDING, ACTIVE or FAILED."""
        state = self.file.state(now_ns)
        return "PENDING" if state == "PROCESSING" else state

    @property
    def display_name(self) -> str | None:
        """What the client called it, or the file."""
        return self.request.display_name or self.file.display_name

    def resource(self, now_ns: int) -> dict[str, Any]:
        """The Document resource."""
        state = self.state(now_ns)
        update_ns = self.file.create_ns + (0 if state == "PENDING" else self.file.processing_ns)
        resource: dict[str, Any] = {"name": self.name}
        if self.display_name:
            resource["displayName"] = self.display_name
        if self.request.custom_metadata:
            resource["customMetadata"] = [_camel(item) for item in self.request.custom_metadata]
        resource |= {
            "createTime": rfc3339(self.file.create_ns),
            "updateTime": rfc3339(update_ns),
            "state": f"STATE_{state}",
            "mimeType": self.file.mime_type,
        }
        if self.file.size_bytes:
            resource["sizeBytes"] = str(self.file.size_bytes)
        return resource

    def operation(self, now_ns: int) -> dict[str, Any]:
        """The long-running operation: ``done`` once the document is ACTIVE or FAILED."""
        operation: dict[str, Any] = {"name": self.operation_name}
        match self.state(now_ns):
            case "ACTIVE":
                operation |= {
                    "done": True,
                    "response": {
                        "@type": _TYPES + self.response_type,
                        "parent": self.request.store_name,
                        "documentName": self.name,
                    },
                }
            case "FAILED":
                error = {"code": 13, "message": "The document failed to be processed."}
                operation |= {"done": True, "error": error}
        return operation


def _camel(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {camel_case(name): _camel(item) for name, item in value.items()}
    return value


@dataclass(kw_only=True)
class SearchStore:
    """A store; its documents in the order they came."""

    name: str
    owner: str = field(repr=False)
    display_name: str | None
    embedding_model: str
    create_ns: int
    documents: dict[str, Document] = field(default_factory=dict)

    def resource(self, now_ns: int) -> dict[str, Any]:
        """The FileSearchStore resource; counts of zero are left out."""
        resource: dict[str, Any] = {"name": self.name}
        if self.display_name:
            resource["displayName"] = self.display_name
        resource |= {
            "createTime": rfc3339(self.create_ns),
            "updateTime": rfc3339(self.create_ns),
            "embeddingModel": self.embedding_model,
        }
        for state in ("ACTIVE", "PENDING", "FAILED"):
            count = sum(document.state(now_ns) == state for document in self.documents.values())
            if count:
                resource[f"{state.lower()}DocumentsCount"] = str(count)
        size_bytes = sum(document.file.size_bytes or 0 for document in self.documents.values())
        return resource | ({"sizeBytes": str(size_bytes)} if size_bytes else {})

    def document(self, name: str) -> Document:
        """The document of that name; 403 if there is none."""
        if name not in self.documents:
            raise _forbidden("Document", name)
        return self.documents[name]


class SearchStores:
    """All stores of all projects."""

    def __init__(self, clock: Clock, processing_s: Callable[[], float]) -> None:
        self._clock = clock
        self._processing_s = processing_s
        self._stores: dict[str, SearchStore] = {}  # oldest first

    def of(self, owner: str) -> Iterator[SearchStore]:
        """One project's stores."""
        return (store for store in self._stores.values() if store.owner == owner)

    def create(self, owner: str, display_name: str | None, embedding_model: str) -> SearchStore:
        """An empty store."""
        store = SearchStore(
            name=f"fileSearchStores/{_id_for(display_name)}",
            owner=owner,
            display_name=display_name,
            embedding_model=embedding_model,
            create_ns=self._clock(),
        )
        self._stores[store.name] = store
        return store

    def get(self, name: str, owner: str) -> SearchStore:
        """One store of this project; 403 otherwise."""
        store = self._stores.get(name)
        if store is None or store.owner != owner:
            raise _forbidden("FileSearchStore", name)
        return store

    def delete(self, name: str, owner: str, *, force: bool) -> None:
        """Forget a store; 400 if it has documents, unless they may go with it."""
        if self.get(name, owner).documents and not force:
            raise failed_precondition("Cannot delete non-empty FileSearchStore.")
        del self._stores[name]

    def delete_document(self, name: str, owner: str, *, force: bool) -> None:
        """Forget a document; 400 if it has chunks, as it has once ACTIVE, unless they may go."""
        store = self.get(name.partition("/documents/")[0], owner)
        if store.document(name).state(self._clock()) == "ACTIVE" and not force:
            raise failed_precondition("Cannot delete non-empty Document.")
        del store.documents[name]

    def add(self, request: DocumentRequest, file: StoredFile, *, uploaded: bool) -> Document:
        """Begin to make a document of a file; what its operation is called depends on the way."""
        store = self._stores.get(request.store_name)
        if store is None:
            raise _forbidden("FileSearchStore", request.store_name)
        document_id = _id_for(request.display_name or file.display_name)
        way = "upload/operations" if uploaded else "operations"
        document = Document(
            name=f"{store.name}/documents/{document_id}",
            operation_name=f"{store.name}/{way}/{document_id}-{random_id()}",
            request=request,
            response_type="UploadToFileSearchStoreResponse" if uploaded else "ImportFileResponse",
            file=replace(
                file,
                create_ns=self._clock(),
                processing_ns=int(self._processing_s() * SECOND_NS),
                lifetime_ns=None,
            ),
        )
        store.documents[document.name] = document
        return document

    def of_operation(self, name: str, owner: str) -> Document:
        """The document an operation makes; 403 if there is none."""
        store = self.get("/".join(name.split("/")[:2]), owner)
        for document in store.documents.values():
            if document.operation_name == name:
                return document
        raise _forbidden("Operation", name)

    def of_file(self, file: StoredFile, store_name: str) -> Document | None:
        """The document an upload became, unless it has been deleted since."""
        store = self._stores.get(store_name)
        documents = () if store is None else store.documents.values()
        return next((one for one in documents if one.file.file_id == file.file_id), None)

    def clear(self) -> None:
        """Forget all of them."""
        self._stores.clear()


def _id_for(display_name: str | None) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", (display_name or "").lower()).strip("-")[:_SLUG_CHARS]
    return f"{words.strip('-')}-{random_id()}" if words else random_id()


def _forbidden(kind: str, name: str) -> ApiError:
    return forbidden(f"You do not have permission to access the {kind} {name} or it may not exist.")
