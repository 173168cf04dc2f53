"""Every method of Google's discovery document, and what is said of those that are not here.

The table is what ``generativelanguage`` ``v1beta`` listed in 2026. Whether a method is served is
not written down: it is, if a route takes it. What is left over answers 501 in the service's words.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from provider_uploads.emulator.calls import base_url_of
from provider_uploads.emulator.config import MAX_DOCUMENT_BYTES, MAX_FILE_BYTES
from provider_uploads.emulator.errors import error_reply, json_reply, unimplemented


@dataclass(frozen=True)
class Method:
    """A method: its id without the service's name, its verb, its path with ``*`` for each id."""

    name: str
    verb: str
    path: str

    @property
    def flat_path(self) -> str:
        """The path as the discovery document has it: ``v1beta/files/{filesId}``."""
        before = re.compile(r"([A-Za-z]+)/\*")
        return "v1beta/" + before.sub(lambda found: f"{found[1]}/{{{found[1]}Id}}", self.path)

    def route_path(self, version_path: str) -> str:
        """The path as a route has it."""
        numbers = iter(range(self.path.count("*")))
        return f"{version_path}/" + re.sub(r"\*", lambda _: f"{{id{next(numbers)}}}", self.path)


def _resource(name: str, path: str, **methods: str) -> Iterable[Method]:
    """The methods of one resource, each as its verb and what follows the resource's path."""
    for method, call in methods.items():
        verb, _, rest = call.partition(" ")
        yield Method(f"{name}.{method}", verb, path + rest)


def _operations(parent: str, path: str, *, listed: bool = False) -> Iterable[Method]:
    methods = {"get": "GET /*"} | ({"list": "GET"} if listed else {})
    return _resource(f"{parent}.operations", f"{path}/operations", **methods)


def _permissions(parent: str) -> Iterable[Method]:
    return _resource(
        f"{parent}.permissions",
        f"{parent}/*/permissions",
        create="POST",
        list="GET",
        get="GET /*",
        patch="PATCH /*",
        delete="DELETE /*",
    )


_CRUD = {"create": "POST", "list": "GET", "get": "GET /*", "delete": "DELETE /*"}

METHODS: tuple[Method, ...] = (
    *_resource("auth_tokens", "auth_tokens", create="POST"),
    *_resource(
        "batches",
        "batches",
        list="GET",
        get="GET /*",
        delete="DELETE /*",
        cancel="POST /*:cancel",
        updateGenerateContentBatch="PATCH /*:updateGenerateContentBatch",
        updateEmbedContentBatch="PATCH /*:updateEmbedContentBatch",
    ),
    *_resource("cachedContents", "cachedContents", **_CRUD, patch="PATCH /*"),
    *_resource("corpora", "corpora", **_CRUD),
    *_operations("corpora", "corpora/*"),
    *_permissions("corpora"),
    *_resource(
        "dynamic",
        "dynamic",
        generateContent="POST /*:generateContent",
        streamGenerateContent="POST /*:streamGenerateContent",
    ),
    *_resource(
        "environments",
        "environments",
        create="POST :create",
        list="GET :list",
        get="GET /*:get",
        delete="DELETE /*:delete",
    ),
    *_resource("environments.files.media", "environments/*/files", download="GET /*"),
    *_resource("fileSearchStores", "fileSearchStores", **_CRUD, importFile="POST /*:importFile"),
    *_resource(
        "fileSearchStores.documents",
        "fileSearchStores/*/documents",
        list="GET",
        get="GET /*",
        delete="DELETE /*",
    ),
    *_operations("fileSearchStores", "fileSearchStores/*"),
    *_operations("fileSearchStores.upload", "fileSearchStores/*/upload"),
    *_resource(
        "files", "files", list="GET", get="GET /*", delete="DELETE /*", register="POST :register"
    ),
    *_resource("generatedFiles", "generatedFiles", list="GET"),
    *_operations("generatedFiles", "generatedFiles/*"),
    *_resource("media", "files", upload="POST"),
    *_resource(
        "media",
        "fileSearchStores/*",
        uploadToFileSearchStore="POST :uploadToFileSearchStore",
    ),
    *_resource(
        "models",
        "models",
        list="GET",
        get="GET /*",
        **{
            method: f"POST /*:{method}"
            for method in (
                "generateContent",
                "streamGenerateContent",
                "countTokens",
                "embedContent",
                "batchEmbedContents",
                "batchGenerateContent",
                "asyncBatchEmbedContent",
                "predict",
                "predictLongRunning",
                "generateAnswer",
                "generateMessage",
                "generateText",
                "embedText",
                "batchEmbedText",
                "countMessageTokens",
                "countTextTokens",
            )
        },
    ),
    *_operations("models", "models/*", listed=True),
    *_resource(
        "tunedModels",
        "tunedModels",
        **_CRUD,
        patch="PATCH /*",
        **{
            method: f"POST /*:{method}"
            for method in (
                "generateContent",
                "streamGenerateContent",
                "generateText",
                "batchGenerateContent",
                "asyncBatchEmbedContent",
                "transferOwnership",
            )
        },
    ),
    *_operations("tunedModels", "tunedModels/*", listed=True),
    *_permissions("tunedModels"),
)

# What takes bytes, below /upload and /resumable/upload, and how many at most.
_MEDIA = {
    "media.upload": MAX_FILE_BYTES,
    "media.uploadToFileSearchStore": MAX_DOCUMENT_BYTES,
}


def served_by(routes: Sequence[BaseRoute]) -> list[Method]:
    """The methods these routes take."""
    taken = {
        (verb, re.sub(r"\{[^}]*\}", "*", route.path))
        for route in routes
        if isinstance(route, Route)
        for verb in route.methods or ()
    }
    return [method for method in METHODS if (method.verb, f"/v1beta/{method.path}") in taken]


def leftover_routes(routes: Sequence[BaseRoute], version_paths: Sequence[str]) -> list[Route]:
    """A route that answers 501 for each method that these routes do not take."""

    def route(method: Method, version_path: str) -> Route:
        async def endpoint(request: Request) -> Response:
            with contextlib.suppress(ClientDisconnect):
                async for _ in request.stream():  # who still sends would not read the answer
                    pass
            return error_reply(unimplemented(method.name))

        return Route(method.route_path(version_path), endpoint, methods=[method.verb])

    served = served_by(routes)
    missing = [method for method in METHODS if method not in served]
    # The longest first: an id has no colon in it, but a route's would take one.
    missing.sort(key=lambda method: -len(method.path))
    return [route(method, path) for path in version_paths for method in missing]


def discovery_route(routes: Sequence[BaseRoute]) -> Route:
    """``GET /$discovery/rest``: what is served, as Google's client generators read it."""
    resources: dict[str, Any] = {}
    for method in served_by(routes):
        *path, name = method.name.split(".")
        level: dict[str, Any] = {"resources": resources}
        for step in path:
            level = level.setdefault("resources", {}).setdefault(step, {})
        level.setdefault("methods", {})[name] = _described(method)

    async def endpoint(request: Request) -> Response:
        base_url = base_url_of(request)
        return json_reply(
            {
                "kind": "discovery#restDescription",
                "id": "generativelanguage:v1beta",
                "name": "generativelanguage",
                "version": "v1beta",
                "title": "Gemini API",
                "description": "What a local stand-in serves of it. Requests and responses are "
                "those of the service; their schemas are not repeated here.",
                "protocol": "rest",
                "rootUrl": f"{base_url}/",
                "baseUrl": f"{base_url}/",
                "basePath": "",
                "servicePath": "",
                "batchPath": "batch",
                "parameters": {"key": {"type": "string", "location": "query"}},
                "schemas": {"Any": {"id": "Any", "type": "any"}},
                "resources": resources,
            }
        )

    return Route("/$discovery/rest", endpoint, methods=["GET"])


def _described(method: Method) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", method.flat_path)
    parameters: dict[str, Any] = {
        name: {"type": "string", "location": "path", "required": True} for name in names
    }
    if method.name.endswith(".list"):
        parameters |= {
            "pageSize": {"type": "integer", "format": "int32", "location": "query"},
            "pageToken": {"type": "string", "location": "query"},
        }
    described: dict[str, Any] = {
        "id": f"generativelanguage.{method.name}",
        "path": method.flat_path,
        "flatPath": method.flat_path,
        "httpMethod": method.verb,
        "parameters": parameters,
        "parameterOrder": names,
        "response": {"$ref": "Any"},
    }
    if method.verb in ("POST", "PATCH"):
        described["request"] = {"$ref": "Any"}
    if method.name in _MEDIA:
        path = method.flat_path
        described |= {
            "supportsMediaUpload": True,
            "mediaUpload": {
                "accept": ["*/*"],
                "maxSize": str(_MEDIA[method.name]),
                "protocols": {
                    "simple": {"multipart": True, "path": f"/upload/{path}"},
                    "resumable": {"multipart": True, "path": f"/resumable/upload/{path}"},
                },
            },
        }
    return described
