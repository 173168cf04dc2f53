"""What the fleet knows of the jobs at a provider: one list for all who wait.

    provider_uploads:batch_watch:<profile>          jobs by name as the last list had them, and when
    provider_uploads:batch_active:<profile>         those of them that had not ended, and ours since
    provider_uploads:batch_open:<profile>           our jobs that have not ended
    provider_uploads:batch_tokens:<profile>:<model> estimated tokens of our open jobs
    provider_uploads:batch_full:<profile>:<model>   what the service said when it had no room for a
                                                    job's tokens; there until the next try
    provider_uploads:batch_freed:<profile>:<model>  when a job of ours that has ended last left room

A list costs a request for every hundred jobs of the account, a single job one request. Whichever
is cheaper is asked, and lists no more often than one request every ``list_every_s`` seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from provider_uploads import protocol
from provider_uploads.ledger.connection import ROW_KEPT_S
from provider_uploads.ledger.steps import reply
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.lua import LuaScript
from provider_uploads.providers.base import BatchCalls
from provider_uploads.schemas import BatchJob, JobPart

_ENDED: Final = LuaScript("provider_uploads.fleet", "batch_ended")
_REFUSED: Final = LuaScript("provider_uploads.fleet", "batch_refused")

_AT: Final = "@at"
_PAGES: Final = "@pages"
_KEPT_S: Final = 3600
#: No job is open for longer.
_FREED_KEPT_S: Final = int(protocol.BATCH_EXPIRY_S)


class BatchWatch:
    """The jobs of all profiles; thread-safe; raises QueueUnavailableError as the ledger does."""

    def __init__(self, ledger: Ledger, *, list_every_s: float, lease_s: float) -> None:
        self._ledger = ledger
        self._redis = ledger.redis
        self._list_every_s = list_every_s
        self._lease_s = lease_s

    # -- our open jobs -------------------------------------------------------------------------

    def opened(self, profile: str, job: BatchJob, tokens: int) -> None:
        """Take note of a job of ours that was created, or found."""
        with self._ledger.reached(), self._redis.pipeline() as pipe:
            pipe.sadd(_open_key(profile), job.name)
            pipe.hset(_tokens_key(profile, job.model or ""), job.name, str(tokens))
            if not job.ended:
                pipe.hset(_key(profile), job.name, job.model_dump_json())
                pipe.sadd(_active_key(profile), job.name)
                pipe.expire(_active_key(profile), _KEPT_S)
            for key in (_open_key(profile), _tokens_key(profile, job.model or "")):
                pipe.expire(key, ROW_KEPT_S)
            pipe.execute()

    def ended(self, profile: str, model: str, names: Sequence[str]) -> None:
        """Take note of jobs of ours that have ended: there is room for others."""
        if names:
            given = [_FREED_KEPT_S, *names]
            self._ledger.run(reply(_ENDED.command(_room_keys(profile, model), given)))

    def refused(self, profile: str, model: str, job: JobPart, said: str, wait_s: float) -> None:
        """Take note that the service had no room for a job's tokens: no other try for so long.

        Where one of ours has ended since it was created, the next may be tried at once.
        """
        given = [job.name, job.created_at or 0.0, said, max(int(wait_s * 1000), 1)]
        self._ledger.run(reply(_REFUSED.command(_room_keys(profile, model), given)))

    def tokens(self, profile: str, model: str) -> int:
        """Return the estimated tokens of our open jobs for one model."""
        with self._ledger.reached():
            return sum(map(int, self._redis.hvals(_tokens_key(profile, model))))

    def full_until(self, profile: str, model: str) -> tuple[str, float] | None:
        """Return what the service said, and when to try again (Redis's clock); None: now."""
        with self._ledger.reached(), self._redis.pipeline() as pipe:
            pipe.get(_full_key(profile, model))
            pipe.pttl(_full_key(profile, model))
            pipe.time()
            said, left_ms, (seconds, _) = pipe.execute()
        return None if said is None else (str(said), int(seconds) + max(int(left_ms), 0) / 1000)

    # -- what the provider says ----------------------------------------------------------------

    def cheaper_alone(self, profile: str, jobs: int) -> bool:
        """Whether it costs less to ask for each of our open jobs than for the list."""
        with self._ledger.reached(), self._redis.pipeline(transaction=False) as pipe:
            pipe.scard(_open_key(profile))
            pipe.hget(_key(profile), _PAGES)
            ours, pages = pipe.execute()
        return max(int(ours), jobs) <= int(pages or 1)

    def age_s(self, profile: str) -> float | None:
        """Return how old the last list is; None without one."""
        with self._ledger.reached():
            at = self._redis.hget(_key(profile), _AT)
        return None if at is None else self._ledger.now() - float(at)

    def fresh(self, profile: str) -> bool:
        """Whether the last list is so young that there may be no other yet."""
        with self._ledger.reached():
            pages = self._redis.hget(_key(profile), _PAGES)
        age_s = self.age_s(profile)
        return age_s is not None and age_s < self._list_every_s * max(int(pages or 1), 1)

    def known(self, profile: str, names: Sequence[str]) -> dict[str, BatchJob]:
        """Return those jobs that the last list had."""
        with self._ledger.reached():
            found = self._redis.hmget(_key(profile), [*names]) if names else []
        return {
            name: BatchJob.model_validate_json(text)
            for name, text in zip(names, found, strict=True)
            if text
        }

    def active(self, profile: str) -> int:
        """Return how many jobs of the account are open: by the last list, and created since."""
        with self._ledger.reached():
            return int(self._redis.scard(_active_key(profile)))

    @contextmanager
    def listing(self, profile: str) -> Iterator[bool | None]:
        """Hold the right to list; yields False where somebody else is at it.

        None says that nobody needs to: somebody else has just done so.
        """
        with self._ledger.lease(f"batch-list:{profile}", self._lease_s) as lease:
            yield None if lease and self.fresh(profile) else lease is not None

    def refresh(self, profile: str, calls: BatchCalls) -> list[BatchJob]:
        """Ask for all jobs and take note of them; return them."""
        at = self._ledger.now()
        pages = [*calls.list()]
        jobs = [job for page in pages for job in page]
        key = _key(profile)
        rows: dict[Any, Any] = {job.name: job.model_dump_json() for job in jobs}
        with self._ledger.reached(), self._redis.pipeline() as pipe:
            pipe.delete(key)
            pipe.hset(key, mapping={_AT: str(at), _PAGES: str(len(pages)), **rows})
            pipe.expire(key, _KEPT_S)
            pipe.delete(_active_key(profile))
            if active := [job.name for job in jobs if not job.ended]:
                pipe.sadd(_active_key(profile), *active)
                pipe.expire(_active_key(profile), _KEPT_S)
            pipe.execute()
        return jobs


def _key(profile: str) -> str:
    return f"{protocol.KEY_PREFIX}batch_watch:{profile}"


def _active_key(profile: str) -> str:
    return f"{protocol.KEY_PREFIX}batch_active:{profile}"


def _open_key(profile: str) -> str:
    return f"{protocol.KEY_PREFIX}batch_open:{profile}"


def _tokens_key(profile: str, model: str) -> str:
    return f"{protocol.KEY_PREFIX}batch_tokens:{profile}:{model.removeprefix('models/')}"


def _room_keys(profile: str, model: str) -> list[str]:
    freed = f"{protocol.KEY_PREFIX}batch_freed:{profile}:{model.removeprefix('models/')}"
    ours, account = _open_key(profile), _active_key(profile)
    return [ours, _tokens_key(profile, model), account, _full_key(profile, model), freed]


def _full_key(profile: str, model: str) -> str:
    return f"{protocol.KEY_PREFIX}batch_full:{profile}:{model.removeprefix('models/')}"
