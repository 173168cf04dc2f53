"""From a caller's arguments to a checked request."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path, PurePath, PureWindowsPath
from typing import Final, TypedDict, Unpack

from provider_uploads import locations
from provider_uploads.errors import InvalidRequestError
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.protocol import MAX_DISPLAY_NAME
from provider_uploads.schemas import (
    BACKOFF_FACTOR,
    JITTER_S,
    MAX_POLL_S,
    POLL_S,
    TIMEOUT_S,
    Evict,
    UploadRequest,
    checked,
)
from provider_uploads.settings import settings
from provider_uploads.sources.base import SourcePolicy, check_scheme
from provider_uploads.sources.local import open_file
from provider_uploads.sources.mime import UNKNOWN, guess_type

#: What a stream is called that has no name.
_UNNAMED: Final = "upload"
#: An ending that is longer than this is no ending.
_LONGEST_SUFFIX: Final = 16


def relative_names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return for each path its name among the others: from the folder that all paths share.

    A URL's is the last part of its path.
    """
    given = [os.fspath(path) for path in paths]
    local = {one: Path(one).absolute() for one in given if locations.scheme_of(one) is None}
    folders = [os.fspath(path.parent) for path in local.values()]
    shared = os.path.commonpath(folders) if folders else ""
    return [
        local[one].relative_to(shared).as_posix() if one in local else locations.file_name(one)
        for one in given
    ]


class RequestOptions(TypedDict, total=False):
    """What a caller may say of one upload; the defaults stand at ``UploadRequest``'s fields."""

    display_name: str | None
    mime_type: str | None
    timeout_s: float
    poll_s: float
    max_poll_s: float | None
    backoff_factor: float
    jitter_s: float
    cleanup_on_timeout: bool
    profile: str
    reuse: bool
    evict: Evict | None


def request_for(path: str | os.PathLike[str], **options: Unpack[RequestOptions]) -> UploadRequest:
    """Return a new upload of the file at a path or URL, with a new id.

    A URL is checked, but not requested: only the worker has credentials. Raises a SourceError or an
    InvalidRequestError.
    """
    location = os.fspath(path)
    if locations.scheme_of(location) is not None:
        source, name, size_bytes = _url(location)
    else:
        source, name, size_bytes = _file(location)
    return request_of(uuid.uuid4().hex, source, name, size_bytes, **options)


def staged_request(filename: str | None, **options: Unpack[RequestOptions]) -> UploadRequest:
    """Return a new upload of a stream that is to be staged; of ``filename`` only the name counts.

    ``application/octet-stream``, which browsers say of what they do not know, does not beat what
    the name tells. Its size is not known yet. Raises an InvalidRequestError.
    """
    name = _UNNAMED if filename is None else PureWindowsPath(filename).name  # either slash
    if not name.strip(" .") or "\0" in name:
        raise InvalidRequestError("filename", repr(filename), "names no file; use clip.mp4")
    name = _shortened(_travelling("filename", name))
    if options.get("mime_type") == UNKNOWN:
        options["mime_type"] = None
    upload_id = uuid.uuid4().hex
    return request_of(upload_id, locations.staged(upload_id, name), name, None, **options)


def request_of(
    upload_id: str,
    source: str,
    name: str,
    size_bytes: int | None,
    *,
    display_name: str | None = None,
    mime_type: str | None = None,
    timeout_s: float = TIMEOUT_S,
    poll_s: float = POLL_S,
    max_poll_s: float | None = MAX_POLL_S,
    backoff_factor: float = BACKOFF_FACTOR,
    jitter_s: float = JITTER_S,
    cleanup_on_timeout: bool = True,
    profile: str = DEFAULT_PROFILE,
    reuse: bool = False,
    evict: Evict | None = None,
) -> UploadRequest:
    """Return an upload of what is at ``source``; raises InvalidRequestError."""
    return checked(
        UploadRequest,
        {
            "upload_id": upload_id,
            "source": source,
            "display_name": _shortened(name) if display_name is None else display_name,
            "mime_type": guess_type(name) if mime_type is None else mime_type,
            "size_bytes": size_bytes,
            "patience": {
                "timeout_s": timeout_s,
                "poll_s": poll_s,
                "max_poll_s": max_poll_s,
                "backoff_factor": backoff_factor,
                "jitter_s": jitter_s,
            },
            "cleanup_on_timeout": cleanup_on_timeout,
            "profile": profile,
            "reuse": reuse,
            "evict": evict,
        },
    )


def _shortened(name: str) -> str:
    """Return a file's name at a length that the provider shows, with its ending."""
    if len(name) <= MAX_DISPLAY_NAME:
        return name
    suffix = PurePath(name).suffix[:_LONGEST_SUFFIX]
    return f"{name[: MAX_DISPLAY_NAME - len(suffix) - 1]}…{suffix}"


def own_source_policy() -> SourcePolicy:
    """Return what this process may read by itself: anywhere, unless its settings name roots."""
    given = settings()
    return SourcePolicy(
        given.readable_roots if given.roots else None,
        given.sources,
        given.https_timeout_s,
        given.https_answer_s,
        given.https_least_bytes_s,
        given.https_slow_for_s,
        given.https_networks,
    )


def _url(location: str) -> tuple[str, str, int | None]:
    scheme = locations.check(location)
    # As with roots: checked here only where some are set, for the worker's decide.
    if settings().sources:
        check_scheme(location, scheme, settings().sources)
    return _travelling("source", locations.shown(location)), locations.file_name(location), None


def _file(path: str) -> tuple[str, str, int | None]:
    # Roots are checked here only where they are set: the worker's, which decide, may differ.
    with open_file(path, own_source_policy().roots) as source:
        size_bytes = source.size_bytes
    absolute = Path(path).absolute()
    return _travelling("path", os.fspath(absolute)), absolute.name, size_bytes


def _travelling(field: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(
            field, ascii(text), "is not UTF-8 text and cannot travel; rename the file"
        ) from None
    return text


def refuse_key(api_key: object) -> None:
    """Raise InvalidRequestError for a key: it would travel in a message."""
    if api_key is not None:
        raise InvalidRequestError(
            "api_key",
            "(not shown)",
            "would travel in a message, which Redis, results and Flower keep. Give the key to the "
            "workers, as GEMINI_API_KEY or as a profile's, and name it: profile='…'",
        )
