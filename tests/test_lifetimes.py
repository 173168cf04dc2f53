"""How long what we keep is kept: the numbers themselves, in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from provider_uploads.backoff import Backoff
from provider_uploads.fleet.breaker import Breaker
from provider_uploads.fleet.limits import Limits
from provider_uploads.fleet.queues import Queues
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.deduplication import Deduplication, claim_key
from provider_uploads.ledger.questions import opening
from provider_uploads.ledger.steps import commands
from provider_uploads.ledger.storage import Storage
from provider_uploads.ledger.upload_steps import row_key
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.protocol import KEY_PREFIX
from provider_uploads.questions import question_for
from provider_uploads.requests import request_for

HOUR = 3600
#: A call takes less than this.
MOMENT = 2.0


@pytest.fixture
def ticket(ledger: Ledger, make_file: Callable[..., Path]) -> str:
    request = request_for(make_file())
    ledger.open([request])
    return request.upload_id


def lives_s(ledger: Ledger, key: str) -> int:
    left = ledger.redis.ttl(key)
    assert left > 0, f"{key} lives for ever, or not at all"
    return int(left)


def test_a_row_outlives_its_file_by_a_day(ledger: Ledger, ticket: str) -> None:
    assert 72 * HOUR - MOMENT <= lives_s(ledger, row_key(ticket)) <= 72 * HOUR
    ledger.redis.expire(row_key(ticket), 5)
    ledger.note(ticket, "x")  # every change begins anew
    assert lives_s(ledger, row_key(ticket)) >= 72 * HOUR - MOMENT


def test_a_question_lives_as_long_as_a_row(ledger: Ledger) -> None:
    question = question_for("?", [])
    ledger.run(commands(opening(question)))
    key = f"{KEY_PREFIX}question:{question.question_id}"
    assert 72 * HOUR - MOMENT <= lives_s(ledger, key) <= 72 * HOUR


def test_a_claim_lives_as_long_as_a_row(ledger: Ledger, ticket: str) -> None:
    row = ledger.content(ledger.read(ticket), "a" * 64, 1000)
    assert row
    Deduplication(ledger).claim(row)
    assert 72 * HOUR - MOMENT <= lives_s(ledger, claim_key(row)) <= 72 * HOUR


def test_reserved_storage_is_free_again_when_the_file_has_expired(
    ledger: Ledger, ticket: str
) -> None:
    before = ledger.now()
    assert Storage(ledger).reserve("default", ticket, 10, 100) == 0
    expires_at = ledger.redis.zscore(f"{KEY_PREFIX}stored:default", ticket)
    assert expires_at is not None
    assert 48 * HOUR <= expires_at - before < 48 * HOUR + MOMENT


def test_failures_ten_minutes_apart_are_not_consecutive(ledger: Ledger) -> None:
    breaker = Breaker(ledger, failures=5, probes=Backoff(1.0))
    breaker.record_failure("default", breaker.check("default"))
    assert 600 - MOMENT <= lives_s(ledger, f"{KEY_PREFIX}breaker:default") <= 600


def test_permits_are_forgotten_after_two_days(ledger: Ledger) -> None:
    Limits(ledger, lambda profile, work: "60/m").acquire("default", Work.UPLOAD)
    assert 48 * HOUR - MOMENT <= lives_s(ledger, f"{KEY_PREFIX}turns:default:upload") <= 48 * HOUR


def test_a_profile_without_workers_has_queues_for_an_hour(ledger: Ledger) -> None:
    Queues(ledger).serve(["batch"])
    assert HOUR - MOMENT <= lives_s(ledger, f"{KEY_PREFIX}lane:batch") <= HOUR


def test_a_lease_is_renewed_after_a_third_of_its_life(ledger: Ledger) -> None:
    begun = time.monotonic()
    with ledger.lease("t", 30.0) as lease:
        assert lease
        assert 10.0 <= lease.renewal_due_at - begun < 10.0 + MOMENT
        later = time.monotonic()
        lease.renew()
        assert 10.0 <= lease.renewal_due_at - later < 10.0 + MOMENT
        assert 30.0 - MOMENT <= lives_s(ledger, f"{KEY_PREFIX}lease:t") <= 30
