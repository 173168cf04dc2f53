"""From a caller's arguments to a checked request."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, TypedDict

from provider_uploads import locations
from provider_uploads.errors import InvalidRequestError
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.schemas import Evict, UploadRequest, checked
from provider_uploads.settings import settings
from provider_uploads.sources.base import SourcePolicy, check_scheme
from provider_uploads.sources.local import open_file
from provider_uploads.sources.mime import guess_type


class PollOptions(TypedDict, total=False):
    """The fields of ``PollPolicy``, as options of a call."""

    timeout_s: float
    poll_s: float
    max_poll_s: float | None
    backoff_factor: float
    jitter_s: float


def poll_options(
    timeout_s: float,
    poll_s: float,
    max_poll_s: float | None,
    backoff_factor: float,
    jitter_s: float,
) -> dict[str, Any]:
    """Return the fields of ``PollPolicy``; they are checked with the request."""
    return {
        "timeout_s": timeout_s,
        "poll_s": poll_s,
        "max_poll_s": max_poll_s,
        "backoff_factor": backoff_factor,
        "jitter_s": jitter_s,
    }


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


def request_for(
    path: str | os.PathLike[str],
    display_name: str | None,
    mime_type: str | None,
    poll_policy: dict[str, Any],
    cleanup_on_timeout: bool,
    profile: str = DEFAULT_PROFILE,
    reuse: bool = False,
    evict: Evict | None = None,
) -> UploadRequest:
    """Return a new upload of the file at a path or URL, with a new id.

    ``poll_policy`` holds the fields of ``PollPolicy``. A URL is checked, but not requested: only
    the worker has credentials. Raises a SourceError or an InvalidRequestError.
    """
    location = os.fspath(path)
    if locations.scheme_of(location) is not None:
        source, name, size_bytes = _url(location)
    else:
        source, name, size_bytes = _file(location)
    return checked(
        UploadRequest,
        {
            "upload_id": uuid.uuid4().hex,
            "source": source,
            "display_name": name if display_name is None else display_name,
            "mime_type": guess_type(name) if mime_type is None else mime_type,
            "size_bytes": size_bytes,
            "patience": poll_policy,
            "cleanup_on_timeout": cleanup_on_timeout,
            "profile": profile,
            "reuse": reuse,
            "evict": evict,
        },
    )


def staged_request(
    filename: str,
    display_name: str | None,
    mime_type: str | None,
    poll_policy: dict[str, Any],
    cleanup_on_timeout: bool,
    profile: str = DEFAULT_PROFILE,
    reuse: bool = False,
    evict: Evict | None = None,
) -> UploadRequest:
    """Return a new upload of a stream that is to be staged; of ``filename`` only the name counts.

    Its size is not known yet. Raises an InvalidRequestError.
    """
    name = PureWindowsPath(filename).name  # a browser's whole path, with either slash
    if not name.strip(" .") or "\0" in name:
        raise InvalidRequestError("filename", repr(filename), "names no file; use clip.mp4")
    upload_id = uuid.uuid4().hex
    return checked(
        UploadRequest,
        {
            "upload_id": upload_id,
            "source": locations.staged(upload_id, _travelling("filename", name)),
            "display_name": name if display_name is None else display_name,
            "mime_type": guess_type(name) if mime_type is None else mime_type,
            "size_bytes": None,
            "patience": poll_policy,
            "cleanup_on_timeout": cleanup_on_timeout,
            "profile": profile,
            "reuse": reuse,
            "evict": evict,
        },
    )


def own_source_policy() -> SourcePolicy:
    """Return what this process may read by itself: anywhere, unless its settings name roots."""
    given = settings()
    return SourcePolicy(
        given.readable_roots if given.roots else None,
        given.sources,
        given.https_timeout_s,
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
