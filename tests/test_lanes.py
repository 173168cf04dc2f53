"""Queues: which queue an upload goes to, and which a worker leaves alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from provider_uploads.fleet.limits import Permit
from provider_uploads.fleet.queue_cycle import QueueCycle
from provider_uploads.fleet.queues import Queues
from provider_uploads.fleet.slots import Slots, Waiter, slots
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.protocol import PriorityQueue
from tests.nodes import wait_until


class TestQueues:
    def test_a_profile_nobody_serves_takes_the_default_lane(self, ledger: Ledger) -> None:
        lanes = Queues(ledger)
        assert lanes.queue_of("batch") == "transfer"
        assert lanes.queue_of("batch", PriorityQueue.BULK) == "transfer.bulk"
        lanes.serve(["default", "batch"])
        assert lanes.queue_of("batch") == "transfer@batch"
        assert lanes.queue_of("batch", PriorityQueue.BULK) == "transfer@batch.bulk"
        assert lanes.queue_of("batch", PriorityQueue.QUESTIONS) == "transfer@batch.questions"
        assert lanes.queue_of("default") == "transfer"

    def test_a_lane_is_remembered_when_nobody_serves_it_any_more(self, ledger: Ledger) -> None:
        lanes = Queues(ledger)
        assert lanes.queues() == [*("transfer", "transfer.bulk", "transfer.questions", "control")]
        lanes.serve(["batch"])
        ledger.redis.delete("provider_uploads:lane:batch")
        assert lanes.queue_of("batch") == "transfer"
        assert {"transfer@batch", "transfer@batch.bulk"} < set(lanes.queues())


def turns(here: Slots, queue: str, *given: Permit) -> list[Waiter]:
    """Let tasks hold slots to wait for turns."""
    waiters = [Waiter(here, queue) for _ in given]
    for waiter, turn in zip(waiters, given, strict=True):
        waiter.waits_for(turn)
    return waiters


class TestFull:
    @pytest.mark.parametrize(
        ("slots", "given", "full"),
        [
            (16, [], False),
            (16, [Permit(60, "", 1)] * 3, False),
            (16, [Permit(60, "", 1)] * 4, True),
            (16, [Permit(0.1, "", 1)] * 4, True),  # one after another they take four seconds
            (16, [Permit(0.1, "", 0.05)] * 16, False),  # all of them have gone within a second
            (16, [Permit(5, "", 0)] * 4, True),  # a cool-down where there is no rate
            (1, [Permit(5, "", 1)], True),
            (None, [Permit(60, "", 1)] * 16, False),  # the slots are other processes
        ],
    )
    def test_when_its_uploads_hold_slots_only_to_wait(
        self, slots: int | None, given: list[Permit], full: bool
    ) -> None:
        here = Slots(slots)
        turns(here, "transfer", *given)
        assert not here.skip("transfer@other")
        assert here.skip("transfer") is full

    def test_who_goes_counts_no_more(self) -> None:
        here = Slots(4)
        with here.waiter("transfer") as waiter:
            waiter.waits_for(Permit(5, "", 1))
            assert here.skip("transfer")
        assert not here.skip("transfer")

    def test_for_a_while_after_one_gave_its_slot_away(self) -> None:
        here = Slots(8)
        here.pause("transfer", 0.05)
        here.pause("transfer", 0.01)
        assert here.skip("transfer")
        wait_until(lambda: not here.skip("transfer"), "its end")

    def test_when_as_many_are_away_as_there_are_slots(self) -> None:
        here = Slots(2)
        here.retried("transfer", 60)
        here.retried("transfer", 0.05)
        assert here.skip("transfer")
        wait_until(lambda: not here.skip("transfer"), "the return of one")


class TestStaying:
    """Which of a worker's slots may be held for long waits."""

    @pytest.mark.parametrize(
        ("slots", "of_a_lane", "of_all"), [(16, 4, 8), (8, 2, 4), (4, 1, 2), (2, 1, 1), (1, 0, 0)]
    )
    def test_a_quarter_for_a_lane_and_half_for_all(
        self, slots: int, of_a_lane: int, of_all: int
    ) -> None:
        here = Slots(slots)
        names = ["transfer", "transfer.bulk", "transfer.questions"]
        stay = {
            name: sum(
                waiter.may_wait() for waiter in turns(here, name, *[Permit(60, "", 1)] * slots)
            )
            for name in names
        }
        assert stay["transfer"] == of_a_lane
        assert sum(stay.values()) == of_all

    def test_who_may_may_and_another_when_it_has_gone(self) -> None:
        here = Slots(4)
        with here.waiter("transfer") as first, here.waiter("transfer") as second:
            assert first.may_wait()
            assert not second.may_wait()
            assert first.may_wait()
        with here.waiter("transfer") as third:
            assert third.may_wait()

    def test_all_where_slots_are_processes(self) -> None:
        here = Slots(None)
        assert all(waiter.may_wait() for waiter in turns(here, "transfer", *[Permit(9, "", 1)] * 9))


@pytest.fixture
def four_slots() -> Iterator[None]:
    before, slots.count = slots.count, 4
    yield
    slots.count = before


@pytest.mark.usefixtures("four_slots")
def test_a_worker_asks_the_lanes_in_turn_and_leaves_out_those_that_are_full() -> None:
    cycle = QueueCycle(["a", "b", "c"])
    assert cycle.consume(3) == ["a", "b", "c"]
    cycle.rotate("a")
    assert cycle.consume(3) == ["b", "c", "a"]
    with slots.waiter("c") as waiter:
        waiter.waits_for(Permit(5, "", 1))
        assert cycle.consume(3) == ["b", "a"]
    assert cycle.consume(3) == ["b", "c", "a"]
