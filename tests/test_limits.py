"""Turns under a rate: spaced on Redis's clock, for everybody who asks, whatever they are."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from provider_uploads.backoff import Backoff
from provider_uploads.fleet.limits import BACK_OFF, Horizon, Limits, Permit
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.protocol import KEY_PREFIX

Made = Callable[..., Limits]


@pytest.fixture
def limits(ledger: Ledger) -> Made:
    def made(**rates: str | None) -> Limits:
        return Limits(ledger, lambda profile, work: rates.get(work.value))

    return made


def wait_for(limits: Limits, work: Work = Work.UPLOAD, profile: str = "default") -> None:
    """Go when it is our turn, as a worker does."""
    mark = ""
    while (turn := limits.acquire(profile, work, held=mark)).wait_s > 0:
        mark = turn.token
        time.sleep(turn.wait_s)


def reserved_at(turn: Permit) -> float:
    """Return when a turn is, on Redis's clock: however slowly this machine asked for it."""
    return float(turn.token.partition(":")[2])


def grants(url: str, rate: str, seconds: float, out: multiprocessing.Queue[list[float]]) -> None:
    limits = Limits(Ledger(url), lambda profile, work: rate)
    until, times = time.time() + seconds, []
    while time.time() < until:
        wait_for(limits)
        times.append(time.time())
    out.put(times)


class TestTurns:
    def test_the_first_goes_at_once_and_the_others_behind_it(self, limits: Made) -> None:
        made = limits(upload="60/m")
        turns = [made.acquire("default", Work.UPLOAD) for _ in range(4)]
        assert turns[0].wait_s == 0
        assert turns[0].interval_s == pytest.approx(60 / (60 * 0.98), rel=1e-3)
        for before, after in pairwise(turns):
            step_s = reserved_at(after) - reserved_at(before)
            assert step_s == pytest.approx(turns[0].interval_s, abs=0.001)

    def test_so_many_at_once_that_no_minute_holds_more_than_the_rate(self, limits: Made) -> None:
        made = limits(upload="1200/m")
        begun = time.monotonic()
        turns = [made.acquire("default", Work.UPLOAD) for _ in range(1300)]
        took_s = time.monotonic() - begun
        at_once = sum(turn.wait_s == 0 for turn in turns)
        # The burst, and what time brought while we asked.
        assert 24 <= at_once <= 25 + took_s / turns[0].interval_s
        first = reserved_at(turns[0])
        in_a_minute = sum(reserved_at(turn) < first + 60 for turn in turns)
        assert 1200 * 0.95 <= in_a_minute <= 1200

    def test_no_rate_is_no_limit(self, limits: Made) -> None:
        made = limits(upload=None)
        turns = [made.acquire("default", Work.UPLOAD) for _ in range(100)]
        assert {turn.wait_s for turn in turns} == {0.0}

    def test_profiles_and_kinds_of_work_are_apart(self, limits: Made) -> None:
        made = limits(upload="1/m", poll="1/m")
        for profile in ("default", "batch"):
            for work in (Work.UPLOAD, Work.POLL):
                assert made.acquire(profile, work).wait_s == 0
                assert made.acquire(profile, work).wait_s > 50

    def test_what_is_held_is_not_taken_again(self, limits: Made) -> None:
        made = limits(upload="120/m")
        turn = next(
            turn for _ in range(100) if (turn := made.acquire("default", Work.UPLOAD)).wait_s > 0
        )
        assert turn.wait_s < 2 * turn.interval_s
        again = made.acquire("default", Work.UPLOAD, held=turn.token)
        assert (again.token, again.wait_s <= turn.wait_s) == (turn.token, True)
        time.sleep(turn.wait_s)
        assert made.acquire("default", Work.UPLOAD, held=turn.token).wait_s == 0
        assert made.acquire("default", Work.UPLOAD).wait_s == pytest.approx(
            turn.interval_s, abs=turn.interval_s
        )

    def test_a_turn_too_far_ahead_is_nobodys(self, limits: Made) -> None:
        made = limits(upload="60/m")
        first = made.acquire("default", Work.UPLOAD, ahead=Horizon(0.5))
        assert not first.wait_s
        assert not made.acquire("default", Work.UPLOAD, ahead=Horizon(0.5)).token
        ahead = Horizon(1.0, permits=2)
        near = [made.acquire("default", Work.UPLOAD, ahead=ahead) for _ in range(50)]
        assert [bool(turn.token) for turn in near] == [True] * 2 + [False] * 48
        # …so that one who may reserve any comes behind those three, and not behind fifty.
        last = made.acquire("default", Work.UPLOAD)
        assert reserved_at(last) - reserved_at(first) == pytest.approx(3.06, abs=0.1)

    def test_many_that_come_late_go_as_far_as_there_is_room(self, limits: Made) -> None:
        """A worker that was away would bring all of its turns at once, beside everybody's."""
        made = limits(upload="600/m")
        epoch = made.acquire("default", Work.UPLOAD).token.partition(":")[0]
        late = [f"{epoch}:{time.time() - 60 + n:.6f}" for n in range(50)]
        turns = [made.acquire("default", Work.UPLOAD, held=mark) for mark in late]
        at_once = [turn for turn in turns if turn.wait_s == 0]
        interval_s = turns[0].interval_s
        # As many as SPARE is for, and the burst of turns that are in time.
        assert 1.2 / interval_s <= len(at_once) <= 1.2 / interval_s + 12 + 2
        assert max(turn.wait_s for turn in turns) == pytest.approx(
            (50 - len(at_once)) * interval_s, abs=3 * interval_s
        )

    def test_one_that_comes_late_beside_many_in_time_takes_the_next(self, limits: Made) -> None:
        made = limits(upload="600/m")
        in_time = [made.acquire("default", Work.UPLOAD) for _ in range(40)]
        epoch = in_time[0].token.partition(":")[0]
        assert sum(turn.wait_s == 0 for turn in in_time) >= 12
        late = f"{epoch}:{time.time() - 5:.6f}"
        key, redis = f"{KEY_PREFIX}turns:default:upload", made._ledger.redis
        # However slow this machine: the rate is used up for five seconds to come.
        redis.hset(key, "used", str(time.time() + 5))
        again = made.acquire("default", Work.UPLOAD, held=late)
        assert again.token != late
        assert float(again.token.partition(":")[2]) == pytest.approx(
            float(in_time[-1].token.partition(":")[2]) + again.interval_s, abs=0.01
        )
        redis.hset(key, "used", str(time.time()))  # now nobody has used it
        assert made.acquire("default", Work.UPLOAD, held=late).wait_s == 0

    def test_three_processes_share_one_rate(self, redis_url: str) -> None:
        context = multiprocessing.get_context("spawn")
        out: multiprocessing.Queue[list[float]] = context.Queue()
        args = (redis_url, "3000/m", 3.0, out)
        processes = [context.Process(target=grants, args=args) for _ in range(3)]
        for process in processes:
            process.start()
        times = sorted(moment for _ in processes for moment in out.get(timeout=30))
        for process in processes:
            process.join()
        burst, interval_s = 60, 60 / (3000 * 0.98 - 59)
        for first, moment in enumerate(times):
            window = [t for t in times[first:] if t < moment + 1.0]
            assert len(window) <= burst + 1 / interval_s + 3  # and what our own clock adds


class TestCoolDown:
    @pytest.fixture
    def limits(self, ledger: Ledger) -> Made:
        """With waits of their own that are shorter than those that the tests name."""

        def made(**rates: str | None) -> Limits:
            return Limits(
                ledger, lambda profile, work: rates.get(work.value), Backoff(0.05, 2.0, 0.1)
            )

        return made

    def cooled(self, made: Limits, wait_s: float | None, turn: Permit | None = None) -> float:
        mark = turn.token if turn else ""
        return made.cool_down("default", Work.UPLOAD, wait_s, "the provider said so", mark)

    def test_everybody_waits_and_then_goes_one_by_one(self, limits: Made) -> None:
        made = limits(upload="6000/m")
        begun = time.time()
        assert self.cooled(made, 0.5) == pytest.approx(0.5, abs=0.01)
        asked = time.time()
        turns = [made.acquire("default", Work.UPLOAD) for _ in range(5)]
        assert begun + 0.5 <= reserved_at(turns[0]) + 0.001
        assert reserved_at(turns[0]) <= asked + 0.5
        steps = [after - before for before, after in pairwise(map(reserved_at, turns))]
        interval_s = 60 / (6000 * 0.98 * BACK_OFF)
        assert steps == pytest.approx([interval_s] * 4, abs=0.0001)
        assert made.acquire("other", Work.UPLOAD).wait_s == 0

    def test_turns_given_before_it_hold_no_more(self, limits: Made) -> None:
        made = limits(upload="60/m")
        made.acquire("default", Work.UPLOAD)
        waiting = made.acquire("default", Work.UPLOAD)
        self.cooled(made, 30.0)
        assert made.acquire("default", Work.UPLOAD, held=waiting.token).wait_s > 29

    def test_without_a_limit_too(self, limits: Made) -> None:
        made = limits(upload=None)
        self.cooled(made, 0.2)
        turn = made.acquire("default", Work.UPLOAD)
        assert turn.token == ""
        assert turn.wait_s == pytest.approx(0.2, abs=0.05)
        time.sleep(turn.wait_s)
        assert made.acquire("default", Work.UPLOAD).wait_s == 0

    def test_several_at_once_are_one(self, limits: Made) -> None:
        made = limits(upload="600/m")
        turns = [made.acquire("default", Work.UPLOAD) for _ in range(5)]
        for turn in turns:
            self.cooled(made, 0.1, turn)
        assert made.status("default", Work.UPLOAD).factor == pytest.approx(BACK_OFF)

    def test_the_longest_wait_holds(self, limits: Made) -> None:
        made = limits(upload="600/m")
        turns = [made.acquire("default", Work.UPLOAD) for _ in range(2)]
        assert self.cooled(made, 50.0, turns[0]) == pytest.approx(50, abs=0.1)
        assert self.cooled(made, 1.0, turns[1]) == pytest.approx(50, abs=0.1)

    @pytest.mark.parametrize("named", [0.0, 0.001, -5.0])
    @pytest.mark.parametrize("rate", ["60/m", None])
    def test_one_that_is_named_too_short_is_our_own(
        self, limits: Made, named: float, rate: str | None
    ) -> None:
        made = limits(upload=rate)
        assert self.cooled(made, named) == pytest.approx(0.05, abs=0.01)
        assert self.cooled(made, named) == pytest.approx(0.1, abs=0.01)
        # The one that was refused has had its turn.
        spaced = 60 / (60 * 0.98 * BACK_OFF**2) if rate else 0.1
        assert made.acquire("default", Work.UPLOAD).wait_s == pytest.approx(spaced, abs=0.1)

    def test_a_longer_hold_by_one_from_before_spaces_turns_too(self, limits: Made) -> None:
        made = limits(upload="600/m")
        old = [made.acquire("default", Work.UPLOAD) for _ in range(2)]
        self.cooled(made, 0.2, old[0])
        reserved = [made.acquire("default", Work.UPLOAD) for _ in range(20)]
        share = made.status("default", Work.UPLOAD).factor
        self.cooled(made, 5.0, old[1])
        assert made.status("default", Work.UPLOAD).factor == pytest.approx(share, abs=0.01)
        again = [made.acquire("default", Work.UPLOAD, held=turn.token) for turn in reserved]
        assert again[0].wait_s == pytest.approx(5, abs=0.2)
        for before, after in pairwise(again):
            step_s = reserved_at(after) - reserved_at(before)
            assert step_s == pytest.approx(before.interval_s, abs=0.001)

    def test_all_are_told_why(self, limits: Made) -> None:
        made = limits(upload="600/m")
        assert made.acquire("default", Work.UPLOAD).why == ""
        self.cooled(made, 5.0)
        assert made.acquire("default", Work.UPLOAD).why == "the provider said so"

    def test_a_wait_nobody_named_grows(self, ledger: Ledger) -> None:
        made = Limits(ledger, lambda profile, work: "600/m")
        waits = []
        for _ in range(3):
            waits.append(self.cooled(made, None))
            ledger.redis.hset("provider_uploads:turns:default:upload", "until", time.time())
        assert waits == pytest.approx([1, 2, 4], abs=0.1)
        key, long_ago = "provider_uploads:turns:default:upload", time.time() - 10
        ledger.redis.hset(key, "until", long_ago)
        assert self.cooled(made, None) == pytest.approx(1, abs=0.1)

    def test_what_was_thinned_out_fills_again(self, limits: Made, ledger: Ledger) -> None:
        made = limits(upload="600/m")
        for _ in range(3):
            self.cooled(made, 0.0)
        assert made.status("default", Work.UPLOAD).factor == pytest.approx(BACK_OFF**3, abs=0.01)
        ledger.redis.hincrbyfloat("provider_uploads:turns:default:upload", "share_at", -300)
        assert made.status("default", Work.UPLOAD).factor == pytest.approx(
            BACK_OFF**3 + 0.25, abs=0.01
        )
        ledger.redis.hincrbyfloat("provider_uploads:turns:default:upload", "share_at", -600)
        assert made.status("default", Work.UPLOAD).factor == 1.0


class TestRatesThatWereSet:
    def test_they_hold_for_all_who_ask(self, limits: Made, redis_url: str) -> None:
        made = limits(upload="60/m")
        waiting = [made.acquire("default", Work.UPLOAD) for _ in range(10)][-1]
        assert waiting.wait_s > 8
        Limits(Ledger(redis_url), lambda *_: "1/h").set_rate(
            Work.UPLOAD, "6000/m", profiles=["default"]
        )
        assert made.acquire("default", Work.UPLOAD, held=waiting.token).wait_s < 0.1
        assert made.status("default", Work.UPLOAD).rate == 6000
        assert made.status("default", Work.UPLOAD).tier_rate == 60
        assert made.status("default", Work.POLL).rate == 0

    def test_what_each_of_six_workers_says_begins_once(self, limits: Made) -> None:
        made = limits(upload="600/m")
        made.acquire("default", Work.UPLOAD)
        granted = []
        for _ in range(6):
            made.set_rate(Work.UPLOAD, "60/m", profiles=["default"])
            granted.append(made.acquire("default", Work.UPLOAD).wait_s == 0)
        assert granted == [True] + [False] * 5
        made.cool_down("default", Work.UPLOAD, 60, "")
        made.set_rate(Work.UPLOAD, "60/m", profiles=["default"])  # said again, it ends a hold
        assert made.acquire("default", Work.UPLOAD).wait_s == 0

    def test_back_to_the_tiers_rate_for_all_ends_what_one_profile_had(self, limits: Made) -> None:
        made = limits(upload="60/m")
        made.set_rate(Work.UPLOAD, "1/h", profile="default", profiles=["default"])
        for _ in range(3):
            made.acquire("default", Work.UPLOAD)
        made.set_rate(Work.UPLOAD, None, profiles=["default"])
        assert made.acquire("default", Work.UPLOAD).wait_s == 0

    def test_a_rate_of_one_in_years_is_a_limit(self, limits: Made) -> None:
        made = limits(upload="60/m")
        made.set_rate(Work.UPLOAD, "0.00001/h", profiles=["default"])
        assert made.acquire("default", Work.UPLOAD).wait_s == 0
        assert made.acquire("default", Work.UPLOAD).wait_s > 1e6

    def test_for_one_profile_until_all_are_set(self, limits: Made) -> None:
        made = limits(upload="60/m")
        profiles = ["default", "batch"]
        made.set_rate(Work.UPLOAD, "10/s", profile="batch", profiles=profiles)
        rates = [made.status(name, Work.UPLOAD).rate for name in profiles]
        assert rates == [60, 600]
        made.set_rate(Work.UPLOAD, "unlimited", profiles=profiles)
        rates = [made.status(name, Work.UPLOAD).rate for name in profiles]
        assert rates == [0, 0]
        made.set_rate(Work.UPLOAD, None, profiles=profiles)
        rates = [made.status(name, Work.UPLOAD).rate for name in profiles]
        assert rates == [60, 60]

    @pytest.mark.parametrize("rate", ["fast", "", " ", "-1/s", "inf", "nan/m", "10/x"])
    def test_what_is_no_rate(self, limits: Made, rate: str) -> None:
        with pytest.raises(ValueError, match="write 10/s, 60/m or 500/h"):
            limits().set_rate(Work.UPLOAD, rate, profiles=["default"])
