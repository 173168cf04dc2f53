"""Is this machine set up: packages, keys, folders, Flower?"""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.client import HTTPConnection, HTTPException
from importlib.metadata import PackageNotFoundError, metadata, requires
from io import BytesIO
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from provider_uploads.background import begin
from provider_uploads.doctor.check import Check, failure, note, ok, warning
from provider_uploads.doctor.context import CheckContext
from provider_uploads.errors import (
    InvalidCredentialsError,
    MissingDependencyError,
    ProviderUnavailableError,
    ProviderUploadsError,
    RateLimitedError,
)
from provider_uploads.fleet.worker_info import installed, shown
from provider_uploads.locations import staged
from provider_uploads.profiles import DEFAULT_PROFILE, Profile
from provider_uploads.providers import provider_of
from provider_uploads.providers.base import Operation
from provider_uploads.providers.capabilities import capabilities_of
from provider_uploads.settings import Settings, without_secrets
from provider_uploads.sources.staging import staging_at

_OURS = "provider-uploads"
#: Seconds of silence before a provider or Flower counts as down.
_PROVIDER_S = 5.0
_FLOWER_S = 2.0


def packages() -> Iterator[Check]:
    """Python and the packages are there, in versions that fit."""
    try:
        python, needed = metadata(_OURS)["Requires-Python"], requires(_OURS) or []
    except PackageNotFoundError:
        yield failure(_OURS, "runs without being installed", "Run: pip install -e '.[google]'")
        return
    if SpecifierSet(python or "").contains(platform.python_version(), prereleases=True):
        yield ok("python", platform.python_version())
    else:
        yield failure("python", platform.python_version(), f"Run it with Python {python}.")
    yield ok(_OURS, installed(_OURS) or "")
    for line in needed:
        package = Requirement(line)
        if package.marker is None or package.marker.evaluate({"extra": "google"}):
            yield from _package(package, installed(package.name))


def _package(needed: Requirement, found: str | None) -> Iterator[Check]:
    """Say what is wrong with a package; of those in order, only the provider's SDK is named."""
    install = f"Run: pip install '{_OURS}[google]'"
    if found is None:
        yield failure(needed.name, "is not installed", install)
    elif not needed.specifier.contains(found, prereleases=True):
        yield failure(needed.name, f"{found} is outside of {needed.specifier}", install)
    elif needed.name == "google-genai":
        yield ok(needed.name, found)


# -- keys ------------------------------------------------------------------------------------------


def profiles(here: CheckContext) -> Iterator[Check]:
    """Every account has a key, and its provider accepts it."""
    asked = [
        begin(partial(profile, here.settings, name))
        for name in (DEFAULT_PROFILE, *sorted(here.settings.profiles))
    ]
    yield from (each.result() for each in asked)


def profile(settings: Settings, name: str) -> Check:
    """Ask one profile's provider for its first file."""
    line, account = f"profile {name}", settings.profile(name)
    variable = "GEMINI_API_KEY" if name == DEFAULT_PROFILE else _variable(name, "API_KEY")
    if account.api_key is None or not account.api_key.get_secret_value():
        problem = "has no key here, so no upload under it can be sent from here"
        return (failure if name == DEFAULT_PROFILE else warning)(line, problem, f"Set {variable}.")
    url = without_secrets(account.base_url)
    try:
        capabilities = capabilities_of(account)
        if not capabilities.can(Operation.LIST):
            who = capabilities.name
            return note(line, f"has a key for {url}; not tried, since {who} cannot list files")
        _ask_for_a_file(account, min(settings.provider_timeout_s, _PROVIDER_S))
    except MissingDependencyError as error:
        return failure(line, "cannot be tried", str(error))
    except InvalidCredentialsError as error:
        problem = f"{url} does not accept the key (HTTP {error.http_status} {error.status})"
        return failure(line, problem, f"Correct {variable}; keys are revoked, too.")
    except RateLimitedError:
        problem = f"{url} accepts the key, and answers 429: asked too often"
        return warning(line, problem, "Wait: workers retry by themselves.")
    except ProviderUnavailableError as error:
        base = (
            "PROVIDER_UPLOADS_BASE_URL" if name == DEFAULT_PROFILE else _variable(name, "BASE_URL")
        )
        remedy = f"Check the network and {base}. Workers wait and try again meanwhile."
        return failure(line, f"{url} cannot be used: {error}", remedy)
    except ProviderUploadsError as error:
        return failure(line, str(error), "Correct what it names.")
    return ok(line, f"{url} accepts the key")


def _ask_for_a_file(account: Profile, timeout_s: float) -> None:
    with provider_of(account, timeout_s=timeout_s) as provider:
        next(provider.list(page_size=1), None)


def _variable(profile: str, field: str) -> str:
    return f"PROVIDER_UPLOADS_PROFILES__{profile.upper()}__{field}"


# -- folders ---------------------------------------------------------------------------------------


def roots(here: CheckContext) -> Iterator[Check]:
    """The folders that may be read are there."""
    name, found = "roots", here.settings.readable_roots
    bad = [root for root in found if not (root.is_dir() and os.access(root, os.R_OK | os.X_OK))]
    if bad:
        remedy = "Make or mount it, let our user read it, or take it out of PROVIDER_UPLOADS_ROOTS."
        verdict = failure if len(bad) == len(found) else warning
        yield verdict(name, f"{_listed(bad)}: no folder that can be read here", remedy)
    elif here.settings.roots:
        yield ok(name, _listed(found))
    else:
        yield note(
            name,
            f"{_listed(found)}, which is only the working directory",
            "Set PROVIDER_UPLOADS_ROOTS to the folders that workers may read.",
        )


def staging(here: CheckContext) -> Iterator[Check]:
    """A copy can be staged, read and removed."""
    name, place = "staging", here.settings.staging
    if not place:
        yield note(name, "not set up: submit_stream is refused, paths and URLs work")
        return
    where, token = shown(place) or "", uuid.uuid4().hex
    try:
        copies = staging_at(place)
        copies.put(token, "doctor", BytesIO(b"a copy"))
        try:
            with copies.open(staged(token, "doctor")):
                pass
        finally:
            copies.remove(token)
    except ProviderUploadsError as error:
        remedy = (
            "Web apps and workers both write and read there: correct PROVIDER_UPLOADS_STAGING, or "
            "who may use it."
        )
        yield failure(name, f"{where}: {error}", remedy)
    else:
        yield ok(name, f"{where}: a copy was written, read and removed")


def _listed(paths: tuple[Path, ...] | list[Path]) -> str:
    return ", ".join(map(str, paths))


# -- Flower ----------------------------------------------------------------------------------------


def flower(here: CheckContext) -> Iterator[Check]:
    """Flower, where it is meant to run, answers."""
    del here
    name = "flower"
    address = os.environ.get("PROVIDER_UPLOADS_FLOWER_ADDRESS") or "127.0.0.1"
    port = os.environ.get("PROVIDER_UPLOADS_FLOWER_PORT")
    if not (port or os.environ.get("PROVIDER_UPLOADS_FLOWER_AUTH")):
        yield note(name, "not set up here; uploads do not need it")
        return
    host = "127.0.0.1" if address in {"0.0.0.0", "::"} else address  # noqa: S104 - not bound here
    url = f"http://{host}:{port or 5555}"
    try:
        with closing(HTTPConnection(host, int(port or 5555), timeout=_FLOWER_S)) as asking:
            asking.request("GET", "/healthcheck")
            answer = asking.getresponse().status
    except ConnectionRefusedError:
        start = "celery -A tasks flower --conf=config/flowerconfig.py"
        yield note(name, f"nothing answers at {url}; uploads do not need it", f"To see it: {start}")
    except (OSError, HTTPException, ValueError) as error:
        yield warning(
            name, f"{url}/healthcheck: {str(error) or type(error).__name__}", "See its log."
        )
    else:
        if answer == 200:
            yield ok(name, f"{url} answers")
        else:
            yield warning(name, f"{url}/healthcheck answers {answer}", "See Flower's log.")
