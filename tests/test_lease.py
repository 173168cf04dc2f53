"""Leases: one holder, for as long as it holds, and no longer than that."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from provider_uploads import protocol
from provider_uploads.errors import QueueUnavailableError
from provider_uploads.ledger.lease import Lease
from provider_uploads.ledger.uploads import Ledger
from tests.nodes import RedisProcess, wait_until

#: Short enough to wait for, long enough for a busy machine.
TTL_S = 0.5


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


def key(ticket: str = "t") -> str:
    return f"{protocol.KEY_PREFIX}lease:{ticket}"


def held(lease: Lease | None) -> Lease:
    assert lease is not None
    return lease


def stays_held(*leases: Lease, for_s: float) -> None:
    """Look again and again: a lease that is lost for a moment only is lost."""
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        assert [number for number, lease in enumerate(leases) if lease.lost] == []
        time.sleep(0.02)


class TestHolding:
    def test_one_at_a_time(self, ledger: Ledger, redis_url: str) -> None:
        elsewhere = Ledger(redis_url)
        with ledger.lease("t", 5) as first, ledger.lease("t", 5) as again:
            assert first is not None
            assert again is None
            with elsewhere.lease("t", 5) as second:
                assert second is None
            with elsewhere.lease("other", 5) as other:
                assert other is not None
        with elsewhere.lease("t", 5) as later:
            assert later is not None
        elsewhere.close()

    def test_of_many_threads_one_gets_it(self, ledger: Ledger) -> None:
        start, done, got = threading.Barrier(16), threading.Barrier(16), []

        def take() -> None:
            start.wait()
            with ledger.lease("t", 5) as lease:
                got.append(lease is not None)
                done.wait(5)

        threads = [threading.Thread(target=take) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == [False] * 15 + [True]

    def test_it_is_given_back_whatever_happens(self, ledger: Ledger, raw: Any) -> None:
        with contextlib.suppress(ZeroDivisionError), ledger.lease("t", 5) as lease:
            assert raw.exists(key())
            assert not held(lease).lost
            raise ZeroDivisionError
        assert not raw.exists(key())

    def test_a_worker_that_dies_holds_it_no_longer_than_its_time(self, raw: Any) -> None:
        with_ttl = Ledger(raw_url(raw))
        with with_ttl.lease("t", 20):
            assert 19_000 < raw.pttl(key()) <= 20_000
        with_ttl.close()


class TestRenewal:
    def test_it_outlives_its_time_while_it_is_held(self, ledger: Ledger, raw: Any) -> None:
        with ledger.lease("t", TTL_S) as lease:
            until = time.monotonic() + 2 * TTL_S
            while time.monotonic() < until:
                assert raw.exists(key())
                assert not held(lease).lost
                time.sleep(0.02)

    def test_one_thread_renews_them_all(self, ledger: Ledger) -> None:
        with ExitStack() as stack:
            leases = [held(stack.enter_context(ledger.lease(str(n), TTL_S))) for n in range(40)]
            keepers = [thread for thread in threading.enumerate() if thread.name == "leases"]
            assert len(keepers) == 1
            stays_held(*leases, for_s=1.6 * TTL_S)

    def test_the_thread_waits_for_the_next_lease(self, ledger: Ledger) -> None:
        for _ in range(2):
            with ledger.lease("t", TTL_S) as lease:
                stays_held(held(lease), for_s=TTL_S * 1.2)

    def test_a_lost_one_does_not_hold_up_the_others(self, ledger: Ledger, raw: Any) -> None:
        """Its holder may notice late: it is blocked in a socket, or hashes a large file."""
        with ledger.lease("stolen", TTL_S) as stolen, ledger.lease("good", TTL_S) as good:
            raw.set(key("stolen"), "somebody else")
            wait_until(lambda: held(stolen).lost, "the loss is noticed")
            stays_held(held(good), for_s=1.6 * TTL_S)


class TestLoss:
    def test_somebody_else_has_it(self, ledger: Ledger, raw: Any) -> None:
        ttl_s = 1.5
        with ledger.lease("t", ttl_s) as lease:
            raw.set(key(), "somebody else")
            begun = time.monotonic()
            wait_until(lambda: held(lease).lost, "the loss is noticed", 5)
            assert time.monotonic() - begun < 0.8 * ttl_s  # at the next renewal, not at the end
        assert raw.get(key()) == "somebody else"  # theirs is not given back

    def test_redis_has_forgotten_it(self, ledger: Ledger, raw: Any) -> None:
        with ledger.lease("t", TTL_S) as lease:
            raw.delete(key())
            wait_until(lambda: held(lease).lost, "the loss is noticed", 5)
            with ledger.lease("t", TTL_S) as other:
                assert other is not None
            assert held(lease).lost  # and stays lost

    def test_a_short_stall_is_survived(self, default_redis_broker: RedisProcess) -> None:
        ledger = Ledger(default_redis_broker.url, timeout_s=0.2)
        ttl_s = 3.0
        with ledger.lease("t", ttl_s) as lease:
            first_due = held(lease).renewal_due_at
            default_redis_broker._container.kill("SIGSTOP")
            wait_until(lambda: time.monotonic() > first_due + 0.3, "a renewal was missed")
            assert not held(lease).lost
            default_redis_broker._container.kill("SIGCONT")
            wait_until(lambda: held(lease).renewal_due_at > first_due + 0.5, "it is renewed")
            assert not held(lease).lost
        ledger.close()

    def test_a_long_stall_is_a_loss(self, default_redis_broker: RedisProcess) -> None:
        ledger = Ledger(default_redis_broker.url, timeout_s=0.1)
        with ledger.lease("t", TTL_S) as lease:
            default_redis_broker._container.kill("SIGSTOP")
            begun = time.monotonic()
            wait_until(lambda: held(lease).lost, "the loss is noticed", 5)
            assert time.monotonic() - begun < TTL_S + 0.2  # by our own clock, without Redis
            default_redis_broker._container.kill("SIGCONT")
            with default_redis_broker.client as client:
                wait_until(lambda: not client.exists(key()), "Redis forgets it")
            assert held(lease).lost
        with ledger.lease("t", TTL_S) as again:
            assert again is not None
        ledger.close()

    def test_giving_it_back_to_a_redis_that_is_gone(
        self, default_redis_broker: RedisProcess
    ) -> None:
        ledger = Ledger(default_redis_broker.url, timeout_s=0.2)
        with ledger.lease("t", 5) as lease:
            assert not held(lease).lost
            default_redis_broker._container.kill("SIGKILL")
        with pytest.raises(QueueUnavailableError), ledger.lease("t", 5):
            pass
        ledger.close()


class TestForks:
    @pytest.mark.parametrize("parent_holds", [False, True])
    def test_a_child_renews_its_own(
        self, redis_url: str, tmp_path: Path, parent_holds: bool
    ) -> None:
        """A lease held at the fork is the parent's, as is the thread that renews it."""
        code = f"""
            import json, os, time
            from contextlib import ExitStack
            from provider_uploads.ledger.uploads import Ledger
            ledger = Ledger({redis_url!r})
            with ExitStack() as stack:
                parent = stack.enter_context(ledger.lease("parent", {TTL_S}))
                assert parent
                if not {parent_holds}:
                    stack.close()
                pid = os.fork()
                if pid == 0:
                    try:
                        with ledger.lease("child", {TTL_S}) as lease:
                            until = time.monotonic() + 2 * {TTL_S}
                            while time.monotonic() < until and not lease.lost:
                                time.sleep(0.02)
                            print(json.dumps({{"lost": lease.lost}}), flush=True)
                    finally:
                        os._exit(0)
            os.waitpid(pid, 0)
        """
        assert run(code, tmp_path) == [{"lost": False}]

    def test_a_child_does_not_keep_its_parent_s_alive(self, redis_url: str, tmp_path: Path) -> None:
        """A killed parent's uploads must become free, whatever children it left."""
        code = f"""
            import json, os, time
            import redis
            from provider_uploads.ledger.uploads import Ledger
            ledger = Ledger({redis_url!r})
            held = ledger.lease("parent", {TTL_S}); held.__enter__()
            read, write = os.pipe()
            pid = os.fork()
            if pid:
                os.close(write)
                os.read(read, 1)  # the child has its own lease now
                os._exit(0)  # without giving back
            with ledger.lease("child", {TTL_S}):
                parent = os.getppid()
                os.write(write, b"x")
                while os.getppid() == parent:
                    time.sleep(0.01)
                client = redis.Redis.from_url({redis_url!r})
                until = time.monotonic() + 2 * {TTL_S}
                while client.exists({key("parent")!r}) and time.monotonic() < until:
                    time.sleep(0.02)
                print(json.dumps({{"free": not client.exists({key("parent")!r})}}), flush=True)
            os._exit(0)
        """
        assert run(code, tmp_path) == [{"free": True}]


def run(code: str, folder: Path) -> list[Any]:
    """Run a script that forks; what its processes print is read when the last of them has ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=6)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        pytest.fail("the processes hang")
    return [json.loads(line) for line in out.splitlines()]


def raw_url(raw: Any) -> str:
    kwargs = raw.connection_pool.connection_kwargs
    return f"redis://{kwargs['host']}:{kwargs['port']}/{kwargs['db']}"
