"""Every source scheme there is, and the one function that opens a location."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

from provider_uploads import locations
from provider_uploads.sources.base import Source, SourcePolicy, check_scheme
from provider_uploads.sources.buckets import open_bucket
from provider_uploads.sources.local import open_file
from provider_uploads.sources.staging import staging_at

Opener = Callable[[str, SourcePolicy], Source]


def _open_https(location: str, policy: SourcePolicy) -> Source:
    from provider_uploads.sources.https import open_https  # needs the google extra

    return open_https(location, policy)


def _open_bucket(location: str, policy: SourcePolicy) -> Source:
    return open_bucket(location)


#: What opens each scheme that can be switched on (``protocol.SOURCE_SCHEMES``).
OPENERS: Final[Mapping[str, Opener]] = {
    "s3": _open_bucket,
    "gs": _open_bucket,
    "https": _open_https,
}


def open_source(location: str | os.PathLike[str], policy: SourcePolicy | None = None) -> Source:
    """Open a path or a URL for reading, as far as ``policy`` allows it.

    Raises a SourceError that names what is wrong, or a SourceUnavailableError where another
    attempt may succeed; never waits on a FIFO.
    """
    policy = policy or SourcePolicy()
    text = os.fspath(location)
    scheme = locations.scheme_of(text)
    if scheme is None:
        return open_file(text, policy.roots)
    if scheme == locations.STAGED:
        return staging_at(policy.staging).open(text)
    check_scheme(text, locations.check(text), policy.schemes)
    return OPENERS[scheme](text, policy)
