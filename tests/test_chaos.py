"""Nothing lost, nothing twice, nothing left behind: shown by killing things.

Short here; at full length, and with a table, by ``make test-chaos``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from redis.sentinel import MasterNotFoundError, Sentinel

from provider_uploads import Stage, UploadInactiveError, UploadQueue, protocol
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import SourceUnavailableError
from provider_uploads.fleet import polls
from provider_uploads.ledger import parked
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.local.stack import find_redis_server
from provider_uploads.lua import LuaScript
from provider_uploads.settings import settings
from tests.accounts import Account
from tests.chaos import MIB, House, Submitted
from tests.conftest import ACCOUNTS, KEY
from tests.nodes import Process, RedisProcess, WorkerProcess, free_port, wait_until
from tests.proxy import Proxy
from tests.tripwire import Tripwire

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
        # A stuck file that was damaged too is deleted, and sent again under the next name.
        ids = [str(one.id) for one in house.statuses(tickets) if one.id]
        again = sum(not one.endswith("-0") for one in ids)
        missing = faults.get("file_stuck", 0) - [*ends.values()].count(Stage.TIMED_OUT)
        assert 0 <= missing <= again


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

        wait_until(lambda: received() >= there, "40 % of the bytes")
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
    """A worker told to stop while it sends and while 200 polls wait in it (100 at short length)."""

    #: Not before all wait, on a slow machine either.
    POLL_S = 20.0

    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=2, bandwidth_mib_s=2, api_keys=frozenset({KEY}))

    @pytest.fixture
    def policy(self) -> dict[str, str]:
        """All polls wait in the worker; a list would show the first ACTIVE before the last wait."""
        return QUICK | {"PROVIDER_UPLOADS_PARK_FROM": "1000000"}

    def test_it_is_gone_at_once_and_nothing_is_late(
        self, house: House, long: bool, report: Callable[[Account], None]
    ) -> None:
        stopped = house.worker()
        stopped.ready()
        count = 200 if long else 100
        small = house.file("small.mp4", 1000)
        waiting = house.submit([small] * count, poll_s=self.POLL_S, max_poll_s=self.POLL_S)
        (moving,) = house.submit([house.file("large.mp4", 24 * MIB)])

        def all_wait() -> bool:
            stages = {one.stage for one in house.statuses(waiting)}
            return stages == {Stage.PROCESSING} and house.queue.status(moving).sent_bytes > 0

        wait_until(all_wait, "all polls waiting and bytes moving")
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
        assert house.gemini.counters()["operations"]["start"]["requests"] == 1
        assert late_s < 5


class TestCancelledMidway:
    """Uploads that are cancelled while their bytes move."""

    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=3600, bandwidth_mib_s=0.5, api_keys=frozenset({KEY}))

    def test_nothing_of_them_stays(
        self, house: House, long: bool, report: Callable[[Account], None]
    ) -> None:
        house.supervise(2)
        count = 30 if long else 6
        tickets = house.submit([house.file("clip.mp4", 8 * MIB)] * count)

        def all_move() -> bool:
            return len([one for one in house.gemini.sessions() if one["received_bytes"]]) == count

        wait_until(all_move, "all to move")
        begun = time.monotonic()
        for ticket in tickets:
            assert house.queue.cancel(ticket) is Stage.UPLOADING
        wait_until(lambda: not house.gemini.sessions(), "no session to be open")
        gone_s = time.monotonic() - begun
        seconds = house.until_ended(tickets, 60)
        ends = dict.fromkeys(tickets, Stage.CANCELLED)
        remark = f"all sessions gone after {gone_s:.1f} s"
        report(house.account("cancelled midway", seconds, ends=ends, remark=remark))
        assert house.gemini.files() == []


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
            wait_until(lambda: dying.exit_code is not None, "it dies before a deletion")
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
            Operation.UPLOAD, FaultKind.UNAVAILABLE, match="stumbles", nth=1, count=30
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


_WHENS: tuple[Literal["before", "after"], ...] = ("before", "after")


class TestParked:
    """Many that wait: their polls are parked in Redis, and whoever watches is killed."""

    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return QUICK | {
            "PROVIDER_UPLOADS_PARK_FROM": "3",
            "PROVIDER_UPLOADS_WATCH_EVERY_S": "0.2",
            "PROVIDER_UPLOADS_WATCH_CHECK_S": "0.2",
            "PROVIDER_UPLOADS_WATCH_FILE_S": "1",
            "PROVIDER_UPLOADS_WATCH_LOCK_S": "1",
        }

    @pytest.fixture
    def gemini_config(self, long: bool) -> EmulatorConfig:
        return EmulatorConfig(processing_s=8.0 if long else 4.0, api_keys=frozenset({KEY}))

    def test_watchers_are_killed(
        self, house: House, long: bool, report: Callable[[Account], None]
    ) -> None:
        house.supervise(3)
        count, most = (1000, 12) if long else (40, 3)
        tickets = house.submit([house.file("clip.mp4", 1000)] * count, max_poll_s=60.0)
        watches = Ledger(house.redis.url)
        killed: list[str] = []

        def kill_the_watcher() -> None:
            for _, name in watches.run(parked.counts()).values():
                for worker in house.workers:
                    alive = worker.exit_code is None and len(killed) < most
                    if name == worker.node_name and alive:
                        killed.append(name)
                        house.kill(worker)

        seconds = house.until_ended(tickets, 240, every(1.0, kill_the_watcher))
        watches.close()
        late_s = max(one.processing_s for one in house.statuses(tickets))
        remark = f"{len(killed)} of them watching, the slowest wait {late_s:.1f} s"
        report(house.account("parked, watchers killed", seconds, settle_s=60, remark=remark))
        assert killed

    def test_each_instant(
        self, house: House, long: bool, report: Callable[[Account], None]
    ) -> None:
        """Before and after each step of a poll, and before an acknowledgement.

        One worker after the other, alone: it does everything, and watches.
        """
        if not long:
            pytest.skip("nine workers, one after another: make test-chaos")
        fault = FaultKind.FILE_FAILED
        house.gemini.order_fault(Operation.UPLOAD, fault, match="failed", count=1000)
        good, bad = house.file("clip.mp4", 1000), house.file("failed.mp4", 1000)
        scripts = (parked.PARK.sha, parked.WAKE.sha, polls.BEGIN.sha)
        with house.redis.client as client:
            for sha in scripts:
                client.script_load(LuaScript.texts[sha])
        tickets: list[str] = []
        wires: list[Tripwire] = []

        def dies(worker: WorkerProcess, instant: str) -> None:
            worker.ready()
            tickets.extend(house.submit([good] * 7 + [bad], max_poll_s=60.0))
            wait_until(lambda: worker.exit_code is not None, f"the end {instant}")

        settled = b'"count": ["polls"]'  # by the watcher, what it saw
        for wire in (*(sha.encode() for sha in scripts), settled):
            for when in _WHENS:
                tripped, worker = tripwire(house, wire, when)
                wires.append(tripped)
                dies(worker, f"{when} {wire!r}")
        retried = f"retried {protocol.UPLOAD} 1"
        dies(house.worker(app="tests.faulty_worker", DIE_AT=retried), retried)
        house.supervise(2)
        seconds = house.until_ended(tickets, 120)
        for one in wires:
            one.cut()
        failed = dict.fromkeys(tickets[7::8], Stage.FAILED)
        report(house.account("parked, every instant", seconds, ends=failed, settle_s=60))
        assert house.gemini.counters()["files_made"] == len(tickets)


def tripwire(
    house: House, wire: bytes, when: Literal["before", "after"]
) -> tuple[Tripwire, WorkerProcess]:
    """Start a worker that is killed when it sends these bytes to Redis."""
    mine: list[WorkerProcess] = []
    tripped = Tripwire(house.redis.port, wire, when, lambda: mine[0].kill())
    mine.append(house.worker(PROVIDER_UPLOADS_REDIS_URL=f"redis://127.0.0.1:{tripped.port}/0"))
    return tripped, mine[0]


class Trouble:
    """Begins once an eighth of the uploads has ended, and ends so many seconds later."""

    def __init__(
        self, count: int, last_s: float, begin: Callable[[], None], end: Callable[[], None]
    ) -> None:
        self._at, self._last_s = count // 8, last_s
        self._begin, self._end = begin, end
        self._begun: float | None = None
        self.over = False

    def __call__(self, ended: int) -> None:
        if self._begun is None and ended >= self._at:
            self._begun = time.monotonic()
            self._begin()
        elif self._begun and not self.over and time.monotonic() > self._begun + self._last_s:
            self.over = True
            self._end()


class TestSurroundings:
    """What workers need is away for a while: Redis is full, or a network drops everything."""

    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        """Slow enough for the trouble to come in the midst of it."""
        return EmulatorConfig(processing_s=3.0, latency_ms=100, api_keys=frozenset({KEY}))

    @pytest.fixture
    def proxies(
        self, default_redis_broker: RedisProcess, gemini: LocalGemini
    ) -> Iterator[tuple[Proxy, Proxy]]:
        """Between workers and Redis, and between workers and the provider."""
        provider = int(gemini.url.rpartition(":")[2])
        with (
            Proxy(lambda: ("127.0.0.1", default_redis_broker.port)) as to_redis,
            Proxy(lambda: ("127.0.0.1", provider)) as to_provider,
        ):
            yield to_redis, to_provider

    @pytest.fixture
    def default_worker_env(
        self, default_worker_env: dict[str, str], proxies: tuple[Proxy, Proxy]
    ) -> dict[str, str]:
        to_redis, to_provider = proxies
        return default_worker_env | {
            "PROVIDER_UPLOADS_REDIS_URL": f"redis://127.0.0.1:{to_redis.port}/0",
            "PROVIDER_UPLOADS_BASE_URL": f"http://127.0.0.1:{to_provider.port}",
            "PROVIDER_UPLOADS_PROVIDER_TIMEOUT_S": "5",
        }

    def run(
        self,
        name: str,
        house: House,
        long: bool,
        last_s: float,
        begin: Callable[[], None],
        end: Callable[[], None],
    ) -> Account:
        house.supervise(3)
        count = 300 if long else 60
        tickets = house.submit_mixed(count, MIB if long else MIB // 8)
        trouble = Trouble(count, last_s, begin, end)
        seconds = house.until_ended(tickets, 600 if long else 110, trouble)
        assert trouble.over
        return house.account(name, seconds, settle_s=60)

    def test_redis_is_full(
        self, house: House, long: bool, report: Callable[[Account], None]
    ) -> None:
        """It answers, and refuses every write."""

        def limit(bytes_: int) -> None:
            with house.redis.client as client:
                client.config_set("maxmemory", bytes_)

        last_s = 10 if long else 3
        report(
            self.run("Redis full for 10 s", house, long, last_s, lambda: limit(1), lambda: limit(0))
        )

    @pytest.mark.parametrize("party", ["Redis", "the provider"])
    def test_the_network_drops_everything(
        self,
        house: House,
        long: bool,
        report: Callable[[Account], None],
        proxies: tuple[Proxy, Proxy],
        party: str,
    ) -> None:
        """No answer, no error: as when a cable is pulled."""
        proxy = proxies[party != "Redis"]
        name = f"network to {party} drops all for 20 s"
        last_s = 20 if long else 8
        report(self.run(name, house, long, last_s, proxy.drop, proxy.restore))

    def test_the_provider_is_gone(
        self,
        house: House,
        long: bool,
        report: Callable[[Account], None],
        proxies: tuple[Proxy, Proxy],
    ) -> None:
        """Its connections are reset, and refused until it is back, with its data."""
        _, proxy = proxies
        last_s = 10 if long else 3
        report(self.run("provider gone for 10 s", house, long, last_s, proxy.cut, proxy.restore))


def port_of_master(sentinel: Sentinel) -> int:
    """Return where the master is, as Sentinel says; 0 while there is none."""
    try:
        return int(sentinel.discover_master("ours")[1])  # type: ignore[no-untyped-call]
    except MasterNotFoundError:
        return 0


class TestSentinel:
    """A Redis dies, and Sentinel makes its replica the master.

    This library speaks to one address. What follows the master, here a proxy that asks Sentinel,
    as HAProxy and the managed services do, gives it one.
    """

    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=3.0, latency_ms=100, api_keys=frozenset({KEY}))

    @pytest.fixture
    def replica(self, default_redis_broker: RedisProcess, tmp_path: Path) -> Iterator[RedisProcess]:
        folder = tmp_path / "replica"
        folder.mkdir()
        node = RedisProcess.spawn(folder)
        node.ready()
        with node.client as client:
            client.replicaof("127.0.0.1", default_redis_broker.port)
            wait_until(
                lambda: client.info("replication")["master_link_status"] == "up", "replication"
            )
        yield node
        node.teardown()

    @pytest.fixture
    def sentinel(
        self, default_redis_broker: RedisProcess, replica: RedisProcess, tmp_path: Path
    ) -> Iterator[Sentinel]:
        port = free_port()
        conf = tmp_path / "sentinel.conf"
        conf.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
            f"sentinel monitor ours 127.0.0.1 {default_redis_broker.port} 1\n"
            "sentinel down-after-milliseconds ours 1000\nsentinel failover-timeout ours 5000\n"
        )
        argv = [find_redis_server(), str(conf), "--sentinel"]
        node = Process(argv, name="sentinel", folder=tmp_path)
        made = Sentinel([("127.0.0.1", port)], socket_timeout=2)  # type: ignore[no-untyped-call]
        wait_until(lambda: b"+slave" in node.logs(), "Sentinel to know the replica")
        yield made
        for one in made.sentinels:
            one.close()
        node.kill()

    @pytest.fixture
    def proxy(self, sentinel: Sentinel) -> Iterator[Proxy]:
        with Proxy(lambda: ("127.0.0.1", port_of_master(sentinel))) as made:
            yield made

    @pytest.fixture
    def default_worker_env(
        self, default_worker_env: dict[str, str], proxy: Proxy
    ) -> dict[str, str]:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        return default_worker_env | {"PROVIDER_UPLOADS_REDIS_URL": url}

    def test_a_failover(
        self,
        house: House,
        long: bool,
        report: Callable[[Account], None],
        proxy: Proxy,
        sentinel: Sentinel,
        replica: RedisProcess,
        default_worker_env: dict[str, str],
    ) -> None:
        house.queue.close()
        house.queue = UploadQueue(default_worker_env["PROVIDER_UPLOADS_REDIS_URL"])
        house.supervise(3)
        count = 300 if long else 60
        tickets = house.submit_mixed(count, MIB if long else MIB // 8)
        killed_at: list[float] = []
        failed_over: list[float] = []

        def meanwhile(ended: int) -> None:
            if not killed_at and ended >= count // 8:
                killed_at.append(time.monotonic())
                house.redis.kill()
            elif killed_at and not failed_over and port_of_master(sentinel) == replica.port:
                failed_over.append(time.monotonic())
                house.redis = replica

        seconds = house.until_ended(tickets, 600 if long else 110, meanwhile)
        assert failed_over
        away_s = failed_over[0] - killed_at[0]
        remark = f"new master after {away_s:.1f} s"
        report(house.account("Redis fails over by Sentinel", seconds, settle_s=60, remark=remark))
        house.queue.close()


class TestClocks:
    """Machines whose clocks are ten minutes apart, both ways, while one of them is killed."""

    def clock(self, shift_s: int) -> dict[str, str]:
        """What makes a process believe in another time, but not in another monotonic one."""
        package = importlib.util.find_spec("libfaketime")
        if package is None or package.origin is None:
            pytest.skip("libfaketime is not installed")
        library = Path(package.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME": f"{shift_s:+d}s",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def test_they_agree_on_redis_s(
        self, house: House, long: bool, report: Callable[[Account], None]
    ) -> None:
        """A countdown set by the one ahead came ten minutes late at the others."""
        ahead = house.worker(**self.clock(600))
        behind = house.worker(**self.clock(-600))
        for worker in (ahead, behind):
            worker.ready()
        house.supervise(1)
        count = 300 if long else 40
        tickets = house.submit_mixed(count, MIB if long else MIB // 8)
        to_kill = [ahead]

        def meanwhile(ended: int) -> None:
            if to_kill and ended >= count // 2:
                house.kill(to_kill.pop())

        seconds = house.until_ended(tickets, 120, meanwhile)
        slowest_s = max(one.processing_s for one in house.statuses(tickets))
        account = house.account(
            "clocks ten minutes apart",
            seconds,
            settle_s=60,
            remark=f"slowest wait {slowest_s:.1f} s",
        )
        report(account)
        assert "ready" in behind.logs()
        assert slowest_s < 20


class TestFullStaging:
    """The staging place has 4 MB, and more is staged."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[Path]:
        folder = tmp_path / "staging"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        yield folder
        subprocess.run(["umount", "--lazy", str(folder)], check=True)

    @pytest.fixture
    def default_worker_env(
        self, default_worker_env: dict[str, str], place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> dict[str, str]:
        monkeypatch.setenv("PROVIDER_UPLOADS_STAGING", str(place))
        settings.cache_clear()
        return default_worker_env | {"PROVIDER_UPLOADS_STAGING": str(place)}

    def test_what_does_not_fit_is_refused_and_nothing_of_it_stays(
        self, house: House, long: bool, report: Callable[[Account], None], place: Path
    ) -> None:
        data = {name: random.Random(name).randbytes(MIB) for name in map(str, range(12))}
        staged, refused = 0, 0
        begun = time.monotonic()
        for round_ in range(2):
            for name, content in data.items():
                try:
                    ticket = house.queue.submit_stream(
                        io.BytesIO(content), filename=f"{name}.txt", poll_s=0.2
                    )
                except SourceUnavailableError as error:
                    assert "No space left" in str(error)  # noqa: PT017
                    refused += 1
                else:
                    staged += 1
                    sha256 = hashlib.sha256(content).hexdigest()
                    house.submitted[ticket] = Submitted(len(content), sha256)
            if round_ == 0:
                assert refused >= 8  # nobody has made room
                house.supervise(2)
                house.until_ended([*house.submitted], 60)
        house.until_ended([*house.submitted], 60)
        assert staged >= 4
        wait_until(lambda: not [*place.iterdir()], "no copy to stay")
        seconds = time.monotonic() - begun
        remark = f"{refused} refused with the reason"
        report(house.account("disk full for staging", seconds, settle_s=30, remark=remark))
