"""A worker's request: its times are Redis's, whatever the clocks of both machines say."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from celery.worker.request import Request as CeleryRequest

from provider_uploads.fleet.redis_clock import redis_clock


def _here(at: datetime | None) -> datetime | None:
    """Return a time of Redis's clock as this machine's clock will show it."""
    return at if at is None else at + timedelta(seconds=redis_clock().ahead_s())


class Request(CeleryRequest):
    """Celery's, with the times of ``UploadsApp.now`` read back."""

    _eta: datetime | None

    @property
    def eta(self) -> Any:
        """When to run it, by this machine's clock."""
        return _here(self._eta)

    @property
    def expires(self) -> Any:
        """When to drop it, by this machine's clock."""
        return _here(self._expires)

    @expires.setter
    def expires(self, value: Any) -> None:
        self._expires = value
