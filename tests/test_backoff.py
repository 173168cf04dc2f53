"""Backoff: the waits are what was asked for, for every attempt there can be."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_uploads.backoff import SHORTEST_S, Backoff

seconds = st.floats(SHORTEST_S, 1e6)
factors = st.floats(1, 100)
attempts = st.integers(0, 10_000)
caps = st.one_of(st.none(), seconds)
jitters = st.floats(0, 1000)


def test_an_example() -> None:
    waits = [Backoff(2.0, 1.5, 10.0).delay(attempt) for attempt in range(6)]
    assert waits == [2.0, 3.0, 4.5, 6.75, 10.0, 10.0]


@given(seconds, factors, st.integers(0, 20))
def test_without_jitter_and_cap_it_is_exact(first_s: float, factor: float, attempt: int) -> None:
    expected = min(first_s * factor**attempt, 365 * 86_400.0)
    assert Backoff(first_s, factor).delay(attempt) == expected


@given(seconds, factors, caps, attempts)
def test_waits_never_get_shorter(
    first_s: float, factor: float, max_s: float | None, attempt: int
) -> None:
    backoff = Backoff(first_s, factor, max_s)
    assert backoff.delay(attempt) <= backoff.delay(attempt + 1)


@given(seconds, factors, caps, jitters, attempts)
def test_jitter_spreads_within_its_bounds(
    first_s: float, factor: float, max_s: float | None, jitter_s: float, attempt: int
) -> None:
    exact = Backoff(first_s, factor, max_s).delay(attempt)
    backoff = Backoff(first_s, factor, max_s, jitter_s)
    assert max(exact - jitter_s, SHORTEST_S) <= backoff.delay(attempt) <= exact + jitter_s
    # Both ends can be reached, and the middle is the exact wait.
    assert backoff.delay(attempt, lambda low, high: low) == max(exact - jitter_s, SHORTEST_S)
    assert backoff.delay(attempt, lambda low, high: high) == exact + jitter_s
    assert backoff.delay(attempt, lambda low, high: (low + high) / 2) == exact


@given(seconds, factors, seconds, attempts)
def test_the_cap_holds(first_s: float, factor: float, max_s: float, attempt: int) -> None:
    assert Backoff(first_s, factor, max_s).delay(attempt) <= max_s


@given(seconds, factors, jitters, st.integers(0, 10**6))
def test_every_wait_fits_a_date(
    first_s: float, factor: float, jitter_s: float, attempt: int
) -> None:
    wait_s = Backoff(first_s, factor, None, jitter_s).delay(attempt)
    assert math.isfinite(wait_s)
    assert datetime.now(UTC) + timedelta(seconds=wait_s) > datetime.now(UTC)


@pytest.mark.parametrize("first_s", [0.0, 1e-9, 0.001])
def test_no_wait_is_shorter_than_the_shortest(first_s: float) -> None:
    assert Backoff(first_s).delay(0) == SHORTEST_S
    assert Backoff(0.05, jitter_s=10.0).delay(0, lambda low, high: low) == SHORTEST_S


def test_jitter_differs_from_one_wait_to_the_next() -> None:
    backoff = Backoff(10.0, jitter_s=5.0)
    waits = [backoff.delay(0) for _ in range(200)]
    assert len(set(waits)) > 100
    assert min(waits) < 7 < 13 < max(waits)
