"""Lanes: which queue an upload goes to, and which a worker leaves alone."""

from __future__ import annotations

import pytest

from provider_uploads.lanes import LaneCycle, Lanes, Waiting, waiting
from provider_uploads.ledger import Ledger
from provider_uploads.limits import Turn


class TestQueues:
    def test_a_profile_nobody_serves_takes_the_default_lane(self, ledger: Ledger) -> None:
        lanes = Lanes(ledger)
        assert lanes.queue_of("batch") == "transfer"
        assert lanes.queue_of("batch", bulk=True) == "transfer.bulk"
        lanes.serve(["default", "batch"])
        assert lanes.queue_of("batch") == "transfer@batch"
        assert lanes.queue_of("batch", bulk=True) == "transfer@batch.bulk"
        assert lanes.queue_of("default") == "transfer"

    def test_a_lane_is_remembered_when_nobody_serves_it_any_more(self, ledger: Ledger) -> None:
        lanes = Lanes(ledger)
        assert lanes.queues() == ["transfer", "transfer.bulk", "control"]
        lanes.serve(["batch"])
        ledger.redis.delete("provider_uploads:lane:batch")
        assert lanes.queue_of("batch") == "transfer"
        assert {"transfer@batch", "transfer@batch.bulk"} < set(lanes.queues())


class TestFull:
    def filled(self, slots: int, turns: list[Turn]) -> bool:
        here = Waiting(slots)
        for number, turn in enumerate(turns):
            here.note("transfer", number, turn)
        assert not here.full("transfer@other")
        return here.full("transfer")

    @pytest.mark.parametrize(
        ("slots", "turns", "full"),
        [
            (16, [], False),
            (16, [Turn(60, "", 1)] * 3, False),
            (16, [Turn(60, "", 1)] * 4, True),
            (16, [Turn(0.1, "", 1)] * 4, True),  # one after another they take four seconds
            (16, [Turn(0.1, "", 0.05)] * 16, False),  # all of them have gone within a second
            (16, [Turn(5, "", 0)] * 4, True),  # a cool-down where there is no rate
            (1, [Turn(5, "", 1)], True),
        ],
    )
    def test_when_its_uploads_hold_slots_only_to_wait(
        self, slots: int, turns: list[Turn], full: bool
    ) -> None:
        assert self.filled(slots, turns) is full

    def test_who_goes_counts_no_more(self) -> None:
        here = Waiting(4)
        with here.of("transfer") as waiter:
            waiter.waits_for(Turn(5, "", 1))
            assert here.full("transfer")
        assert not here.full("transfer")


def test_a_worker_asks_the_lanes_in_turn_and_leaves_out_those_that_are_full() -> None:
    cycle = LaneCycle(["a", "b", "c"])
    assert cycle.consume(3) == ["a", "b", "c"]
    cycle.rotate("a")
    assert cycle.consume(3) == ["b", "c", "a"]
    with waiting.of("c") as waiter:
        waiter.waits_for(Turn(5, "", 1))
        assert cycle.consume(3) == ["b", "a"]
    assert cycle.consume(3) == ["b", "c", "a"]
