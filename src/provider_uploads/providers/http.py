"""The HTTP clients of a profile: ours, and the one that google-genai takes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import httpx2
from google.genai import types

from provider_uploads.profiles import Profile
from provider_uploads.providers.error_mapping import mark_sent


def open_clients(profile: Profile, timeout_s: float) -> tuple[httpx2.Client, Any]:
    """Return our client, and the SDK's: the same one, where the SDK takes it.

    Before 2.18 google-genai knows httpx only, and requires it.
    """
    ours: httpx2.Client = _open(httpx2, profile, timeout_s)
    return ours, ours if _sdk_takes(ours) else _open(import_module("httpx"), profile, timeout_s)


def _open(library: Any, profile: Profile, timeout_s: float) -> Any:
    """Return a client of ``httpx2``, or of ``httpx``, which is called alike."""
    return library.Client(
        # On the client, because the SDK leaves its own headers out of most upload requests.
        headers={name: value.get_secret_value() for name, value in profile.headers.items()},
        timeout=library.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
        limits=library.Limits(max_connections=None, max_keepalive_connections=64),
        event_hooks={"request": [mark_sent]},
    )


def _sdk_takes(http: httpx2.Client) -> bool:
    try:
        types.HttpOptions(httpx_client=http)
    except ValueError:
        return False
    return True
