"""Rate limits: what a permit costs, and how much of an allowed rate a worker uses."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import redis

from benchmarks.figures import Figure, Series
from benchmarks.harness import harness, redis_alone
from benchmarks.plan import Plan, Step
from benchmarks.small_files import write_files
from benchmarks.submission import times_ms
from provider_uploads.fleet.limits import Limits
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.uploads import Ledger

_BENCHMARK = "rate limits"


def limits(plan: Plan, step: Step) -> list[Figure]:
    """Take permits that are free, and then upload under a rate that the provider counts too."""
    return [_cost(plan, step), *_use(plan, step)]


def _cost(plan: Plan, step: Step) -> Figure:
    takes, pings = [], []
    with redis_alone() as (_, url), redis.Redis.from_url(url) as client:
        ledger = Ledger(url)
        permits = Limits(ledger, lambda profile, work: "1000000/s")

        def take() -> None:
            permits.acquire("default", Work.UPLOAD)

        take()
        client.ping()
        for number in range(plan.rounds):
            step(f"permits, round {number + 1} of {plan.rounds}")
            takes.append(_p50_us(take, plan.submits))
            pings.append(_p50_us(client.ping, plan.submits))
        ledger.close()
    what = f"one permit, p50 of {plan.submits}"
    return Figure(
        _BENCHMARK, what, "µs", "less", Series.of(takes), "Redis PING, p50", Series.of(pings)
    )


def _p50_us(call: Callable[[], object], count: int) -> float:
    return statistics.median(times_ms(call, count)) * 1000


def _use(plan: Plan, step: Step) -> list[Figure]:
    limit, count = plan.limit_per_minute, plan.limited_files
    with harness(uploads_per_minute=limit) as here:
        paths = write_files(here.folder, count, ".txt")
        step(f"{count} uploads at {limit} a minute")
        delivery = here.deliver(paths)
        counters = here.provider.counters()
    begun = sorted(result.queued_s for result in delivery.results)
    span_s = begun[-1] - begun[0]
    used = (count - 1) / span_s * 60 / limit * 100
    most = f"most in any 60 s of the {limit} allowed"
    refused = float(counters["operations"]["upload"]["by_status"].get("429", 0))
    return [
        Figure(
            _BENCHMARK,
            f"of {limit} uploads a minute used, over {span_s:.0f} s",
            "%",
            "more",
            Series.of([used]),
        ),
        Figure(
            _BENCHMARK, most, "", "more", Series.of([float(counters["most_in_60_s"]["upload"])])
        ),
        Figure(_BENCHMARK, "refused with 429", "", "less", Series.of([refused])),
    ]
