"""Which keys the workers have, without the keys: two for one profile are a mistake."""

from __future__ import annotations

import hashlib
import time
from typing import Final, cast

from provider_uploads import protocol
from provider_uploads.ledger.connection import Connection

#: A worker that has not said so for an hour is gone.
_KEPT_S: Final = 3600


def fingerprint(api_key: str) -> str:
    """Return 8 characters that tell keys apart; they do not lead back to one."""
    return hashlib.blake2b(api_key.encode(), key=b"provider-uploads", digest_size=4).hexdigest()


def publish_key(ledger: Connection, profile: str, api_key: str) -> None:
    """Say that a living worker has this key for a profile."""
    key, now = _key(profile), time.time()
    with ledger.reached(), ledger.redis.pipeline() as pipe:
        pipe.zadd(key, {fingerprint(api_key): now})
        pipe.zremrangebyscore(key, "-inf", now - _KEPT_S)
        pipe.expire(key, _KEPT_S)
        pipe.execute()


def published_keys(ledger: Connection, profile: str) -> list[str]:
    """Return the fingerprints of the keys that workers have had within the hour."""
    with ledger.reached():
        found = cast("list[str]", ledger.redis.zrange(_key(profile), 0, -1))
    return sorted(found)


def _key(profile: str) -> str:
    return f"{protocol.KEY_PREFIX}api_keys:{profile}"
