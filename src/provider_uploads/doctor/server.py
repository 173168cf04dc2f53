"""Is Redis one that keeps what it was given?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from redis.exceptions import RedisError
from rich.filesize import decimal

from provider_uploads.doctor.check import Check, failure, note, ok, warning
from provider_uploads.doctor.context import CheckContext
from provider_uploads.errors import QueueUnavailableError
from provider_uploads.settings import without_secrets

_OLDEST = (6, 2)
_NEARLY_FULL = 0.8

_REMEDIES = {
    "AuthenticationError": "Correct the user and the password in PROVIDER_UPLOADS_REDIS_URL.",
    "BusyLoadingError": "Wait: it is reading its data from disk.",
}
_UNREACHED = (
    "Start it, or point PROVIDER_UPLOADS_REDIS_URL at one that runs. Without it nothing can be "
    "submitted, and workers wait."
)


def reached(here: CheckContext) -> Iterator[Check]:
    """Redis answers, is new enough and may be written to."""
    name, server = "redis", without_secrets(here.settings.redis_url)
    try:
        info = here.info.result()
    except QueueUnavailableError as error:
        remedy = _REMEDIES.get(error.reason, _UNREACHED)
        yield failure(name, f"{server} cannot be used ({error.reason})", remedy)
        return
    if not info:
        yield warning(
            name,
            f"{server} answers; INFO is refused to our user, so its version, persistence, eviction "
            "and memory are not known",
            "Allow it (ACL SETUSER <user> +info), or ask whoever runs it.",
        )
        return
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        yield failure(
            name, f"{server} is Redis {version}", "Celery and kombu need Redis 6.2 or newer."
        )
    elif info.get("role") != "master":
        yield failure(
            name,
            f"{server} is a replica: it refuses writes",
            "Point PROVIDER_UPLOADS_REDIS_URL at its master.",
        )
    else:
        yield ok(name, f"{server}, Redis {version}")


def persistence(here: CheckContext) -> Iterator[Check]:
    """What it was given outlives a restart."""
    info, name = here.info.result(), "persistence"
    if not info:
        return
    yield persistence_of(info, name, _snapshots(here), time.time())


def persistence_of(info: dict[str, Any], name: str, snapshots: bool | None, now: float) -> Check:
    """Say how lasting it is; ``snapshots`` is whether any are scheduled, None if nobody knows."""
    use_aof = "Set appendonly yes, as config/redis.conf does."
    if info["aof_enabled"]:
        if info["aof_last_write_status"] != "ok":
            return failure(
                name,
                "the append-only file cannot be written, so Redis refuses writes",
                "See Redis's log; most often its disk is full.",
            )
        return ok(name, "append-only file")
    if snapshots is None:
        return note(
            name,
            "no append-only file; whether snapshots are taken is not known: CONFIG is refused",
            "Ask whoever runs it. Without either, a restart of Redis loses all uploads.",
        )
    if not snapshots:
        return warning(
            name, "none: a restart of Redis loses all uploads that have not ended", use_aof
        )
    if info["rdb_last_bgsave_status"] != "ok":
        return failure(
            name,
            "the last snapshot failed; unless told otherwise, Redis refuses writes until one works",
            f"See Redis's log; most often its disk is full. {use_aof}",
        )
    minutes = max(now - info["rdb_last_save_time"], 0) / 60
    return note(
        name,
        f"snapshots only, the last one {minutes:.0f} min ago: a crash of Redis loses what came "
        "after it",
        use_aof,
    )


def _snapshots(here: CheckContext) -> bool | None:
    try:
        return bool(here.ledger.redis.config_get("save")["save"])
    except (RedisError, KeyError):  # managed services refuse CONFIG
        return None


def eviction(here: CheckContext) -> Iterator[Check]:
    """It drops nothing by itself."""
    info, name = here.info.result(), "eviction"
    if not info:
        return
    policy, limit = info["maxmemory_policy"], info["maxmemory"]
    remedy = "Set maxmemory-policy noeviction, as config/redis.conf does."
    if policy == "noeviction":
        yield ok(name, "noeviction: a full Redis refuses new uploads and keeps the others")
    elif limit == 0:
        yield warning(
            name,
            f"{policy}, harmless only as long as maxmemory is not set: then it drops messages and "
            "rows of uploads that somebody waits for",
            remedy,
        )
    else:
        yield failure(
            name,
            f"{policy}: when maxmemory ({decimal(limit)}) is reached, Redis drops messages or "
            "rows of uploads that somebody waits for, silently",
            remedy,
        )


def memory(here: CheckContext) -> Iterator[Check]:
    """There is memory for more."""
    info, name = here.info.result(), "memory"
    if not info:
        return
    used, limit = info["used_memory"], info["maxmemory"]
    if limit == 0:
        yield note(
            name,
            f"{decimal(used)} used, no limit set: when the machine is full, its kernel ends Redis",
            "Set maxmemory, as config/redis.conf does.",
        )
    elif used < limit * _NEARLY_FULL:
        yield ok(name, f"{decimal(used)} of {decimal(limit)} used")
    else:
        yield (failure if used >= limit else warning)(
            name,
            f"{decimal(used)} of {decimal(limit)} used; a full Redis refuses new uploads",
            "Raise maxmemory, or submit less: rows live for three days, results for two.",
        )
