"""The connection to Redis that the ledger and everything the fleet shares use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.exceptions import RedisError
from redis.retry import Retry

from provider_uploads import errors
from provider_uploads.lua import read_script
from provider_uploads.protocol import KEPT_S
from provider_uploads.settings import without_secrets

#: A row outlives the provider's file by a day.
ROW_KEPT_S: Final = KEPT_S + 24 * 3600


class Connection:
    """One Redis; thread-safe.

    Whatever uses it raises QueueUnavailableError when Redis cannot be reached or does not answer
    within ``timeout_s`` seconds.
    """

    def __init__(self, url: str, *, timeout_s: float = 2.0) -> None:
        self.server = without_secrets(url)
        self.redis = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # Trying again is the caller's decision, and it has a deadline.
            retry=Retry(NoBackoff(), 0),
        )

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()

    def script(self, *names: str) -> Script:
        """Return a script of the ledger's own ``.lua`` files."""
        return self.redis.register_script(read_script("provider_uploads.ledger", *names))

    def now(self) -> float:
        """Return the time on Redis's clock, in seconds since 1970."""
        with self.reached():
            seconds, micros = self.redis.time()
        return float(seconds + micros / 1e6)

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Turn what redis-py raises into QueueUnavailableError."""
        try:
            yield
        except RedisError as error:
            raise errors.QueueUnavailableError(self.server, type(error).__name__) from error
