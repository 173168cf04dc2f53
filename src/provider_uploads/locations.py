"""What names a source: a path, or a URL, and how much of it may be shown.

clip.mp4, /srv/a:b, ./https://x        paths
s3://bucket/key, gs://bucket/object    the key is everything after the bucket, ? and # too
https://host/clip.mp4?signature=…      shown, and sent in messages, as https://host/clip.mp4
staged://<upload id>/clip.mp4          a copy under PROVIDER_UPLOADS_STAGING, of that upload only
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from provider_uploads.errors import InvalidRequestError, SourceSchemeError
from provider_uploads.protocol import SOURCE_SCHEMES

STAGED: Final = "staged"

#: A bucket's key may hold anything, ? and # too, and no credential.
_PLAIN: Final = frozenset({"s3", "gs", STAGED})

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://", re.ASCII)
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")


def scheme_of(location: str) -> str | None:
    """Return the scheme of a URL in lowercase; None for a path."""
    found = _URL.match(location)
    return found[1].lower() if found else None


def shown(location: str) -> str:
    """Return a path as it is, and a URL without user, password, query and fragment."""
    scheme = scheme_of(location)
    if scheme is None or scheme in _PLAIN:
        return location
    authority, slash, path = re.split(r"[?#]", location, maxsplit=1)[0][
        len(scheme) + 3 :
    ].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def credential(location: str) -> str | None:
    """Return the URL if there is more in it than may be shown, else None."""
    return location if location != shown(location) else None


def check(location: str) -> str:
    """Return the scheme of a URL that somebody may submit; it is not asked whether it is there.

    Raises SourceSchemeError for a scheme that no worker reads, InvalidRequestError for a URL that
    cannot be meant; neither shows what may be secret in it.
    """
    scheme = scheme_of(location) or ""
    if scheme not in SOURCE_SCHEMES:
        raise SourceSchemeError(shown(location), scheme)
    problem = _https_problem(location) if scheme == "https" else _bucket_problem(location)
    if problem is not None:
        raise InvalidRequestError("source", f"{scheme}://…", problem)
    return scheme


def file_name(location: str) -> str:
    """Return the last component of a URL's path, for the display name and the MIME type."""
    path = shown(location).split("://", 1)[1].partition("/")[2]
    path = unquote(path) if scheme_of(location) == "https" else path
    # A name of dots or nothing names nothing.
    return PurePosixPath(path.replace("\0", "")).name or "file"


def staged(upload_id: str, name: str) -> str:
    """Return what names the staged copy of an upload; ``name`` is for people to read."""
    return f"{STAGED}://{upload_id}/{name}"


def staged_id(location: str) -> str | None:
    """Return the upload id in a ``staged://`` URL; None when it holds none."""
    held = location.removeprefix(f"{STAGED}://").partition("/")[0]
    return held if is_upload_id(held) else None


def is_upload_id(text: str) -> bool:
    """Whether this can be an upload's id, and so the name of a staged copy."""
    return _UPLOAD_ID.fullmatch(text) is not None


def _https_problem(location: str) -> str | None:
    try:
        parts = urlsplit(location)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        return "has no host, or no port number between 1 and 65535 after it"
    if not location.isprintable() or any(c in location for c in ' \\"<>'):
        return "holds characters that must be percent-encoded in a URL"
    return None


def _bucket_problem(location: str) -> str | None:
    bucket, _, key = location.split("://", 1)[1].partition("/")
    if "@" in bucket:
        return "names a user; credentials are those of the worker's environment"
    if not (bucket and key):
        return "must be a bucket and the name of an object in it, as in s3://bucket/clip.mp4"
    return None
