"""Who takes the files: the provider protocol, its implementations and the factory.

Which implementation serves a profile, its ``provider`` setting says; ``gemini`` is ours and the
default. Others are entry points of the group ``provider_uploads.providers``: each names a callable
``(profile, timeout_s) -> Provider``.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Final

from pydantic import SecretStr

from provider_uploads.errors import ConfigurationError
from provider_uploads.profiles import DEFAULT_PROFILE, Profile
from provider_uploads.providers.base import Provider
from provider_uploads.settings import settings

ENTRY_POINTS: Final = "provider_uploads.providers"


def open_provider(name: str = DEFAULT_PROFILE, api_key: str | None = None) -> Provider:
    """Return the provider of one of the settings' profiles, with ``api_key`` instead of its own.

    Make one per process and profile, after any fork. Raises ConfigurationError for an unknown
    profile or provider, MissingCredentialsError without a key, MissingDependencyError.
    """
    profile = settings().profile(name)
    if api_key is not None:
        profile = profile.model_copy(update={"api_key": SecretStr(api_key)})
    return provider_of(profile, timeout_s=settings().provider_timeout_s)


def provider_of(profile: Profile, *, timeout_s: float = 60.0) -> Provider:
    """Return the provider of a profile; ``timeout_s`` is the longest silence of a request."""
    if profile.provider == "gemini":
        from provider_uploads.providers.gemini import Gemini  # needs the google extra

        return Gemini(profile, timeout_s=timeout_s)
    opened: Provider = _plugged_in(profile.provider)(profile, timeout_s=timeout_s)
    return opened


def _plugged_in(name: str) -> Any:
    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        known = ", ".join(["gemini", *sorted(found)])
        raise ConfigurationError(
            f"no provider {name!r} is installed here (known: {known}). Correct the profile's "
            f"PROVIDER, or install the package whose entry point in {ENTRY_POINTS!r} names it."
        )
    return found[name].load()
