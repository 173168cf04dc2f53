"""Room for one more job: what the tier allows, and what the service says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from celery import Task

from config.policy import policy
from config.tiers import tier_of
from provider_uploads.backoff import SHORTEST_S, Backoff
from provider_uploads.ledger.batch_state import BatchState
from tasks.batches import calls_of
from tasks.connections import batch_watch, batches, ledger, provider
from tasks.later import retry_later


@contextmanager
def room(task: Task[Any, Any], row: BatchState) -> Iterator[None]:
    """Hold the right to create a job while there is room for one; else retry later."""
    profile = row.request.profile
    tier = tier_of(profile)
    limited = tier.batch_jobs is not None or row.request.model in tier.batch_tokens
    # Where a job bears no name of ours, no two may be created at once: see _found.
    if not limited and provider(profile).capabilities.keeps_batch_names:
        yield
        return
    with ledger().lease(f"batch-room:{profile}", policy.lease_s) as lease:
        if lease is None:
            retry_later(task, Backoff(policy.batch_look_first_s, jitter=0.5).delay(0))
        check_room(task, row)
        yield


def check_room(task: Task[Any, Any], row: BatchState) -> None:
    """Retry later while the account has as many jobs, or tokens in them, as its tier allows."""
    profile, model = row.request.profile, row.request.model
    tier = tier_of(profile)
    if (full := batch_watch().full_until(profile, model)) is not None:
        said, until = full
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(until))
        _wait(task, row, f"the service has no room for tokens of {model} until {at}: {said}")
    if tier.batch_jobs is not None and _open_jobs(row, tier.batch_jobs) >= tier.batch_jobs:
        _wait(task, row, f"all {tier.batch_jobs} batch jobs of the account are taken")
    limit = tier.batch_tokens.get(model)
    if limit is not None and (row.tokens or 0) <= limit:
        used = batch_watch().tokens(profile, model)
        if used + (row.tokens or 0) > limit:
            _wait(task, row, f"about {used:,} of {limit:,} enqueued tokens of {model} are taken")


def _open_jobs(row: BatchState, limit: int) -> int:
    """Return how many jobs are open, from a list that is young enough to say so."""
    profile, watch = row.request.profile, batch_watch()
    age_s = watch.age_s(profile)
    if age_s is None or (not watch.fresh(profile) and watch.active(profile) >= limit):
        with watch.listing(profile) as mine:
            if mine:
                watch.refresh(profile, calls_of(row))
    return watch.active(profile)


def _wait(task: Task[Any, Any], row: BatchState, why: str) -> NoReturn:
    batches().note(row.ticket, f"waits: {why}")
    apart_s = batches().count_open() * policy.batch_look_apart_s
    waits = Backoff(max(apart_s, SHORTEST_S), jitter=policy.batch_look_jitter)
    retry_later(task, max(policy.batch_looks.delay(task.request.retries), waits.delay(0)))
