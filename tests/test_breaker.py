"""The breaker: closed, open with one probe at a time, closed by one success."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from provider_uploads import Stage, UploadQueue
from provider_uploads.backoff import Backoff
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.fleet.breaker import Breaker, BreakerState, outage
from provider_uploads.ledger.uploads import Ledger
from tests.conftest import KEY
from tests.nodes import wait_until

GO = BreakerState(wait_s=0.0, failing=False, probe=False)


@pytest.fixture
def breaker(ledger: Ledger) -> Breaker:
    return Breaker(ledger, failures=3, probes=Backoff(0.2, 2.0, 0.4))


def opened(breaker: Breaker) -> None:
    assert [breaker.record_failure("default", breaker.check("default")) for _ in range(3)] == [
        False,
        False,
        True,
    ]


def test_closed_costs_one_round_trip_and_writes_nothing(breaker: Breaker, redis_url: str) -> None:
    assert breaker.check("default") == GO
    breaker.record_success("default", GO)
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("*") == []


def test_an_outage_is_told_from_its_beginning_to_its_end(breaker: Breaker, ledger: Ledger) -> None:
    permit = breaker.check("default")
    breaker.record_failure("default", permit)
    assert outage(ledger, "default") is None  # trouble, and no outage yet
    breaker.record_failure("default", permit)
    breaker.record_failure("default", permit)
    first = outage(ledger, "default")
    assert first
    assert 0 <= first.lasted_s < 5
    assert 0 <= first.next_probe_s <= 0.2

    def probed() -> bool:
        permit = breaker.check("default")
        return permit.probe and breaker.record_failure("default", permit)

    wait_until(probed, "a probe that fails")
    later = outage(ledger, "default")
    assert later
    assert later.lasted_s > first.lasted_s  # a probe that fails begins no new one
    breaker.record_success("default", BreakerState(wait_s=0, failing=True, probe=True))
    assert outage(ledger, "default") is None


def test_a_success_between_failures_starts_the_count_again(breaker: Breaker) -> None:
    for _ in range(4):
        breaker.record_failure("default", breaker.check("default"))
        breaker.record_failure("default", breaker.check("default"))
        permit = breaker.check("default")
        assert (permit.wait_s, permit.failing) == (0.0, True)
        breaker.record_success("default", permit)


def test_open_lets_one_probe_at_a_time_through(breaker: Breaker) -> None:
    opened(breaker)
    assert 0 < breaker.check("default").wait_s <= 0.2
    assert breaker.check("other") == GO
    wait_until(lambda: breaker.check("default").probe, "the first probe", 2)
    start, said = threading.Barrier(8), list[BreakerState]()

    def ask() -> None:
        start.wait()
        said.append(breaker.check("default"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(permit.probe for permit in said)
    assert all(permit.wait_s > 0 for permit in said)


def test_probes_come_at_growing_intervals(breaker: Breaker) -> None:
    opened(breaker)
    wait_until(lambda: breaker.check("default").probe, "the first probe", 2)
    assert breaker.record_failure("default", BreakerState(0.0, failing=True, probe=True))
    assert 0.2 < breaker.check("default").wait_s <= 0.4
    # Those who asked before it opened say nothing new.
    before = breaker.check("default").wait_s
    assert breaker.record_failure("default", BreakerState(0.0, failing=True, probe=False))
    assert breaker.check("default").wait_s <= before


def test_a_probe_that_works_closes_it(breaker: Breaker) -> None:
    opened(breaker)
    permit = wait_until(lambda: (p := breaker.check("default")).probe and p, "the probe", 2)
    assert isinstance(permit, BreakerState)
    breaker.record_success("default", permit)
    assert breaker.check("default") == GO


class TestOutage:
    """A public outage: everything about files answers 500, for longer than all tries."""

    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=0.2, api_keys=frozenset({KEY}))

    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {
            "PROVIDER_UPLOADS_UPLOAD_TRIES": "3",
            "PROVIDER_UPLOADS_BREAKER_FAILURES": "2",
            "PROVIDER_UPLOADS_BREAKER_PROBE_FIRST_S": "0.3",
            "PROVIDER_UPLOADS_BREAKER_PROBE_MAX_S": "0.3",
        }

    def test_nothing_fails_for_good_and_nobody_hammers(
        self, queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path]
    ) -> None:
        every = (Operation.START, Operation.UPLOAD, Operation.QUERY, Operation.GET)
        outage = gemini.order_outage(operations=every, kind=FaultKind.UNAVAILABLE)
        options: dict[str, Any] = {"poll_s": 0.1, "jitter_s": 0}
        tickets = [queue.submit(make_file(f"{n}.mp4"), **options) for n in range(12)]

        def starts() -> int:
            return int(gemini.counters()["operations"]["start"]["requests"])

        def said() -> bool:
            notes = [status.note or "" for status in queue.statuses(tickets)]
            return all("Files service of profile 'default' is down" in note for note in notes)

        # All begin together; then it is open, and there is a probe every 0.3 s.
        wait_until(said, "everybody to know")
        begun, before = time.monotonic(), starts()
        wait_until(lambda: starts() >= before + 6, "some probes", 20)
        assert time.monotonic() - begun > 1.0  # 36 tries at once would be over by now
        # UPLOADING are those whose one request failed: the file may be there all the same.
        stages = {status.stage for status in queue.statuses(tickets)}
        assert stages <= {Stage.QUEUED, Stage.UPLOADING}
        gemini.end_fault(outage["id"])
        assert {queue.result(ticket, timeout_s=30).state for ticket in tickets} == {"ACTIVE"}
        assert len(gemini.files()) == 12
