"""Nothing lost, nothing twice, nothing left behind: shown by killing things.

Short here; at full length, and with a table, by ``make test-chaos``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provider_uploads import Stage, UploadInactiveError, UploadQueue, protocol
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from tests.accounts import Account
from tests.chaos import MIB, House
from tests.conftest import ACCOUNTS, KEY
from tests.nodes import RedisProcess, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

#: Recovery in seconds instead of in half a minute; production's numbers have a test of their own.
QUICK = {
    "PROVIDER_UPLOADS_VISIBILITY_TIMEOUT_S": "2",
    "PROVIDER_UPLOADS_RESTORE_EVERY_S": "1",
    "PROVIDER_UPLOADS_LEASE_S": "3",
    "PROVIDER_UPLOADS_LEASE_HELD_RETRY_S": "0.5",
    "PROVIDER_UPLOADS_SWEEP_QUIET_S": "6",
    "PROVIDER_UPLOADS_SWEEP_EVERY_S": "2",
    "PROVIDER_UPLOADS_SWEEP_PROVIDER_EVERY_S": "3",
}


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether to run at full length."""
    return bool(request.config.getoption("--chaos"))


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[Account], None]:
    """Put an account into the table and see that it is clean."""

    def add(account: Account) -> None:
        print(account)
        request.config.stash.setdefault(ACCOUNTS, []).append(account)
        account.assert_clean()

    return add


@pytest.fixture
def policy() -> dict[str, str]:
    return QUICK


@pytest.fixture
def aof() -> bool:
    """Whether Redis survives its own death; classes override it."""
    return False


@pytest.fixture
def default_redis_broker(tmp_path: Path, aof: bool) -> Iterator[RedisProcess]:
    node = RedisProcess.spawn(tmp_path, aof=aof)
    node.ready()
    yield node
    node.teardown()


@pytest.fixture
def house(
    request: pytest.FixtureRequest,
    default_redis_broker: RedisProcess,
    gemini: LocalGemini,
    default_worker_env: dict[str, str],
    tmp_path: Path,
) -> Iterator[House]:
    with UploadQueue(default_redis_broker.url) as queue:
        made = House(
            default_redis_broker,
            gemini,
            queue,
            default_worker_env,
            tmp_path,
            request.config.getoption("--chaos-seed"),
        )
        try:
            yield made
        finally:
            made.close()


def every(seconds: float, act: Callable[[], None], most: float = math.inf) -> Callable[[int], None]:
    """Return what does ``act`` at its first call and every so many seconds, ``most`` times."""
    due, done = time.monotonic(), 0

    def poll(_: int) -> None:
        nonlocal due, done
        if time.monotonic() >= due and done < most:
            due, done = time.monotonic() + seconds, done + 1
            act()

    return poll


class TestKilledWorkers:
    """One worker SIGKILLed at once and every second, and replaced, until all is done."""

    @pytest.fixture
    def gemini_config(self, long: bool) -> EmulatorConfig:
        """Videos hold the work for three seconds, however fast the machine is."""
        return EmulatorConfig(processing_s=0.3 if long else 3.0, api_keys=frozenset({KEY}))

    def test_all_arrive_once(
        self, house: House, long: bool, report: Callable[[Account], None]
    ) -> None:
        house.supervise(3)
        tickets = house.submit_mixed(*((1000, 8 * MIB) if long else (40, MIB)))
        # A short run on a busy machine must not kill every worker before it has done something.
        kills = every(1.0, house.kill_one, most=math.inf if long else 4)
        seconds = house.until_ended(tickets, 900 if long else 60, kills)
        account = house.account("workers killed", seconds)
        report(account)
        assert account.killed > 0

    class TestWithProductionNumbers:
        @pytest.fixture
        def policy(self) -> dict[str, str]:
            return {}

        @pytest.fixture(autouse=True)
        def at_length(self, long: bool) -> None:
            if not long:
                pytest.skip("half a minute of waiting for dead workers: make test-chaos")

        def test_all_arrive_once(self, house: House, report: Callable[[Account], None]) -> None:
            house.supervise(3)
            tickets = house.submit_mixed(300, 8 * MIB)
            seconds = house.until_ended(tickets, 1500, every(1.0, house.kill_one))
            account = house.account("workers killed, 30 s", seconds, settle_s=90)
            report(account)
            assert account.recovery_s is not None
            assert account.recovery_s < 45

        def test_a_lost_message(self, house: House, report: Callable[[Account], None]) -> None:
            """Taken from its queue, and in nobody's hands: kombu can leave one so."""
            (ticket,) = house.submit([house.file("lost.txt", 1000)], one_by_one=True)
            with house.redis.client as client:
                assert client.rpop(f"{protocol.KEY_PREFIX}{protocol.TRANSFER_QUEUE}")
            house.supervise(1)
            seconds = house.until_ended([ticket], 120)
            account = house.account("a lost message, 30 s", seconds)
            report(account)
            assert account.swept == 1
            assert seconds < 45


class TestKilledRedis:
    """Redis SIGKILLed twice and started again, under load, beside the workers' deaths."""

    @pytest.fixture
    def aof(self) -> bool:
        return True

    @pytest.fixture
    def gemini_config(self, long: bool) -> EmulatorConfig:
        """Texts end at once; videos hold the work for three seconds after their upload."""
        return EmulatorConfig(processing_s=0.3 if long else 3.0, api_keys=frozenset({KEY}))

    def test_all_arrive_once(
        self, house: House, long: bool, report: Callable[[Account], None]
    ) -> None:
        house.supervise(3)
        count, most = (300, 8 * MIB) if long else (40, MIB // 4)
        tickets = house.submit_mixed(count, most)
        kill_one = every(1.0, house.kill_one)
        to_come = [count // 4, count // 2] if long else [0, 1]

        def meanwhile(ended: int) -> None:
            if to_come and ended >= to_come[0] and ended < count:
                del to_come[0]
                house.redis.kill()
                house.redis.restart()
            elif long:
                kill_one(ended)

        seconds = house.until_ended(tickets, 900 if long else 60, meanwhile)
        report(house.account("Redis killed twice", seconds, settle_s=40))
        assert to_come == []


class TestFaultyProvider:
    """A fifth of all replies goes wrong, in every way there is, while workers are killed."""

    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return QUICK | {"PROVIDER_UPLOADS_PROVIDER_TIMEOUT_S": "2"}

    def test_all_but_those_with_a_bad_file_arrive_once(
        self, house: House, long: bool, report: Callable[[Account], None]
    ) -> None:
        gemini = house.gemini
        # A day's quota is a day's wait: it has a test of its own.
        kinds = [kind for kind in FaultKind if kind is not FaultKind.RATE_LIMITED_DAY]
        stall_s = 3 if long else 0.5
        gemini.order_mix(0.2, house.seed, kinds=kinds, stall_s=stall_s, retry_delay_s=0.3)
        house.supervise(3)
        tickets = house.submit_mixed(
            *((300, 8 * MIB) if long else (40, MIB // 4)), timeout_s=20 if long else 6
        )
        seconds = house.until_ended(
            tickets,
            900 if long else 60,
            every(3.0, house.kill_one) if long else lambda _: None,
        )
        faults = gemini.counters()["faults"]["upload"]
        stages = {one.ticket: one.stage for one in house.statuses(tickets)}
        ends = {ticket: stage for ticket, stage in stages.items() if stage is not Stage.ACTIVE}
        account = house.account("faulty provider", seconds, ends=ends, settle_s=60)
        report(account)
        assert [*ends.values()].count(Stage.FAILED) == faults.get("file_failed", 0)
        assert [*ends.values()].count(Stage.TIMED_OUT) == faults.get("file_stuck", 0)


class TestKilledMidway:
    """A large upload whose worker dies at 40 %, where the provider stops reading."""

    def test_the_next_sends_the_rest(
        self, house: House, long: bool, report: Callable[[Account], None]
    ) -> None:
        size = (256 if long else 32) * MIB
        there = size * 2 // 5
        house.gemini.order_fault(
            Operation.UPLOAD, FaultKind.STALL, after_bytes=there, stall_s=600, count=1
        )
        workers = house.supervise(2)
        (ticket,) = house.submit([house.file("large.mp4", size)])

        def received() -> int:
            return sum(session["received_bytes"] for session in house.gemini.sessions())

        wait_until(lambda: received() >= there, "40 % of the bytes", 60)
        started = f"Task {protocol.UPLOAD}[{ticket}] received"
        (holder,) = (worker for worker in workers if started in worker.logs())
        house.kill(holder)
        seconds = house.until_ended([ticket], 120)
        (upload,) = house.gemini.counters()["uploads"]
        account = house.account("killed at 40 %", seconds, remark=f"{there / MIB:.1f} MiB there")
        report(account)
        assert account.resumed == 1
        assert upload["bytes_received"] <= size + MIB


class TestSigterm:
    """A worker told to stop while it sends and while 200 polls wait in it."""

    POLL_S = 10.0

    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=2, bandwidth_mib_s=2, api_keys=frozenset({KEY}))

    def test_it_is_gone_at_once_and_nothing_is_late(
        self, house: House, long: bool, report: Callable[[Account], None]
    ) -> None:
        stopped = house.worker()
        stopped.ready()
        small = house.file("small.mp4", 1000)
        waiting = house.submit([small] * 200, poll_s=self.POLL_S, max_poll_s=self.POLL_S)
        (moving,) = house.submit([house.file("large.mp4", 24 * MIB)])

        def all_wait() -> bool:
            stages = {one.stage for one in house.statuses(waiting)}
            return stages == {Stage.PROCESSING} and house.queue.status(moving).sent_bytes > 0

        wait_until(all_wait, "200 polls waiting and bytes moving", 30)
        house.supervise(1)
        begun = time.monotonic()
        stopped.kill("SIGTERM")
        wait_until(lambda: stopped.exit_code is not None, "it stops", 5)
        gone_s = time.monotonic() - begun
        seconds = house.until_ended([*waiting, moving], 60)
        late_s = max(one.processing_s for one in house.statuses(waiting)) - self.POLL_S
        report(
            house.account(
                "SIGTERM",
                seconds,
                remark=f"gone after {gone_s:.2f} s, latest poll {late_s:.2f} s late",
            )
        )
        assert {one.polls for one in house.statuses(waiting)} == {1}
        assert house.gemini.counters()["operations"]["start"]["requests"] == 201
        assert late_s < 5


class TestTimeouts:
    """Files that never become ACTIVE, and a deletion that meets every obstacle."""

    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=3600, api_keys=frozenset({KEY}))

    @pytest.mark.parametrize("obstacle", ["none", "worker killed", "delete answers 503"])
    def test_every_copy_is_deleted(
        self, house: House, long: bool, report: Callable[[Account], None], obstacle: str
    ) -> None:
        count, deadline_s = (50, 3.0) if long else (10, 0.5)
        if obstacle == "worker killed":
            dying = house.worker(
                app="tests.faulty_worker", DIE_AT=f"before {protocol.DELETE} {count // 2}"
            )
            dying.ready()
        else:
            house.supervise(2)
        if obstacle == "delete answers 503":
            house.gemini.order_fault(Operation.DELETE, FaultKind.UNAVAILABLE, count=5)
        tickets = house.submit([house.file("clip.mp4", 1000)] * count, timeout_s=deadline_s)
        if obstacle == "worker killed":
            wait_until(lambda: dying.exit_code is not None, "it dies before a deletion", 30)
            house.keep()
            house.supervise(2)
        seconds = house.until_ended(tickets, 60)
        account = house.account(
            f"timeout, {obstacle}", seconds, ends=dict.fromkeys(tickets, Stage.TIMED_OUT)
        )
        report(account)
        for ticket in tickets:
            with pytest.raises(UploadInactiveError):
                house.queue.result(ticket, timeout_s=0)
        assert house.gemini.files() == []
        deletes = house.gemini.counters()["operations"]["delete"]["by_status"]
        assert deletes["200"] == count


#: Between a write to the ledger and the publication that follows it, and between that and the
#: acknowledgement of the message that led to it.
INSTANTS = [
    *(f"before {protocol.POLL} {n}" for n in (1, 4, 9)),
    *(f"after {protocol.POLL} {n}" for n in (1, 4)),
    f"before {protocol.UPLOAD} 1",
    f"after {protocol.UPLOAD} 1",
    f"before {protocol.DELETE} 1",
    f"after {protocol.DELETE} 1",
    f"done {protocol.UPLOAD} 2",
    f"done {protocol.POLL} 1",
    f"done {protocol.DELETE} 1",
]


class TestEachInstant:
    """Workers that die between two steps that belong together, one at each such instant."""

    def test_all_end_once(
        self, house: House, long: bool, report: Callable[[Account], None]
    ) -> None:
        house.gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_STUCK, match="stuck", count=500)
        house.gemini.order_fault(
            Operation.START, FaultKind.UNAVAILABLE, match="stumbles", nth=1, count=30
        )
        instants = INSTANTS * (2 if long else 1)
        dying = [house.worker(app="tests.faulty_worker", DIE_AT=one) for one in instants]
        for worker in dying:
            worker.ready()
        names = ("clip.mp4", "stuck.mp4", "notes.txt", "stumbles.mp4")
        paths = [house.file(name, 5000) for name in names]
        tickets: list[str] = []

        def all_dead() -> bool:
            house.keep()
            if house.held() < 4 * len(dying):
                tickets.extend(house.submit(paths, timeout_s=2.0))
            time.sleep(0.2)
            return all(worker.exit_code is not None for worker in dying)

        wait_until(all_dead, "every worker to die at its instant", 120)
        house.supervise(2)
        seconds = house.until_ended(tickets, 120)
        stuck = dict.fromkeys(tickets[1::4], Stage.TIMED_OUT)
        account = house.account("every instant", seconds, ends=stuck, settle_s=40)
        report(account)
        counters = house.gemini.counters()
        assert counters["files_made"] == len(tickets)
        assert counters["operations"]["delete"]["by_status"]["200"] == len(stuck)
