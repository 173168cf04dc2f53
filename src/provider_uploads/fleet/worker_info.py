"""What a worker says about itself when the doctor asks: names and numbers, never a key."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from pydantic import ConfigDict

from provider_uploads.fleet.api_keys import fingerprint
from provider_uploads.locations import scheme_of
from provider_uploads.schemas import Record
from provider_uploads.settings import settings, unknown_variables, without_secrets


class WorkerInfo(Record):
    """One worker, as it describes itself."""

    # A newer worker says more; an older doctor reads what it knows.
    model_config = ConfigDict(extra="ignore")

    #: Celery's name of the worker: ``celery@host``.
    worker: str
    queues: tuple[str, ...]
    #: How many tasks it runs at once.
    slots: int
    visibility_timeout_s: float

    python: str
    provider_uploads: str | None
    celery: str | None
    kombu: str | None
    google_genai: str | None

    #: The names of the profiles that have a key there.
    profiles: tuple[str, ...]
    roots: tuple[str, ...]
    sources: tuple[str, ...]
    staging: str | None
    #: Variables that nothing reads: ``PROVIDER_UPLOADS_ROOT (PROVIDER_UPLOADS_ROOTS?)``.
    unknown_variables: tuple[str, ...] = ()
    #: Which key each profile has: ``default: 1b2c3d4e``.
    keys: tuple[str, ...] = ()
    #: What each profile's account may do: ``default: free``.
    tiers: tuple[str, ...] = ()

    #: Its clock when it answered, in seconds since the epoch.
    clock_s: float


def describe_worker(
    worker: str,
    queues: Iterable[str],
    slots: int,
    visibility_timeout_s: float,
    tiers: Iterable[str] = (),
    policy: Iterable[str] = (),
) -> WorkerInfo:
    """Describe this process; the rest of it comes from its settings and its packages.

    ``policy`` names what the policy reads from the environment.
    """
    here = settings()
    return WorkerInfo(
        worker=worker,
        queues=tuple(sorted(queues)),
        slots=slots,
        visibility_timeout_s=visibility_timeout_s,
        python=platform.python_version(),
        provider_uploads=installed("provider-uploads"),
        celery=installed("celery"),
        kombu=installed("kombu"),
        google_genai=installed("google-genai"),
        profiles=here.profile_names,
        roots=tuple(map(str, here.readable_roots)),
        sources=tuple(sorted(here.sources)),
        staging=shown(here.staging),
        unknown_variables=tuple(map(misspelt, unknown_variables(policy).items())),
        keys=tuple(
            f"{name}: {fingerprint(here.profile(name).key())}" for name in here.profile_names
        ),
        tiers=tuple(tiers),
        clock_s=time.time(),
    )


def misspelt(found: tuple[str, str | None]) -> str:
    """Return an unknown variable with the nearest name there is."""
    name, nearest = found
    return f"{name} ({nearest}?)" if nearest else name


def shown(staging: str | None) -> str | None:
    """Return the staging place as it may be shown: a URL without its secrets."""
    return without_secrets(staging) if staging and scheme_of(staging) else staging


@cache
def installed(package: str) -> str | None:
    """Return the version of an installed package; None when there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
