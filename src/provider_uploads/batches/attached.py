"""Files in requests that are still to be uploaded, or are on their way.

    {"file": "talk.mp4"}                       a part: a path, an s3://, gs:// or https:// source,
    {"file": "<ticket>"}                       or the ticket of an upload
    {"fileData": {"fileUri": "<ticket>"}}      a path or a ticket where a URI belongs
    {"file_id": "<ticket>"}                    in OpenAI's bodies: a path or a ticket

What is a URI or an id of the provider already is left as it is. Each becomes a file of the
provider once it is ACTIVE.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from provider_uploads.batches.shapes import Request, Shape
from provider_uploads.locations import is_upload_id, scheme_of


class ActiveFile(NamedTuple):
    """A file at the provider, as a request names it."""

    name: str
    uri: str
    mime_type: str


#: Gives the file for what a request names.
Resolve = Callable[[str], ActiveFile]


def attached(request: Request) -> Iterator[str]:
    """Yield the paths, sources and tickets that a request names."""
    for holder, field in _places(request):
        yield holder[field]


def with_absolute_paths(request: Request) -> Request:
    """Return a request whose relative paths begin at this process's working directory."""

    def absolute(subject: str) -> str:
        bare = is_upload_id(subject) or scheme_of(subject) is not None
        return subject if bare else os.path.abspath(subject)  # noqa: PTH100 - links stay

    places = [*_places(request)]
    for holder, field in places:
        holder[field] = absolute(holder[field])
    return request._replace(line="") if places else request


def resolved(request: Request, resolve: Resolve) -> dict[str, Any]:
    """Return the body of a request with the provider's files in the place of ours."""
    if next(attached(request), None) is None:
        return request.body
    body: dict[str, Any] = _replaced(request.body, request.shape, resolve)
    return body


def _places(request: Request) -> Iterator[tuple[dict[str, Any], str]]:
    if request.shape is Shape.OPENAI:
        yield from _ids(request.body)
        return
    for part in _parts(request.body):
        if isinstance(part.get("file"), str):
            yield part, "file"
        for field in ("fileData", "file_data"):
            data = part.get(field)
            if isinstance(data, dict):
                yield from ((data, name) for name in ("fileUri", "file_uri") if _ours(data, name))


def _parts(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for content in body["contents"]:
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                yield part


def _ours(holder: dict[str, Any], field: str) -> bool:
    """Whether a URI is a ticket or a path."""
    value = holder.get(field)
    if not isinstance(value, str) or not value:
        return False
    return is_upload_id(value) or (scheme_of(value) is None and not value.startswith("files/"))


def _ids(value: Any) -> Iterator[tuple[dict[str, Any], str]]:
    if isinstance(value, list):
        for one in value:
            yield from _ids(one)
    elif isinstance(value, dict):
        given = value.get("file_id")
        if isinstance(given, str) and given and not given.startswith(("file-", "file_")):
            yield value, "file_id"
        for one in value.values():
            if isinstance(one, dict | list):
                yield from _ids(one)


def _replaced(value: Any, shape: Shape, resolve: Resolve) -> Any:
    if isinstance(value, list):
        return [_replaced(one, shape, resolve) for one in value]
    if not isinstance(value, dict):
        return value
    if shape is Shape.OPENAI:
        found = {name: _replaced(one, shape, resolve) for name, one in value.items()}
        for holder, field in _ids({"file_id": value.get("file_id")}):
            found[field] = resolve(holder[field]).name.removeprefix("files/")
        return found
    if isinstance(value.get("file"), str):
        file = resolve(value["file"])
        rest = {name: one for name, one in value.items() if name != "file"}
        return {**rest, "fileData": {"fileUri": file.uri, "mimeType": file.mime_type}}
    for field in ("fileData", "file_data"):
        data = value.get(field)
        name = next(
            (n for n in ("fileUri", "file_uri") if isinstance(data, dict) and _ours(data, n)), None
        )
        if isinstance(data, dict) and name is not None:
            file = resolve(data[name])
            rest = {one: two for one, two in value.items() if one != field}
            return {**rest, "fileData": {"fileUri": file.uri, "mimeType": file.mime_type}}
    return {name: _replaced(one, shape, resolve) for name, one in value.items()}
