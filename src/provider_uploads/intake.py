"""From a caller's arguments to a checked request."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from provider_uploads.errors import InvalidRequestError
from provider_uploads.mime import guess_type
from provider_uploads.records import UploadRequest, checked
from provider_uploads.settings import settings
from provider_uploads.sources import open_source


class PatienceOptions(TypedDict, total=False):
    """The fields of ``Patience``, as options of a call."""

    timeout_s: float
    poll_s: float
    max_poll_s: float | None
    backoff_factor: float
    jitter_s: float


def names_among(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return for each path its name among the others: from the folder that all share."""
    absolute = [Path(path).absolute() for path in paths]
    folders = [os.fspath(path.parent) for path in absolute]
    shared = os.path.commonpath(folders) if folders else ""
    return [path.relative_to(shared).as_posix() for path in absolute]


def request_for(
    path: str | os.PathLike[str],
    display_name: str | None,
    mime_type: str | None,
    patience: dict[str, Any],
    cleanup_on_timeout: bool,
    profile: str,
) -> UploadRequest:
    """Return a new upload of the file at ``path``, with a new id.

    ``patience`` holds the fields of ``Patience``. Raises a SourceError or an InvalidRequestError.
    """
    # Roots are checked here only where they are set: the worker's, which decide, may differ.
    roots = settings().readable_roots if settings().roots else None
    with open_source(path, roots) as source:
        size_bytes = source.size_bytes
    absolute = Path(path).absolute()
    try:
        os.fspath(absolute).encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(
            "path", ascii(os.fspath(path)), "is not UTF-8 text and cannot travel; rename the file"
        ) from None
    return checked(
        UploadRequest,
        {
            "upload_id": uuid.uuid4().hex,
            "source": os.fspath(absolute),
            "display_name": absolute.name if display_name is None else display_name,
            "mime_type": guess_type(absolute.name) if mime_type is None else mime_type,
            "size_bytes": size_bytes,
            "patience": patience,
            "cleanup_on_timeout": cleanup_on_timeout,
            "profile": profile,
        },
    )
