"""Celery's results in Redis, with as few round trips as they need.

Celery writes a row for every retry, with a traceback that nobody reads, and reads a result before
it writes one. How an upload stands is in the ledger; a result is written once.
"""

from __future__ import annotations

from typing import Any

from celery import states
from celery.backends.redis import RedisBackend

from provider_uploads.ledger.finish import StoredResult

_CelerysBackend: Any = RedisBackend


class Results(_CelerysBackend):  # type: ignore[misc]
    """Celery's Redis backend; what it writes is what Celery's own clients read."""

    def mark_as_retry(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing: a retry is no result."""

    def _store_result(
        self, task_id: str, result: Any, state: str, *args: Any, request: Any = None, **kwargs: Any
    ) -> Any:
        if state != states.SUCCESS:  # it may be there already, and is not to be overwritten
            return super()._store_result(task_id, result, state, *args, request=request, **kwargs)
        stored = self.success(task_id, result, request)
        self.set(stored.key, stored.text)
        return result

    def success(self, task_id: str, result: Any, request: Any = None) -> StoredResult:
        """Return what is stored of a good end, for a script that stores it with other things."""
        meta = self._get_result_meta(
            result=result, state=states.SUCCESS, traceback=None, request=request
        )
        meta["task_id"] = task_id
        key = self.get_key_for_task(task_id)
        return StoredResult(
            key.decode() if isinstance(key, bytes) else key, self.encode(meta), int(self.expires)
        )
