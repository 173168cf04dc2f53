"""The doctor finds what is wrong, says what to do, and keeps secrets."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from rich.console import Console

from provider_uploads import UploadQueue, protocol
from provider_uploads.backoff import Backoff
from provider_uploads.cli import main
from provider_uploads.cli.doctor import report
from provider_uploads.doctor import CHECKS, Check, Examination, Verdict, examine, fleet
from provider_uploads.doctor.check import failure, note, ok, warning
from provider_uploads.doctor.clock import Skew
from provider_uploads.doctor.context import CheckContext
from provider_uploads.doctor.fleet import Fleet, Worker
from provider_uploads.doctor.server import persistence_of
from provider_uploads.doctor.work import queue_of
from provider_uploads.doctor.workers import agreement_in, alive_in, clocks_of, renewal_in
from provider_uploads.emulator import EmulatorConfig, LocalGemini
from provider_uploads.fleet.breaker import Breaker
from provider_uploads.fleet.items import ITEMS
from provider_uploads.fleet.limits import Limits
from provider_uploads.fleet.queues import Queues
from provider_uploads.fleet.tiers import Work
from provider_uploads.fleet.worker_info import WorkerInfo, describe_worker
from provider_uploads.ledger.storage import Storage
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.protocol import PriorityQueue
from provider_uploads.settings import settings
from provider_uploads.sweep import Sweep
from tests.conftest import KEY
from tests.nodes import ROOT, Process, RedisProcess, WorkerProcess, free_port, wait_until
from tests.test_docs import blocks

OK, NOTE, WARNING, FAILURE = Verdict
PASSWORD = "a-password-only-tests-know"
GATEWAY_KEY = "a-gateway-key-only-tests-know"


@dataclass
class House:
    """A set-up in which all is well."""

    redis: RedisProcess
    gemini: LocalGemini
    env: dict[str, str]
    folder: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Redis with an append-only file, a worker for each queue, beat and the local Gemini."""
    folder = tmp_path_factory.mktemp("house")
    (folder / "staged").mkdir()
    redis = RedisProcess.spawn(folder, aof=True)
    redis.ready()
    with LocalGemini(EmulatorConfig(api_keys=frozenset({KEY}))) as gemini:
        with redis.client as client:
            client.config_set("maxmemory", "1gb")
            client.execute_command(
                "ACL", "SETUSER", "operator", "on", f">{PASSWORD}", "~*", "&*", "+@all"
            )
        env = {
            "PROVIDER_UPLOADS_REDIS_URL": redis.url.replace("//", f"//operator:{PASSWORD}@"),
            "PROVIDER_UPLOADS_BASE_URL": gemini.url,
            "GEMINI_API_KEY": KEY,
            "PROVIDER_UPLOADS_ROOTS": str(folder),
            "PROVIDER_UPLOADS_STAGING": str(folder / "staged"),
            "PROVIDER_UPLOADS_SWEEP_EVERY_S": "3",
            "PROVIDER_UPLOADS_TIER": "tier_1",
            "PROVIDER_UPLOADS_PROFILES__BATCH__API_KEY": GATEWAY_KEY,
            "PROVIDER_UPLOADS_PROFILES__BATCH__BASE_URL": f"{gemini.url}/genai",
            "PROVIDER_UPLOADS_PROFILES__BATCH__HEADERS": '{"x-model-provider": "anthropic"}',
        }
        workers = [
            WorkerProcess.spawn(folder, WorkerProcess.command("-Q", queue), env)
            for queue in (protocol.TRANSFER_QUEUE, protocol.CONTROL_QUEUE)
        ]
        beat = WorkerProcess.beat(folder, env)
        for worker in workers:
            worker.ready()
        with redis.client as client:
            swept = f"{protocol.KEY_PREFIX}sweep:last"
            wait_until(lambda: client.exists(swept), "beat sends the first sweep")
        yield House(redis, gemini, env, folder)
        beat.stop()
        for worker in workers:
            worker.teardown()
    redis.teardown()


Enter = Callable[[dict[str, str]], None]


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Take an environment on."""

    def set_all(env: dict[str, str]) -> None:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()

    return set_all


@pytest.fixture
def inside(house: House, enter: Enter) -> House:
    """The set-up in which all is well, as an operator sees it."""
    enter(house.env)
    return house


@pytest.fixture
def alone(default_redis_broker: RedisProcess, enter: Enter, tmp_path: Path) -> RedisProcess:
    """A Redis of the test's own, and nothing else."""
    enter({"PROVIDER_UPLOADS_REDIS_URL": default_redis_broker.url})
    return default_redis_broker


def lines(name: str) -> list[Check]:
    """Make the checks of one name in ``CHECKS``."""
    return [*examine(tuple(check for check in CHECKS if check[0] == name)).checks]


def line(name: str) -> Check:
    (found,) = lines(name)
    return found


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command; return its exit code and what it printed."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    return int(ended.value.code or 0), capsys.readouterr().out


def bad(found: Examination) -> list[Check]:
    return [check for check in found.checks if check.verdict in {WARNING, FAILURE}]


class TestAllIsWell:
    def test_every_line(self, inside: House) -> None:
        begun = time.monotonic()
        found = examine()
        assert time.monotonic() - begun < 8
        assert bad(found) == []
        assert found.verdict is OK
        notes = {check.name: check.says for check in found.checks if check.verdict is NOTE}
        assert set(notes) == {"profile batch", "flower"}
        assert "anthropic cannot list files" in notes["profile batch"]
        said = {check.name: check.says for check in found.checks}
        assert said["profile default"] == f"{inside.gemini.url} accepts the key"
        assert said["redis"].startswith(f"{inside.redis.url}, Redis ")
        assert said["queue transfer"] == "1 worker with 16 slots, 0 messages waiting"
        assert said["renewal"].startswith("renewed every 10 s, handed to others after 30 s")
        assert "profiles default, batch" in said["agreement"]
        # Nothing of the question, nor of the staged copy, is left.
        with inside.redis.client as client:
            assert client.keys("*reply*") == []
        assert [*(inside.folder / "staged").iterdir()] == []

    def test_the_command(self, inside: House, capsys: pytest.CaptureFixture[str]) -> None:
        code, table = run(capsys)
        assert code == 0
        assert table.splitlines()[-1] == "All is well."
        code, said = run(capsys, "--json")
        assert code == 0
        assert list(json.loads(said)) == ["verdict", "checks"]
        assert set(json.loads(said)["checks"][0]) == {"name", "verdict", "says", "remedy"}

    def test_no_secret_is_shown(
        self, inside: House, enter: Enter, capsys: pytest.CaptureFixture[str]
    ) -> None:
        answers = " ".join(w.about.model_dump_json() for w in fleet.ask(settings()).workers)
        shown = [answers, run(capsys)[1], run(capsys, "--json")[1]]
        # And when it goes wrong: a closed port, a wrong password, a key that is refused.
        enter({"PROVIDER_UPLOADS_BASE_URL": f"http://127.0.0.1:{free_port()}"})
        shown.append(run(capsys, "--json")[1])
        enter({"PROVIDER_UPLOADS_REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"})
        shown.append(run(capsys)[1])
        enter({**inside.env, "PROVIDER_UPLOADS_API_KEY": "another-key-only-tests-know"})
        shown.append(run(capsys)[1])
        assert "accept the key" in shown[-1]
        for text in shown:
            assert text
            for secret in (KEY, PASSWORD, GATEWAY_KEY, "another-key-only-tests-know"):
                assert secret not in text

    def test_workers_say_what_they_are(self, inside: House) -> None:
        found = fleet.ask(settings())
        by_queue = {worker.about.queues: worker.about for worker in found.workers}
        lanes = tuple(
            protocol.transfer_queue(name, lane)
            for name in ("default", "batch")
            for lane in PriorityQueue
        )
        assert set(by_queue) == {lanes, ("control",)}
        about = by_queue[lanes]
        assert about.tiers == ("default: tier_1", "batch: tier_1")
        assert about.slots == 16
        assert about.visibility_timeout_s == 30
        assert about.profiles == ("default", "batch")
        assert about.roots == (str(inside.folder),)
        assert about.staging == str(inside.folder / "staged")
        here = describe_worker("here", [], 0, 0)
        versions = ("python", "provider_uploads", "celery", "kombu", "google_genai")
        for package in versions:
            assert getattr(about, package) == getattr(here, package) is not None
        assert all(abs(worker.skew.certain_s) < 0.5 for worker in found.workers)


class TestLimits:
    def says(self) -> dict[str, Check]:
        checks = tuple(one for one in CHECKS if one[0] in {"tiers", "storage"})
        return {check.name: check for check in examine(checks).checks}

    def test_what_holds_beside_the_tier_is_a_note(self, inside: House) -> None:
        assert self.says()["tier default"].verdict is OK
        ledger = Ledger(settings().redis_url)
        limits = Limits(ledger, lambda profile, work: "300/m")
        limits.cool_down("default", Work.UPLOAD, 100.0, "a quota")
        limits.set_rate(Work.POLL, "10/s", profiles=["default", "batch"])
        found = self.says()
        assert found["tier default"].verdict is NOTE
        assert "upload on hold for 100 s: a quota" in found["tier default"].says
        assert "poll set to 600/m (tier: 3000/m)" in found["tier batch"].says
        limits.set_rate(Work.POLL, None, profiles=["default", "batch"])
        limits.set_rate(Work.UPLOAD, None, profiles=["default", "batch"])
        assert self.says()["tier default"].verdict is OK

    def test_a_hold_of_hours(self, inside: House) -> None:
        ledger = Ledger(settings().redis_url)
        limits = Limits(ledger, lambda profile, work: "300/m")
        limits.cool_down("default", Work.UPLOAD, 3600.0, "a quota of the day")
        found = self.says()["tier default"]
        assert (found.verdict, "a quota of the day" in found.says) == (WARNING, True)
        limits.set_rate(Work.UPLOAD, None, profiles=["default"])

    def test_a_tier_that_this_environment_names(self, inside: House, enter: Enter) -> None:
        enter({**inside.env, "PROVIDER_UPLOADS_TIER": "gold"})
        found = self.says()["tier default"]
        assert found.verdict is WARNING
        assert found.says == "the workers are in tier_1, and this environment says gold"

    def test_no_worker_has_said_a_tier(self, alone: RedisProcess) -> None:
        assert self.says()["tier"].verdict is NOTE

    def test_what_a_newer_worker_says_of_a_tier(self, inside: House) -> None:
        ledger = Ledger(settings().redis_url)
        key = f"{protocol.KEY_PREFIX}tiers"
        before = str(ledger.redis.hget(key, "default"))
        ledger.redis.hset(key, "default", json.dumps({**json.loads(before), "films": "3/m"}))
        assert self.says()["tier default"].verdict is OK
        ledger.redis.hset(key, "default", before)

    def test_a_storage_that_is_nearly_full(self, inside: House) -> None:
        assert self.says()["storage default"].verdict is OK
        storage = Storage(Ledger(settings().redis_url))
        storage.reserve("default", "a" * 32, 18_500_000_000, 20_000_000_000)
        found = self.says()["storage default"]
        assert (found.verdict, "evict" in found.remedy) == (WARNING, True)
        assert found.says.startswith("18.50 of 20.00 GB")
        storage.release("default", "a" * 32)

    def test_a_message_in_a_lane_that_nobody_serves(self, inside: House) -> None:
        ledger = Ledger(settings().redis_url)
        Queues(ledger).serve(["gone"])
        ledger.redis.lpush(f"{protocol.KEY_PREFIX}transfer@gone", "{}")
        checks = tuple(one for one in CHECKS if one[0] == "queues")
        found = {check.name: check for check in examine(checks).checks}
        assert found["queue transfer@gone"].verdict is FAILURE
        assert "-Q transfer@gone" in found["queue transfer@gone"].remedy
        assert "queue transfer.bulk" not in found
        ledger.redis.delete(f"{protocol.KEY_PREFIX}transfer@gone")


class TestRedis:
    def test_down(self, alone: RedisProcess, capsys: pytest.CaptureFixture[str]) -> None:
        alone.teardown()
        begun = time.monotonic()
        code, table = run(capsys)
        assert time.monotonic() - begun < 8
        assert code == 2
        assert alone.url in table
        assert "Start it" in table
        assert "needs Redis: " in " ".join(table.split())
        assert "Traceback" not in table

    def test_stalled(self, alone: RedisProcess) -> None:
        os.kill(alone.pid, signal.SIGSTOP)
        begun = time.monotonic()
        found = {check.name: check for check in examine().checks}
        assert time.monotonic() - begun < 8
        assert found["redis"].verdict is FAILURE
        assert "TimeoutError" in found["redis"].says

    def test_a_wrong_password(self, inside: House, enter: Enter) -> None:
        enter({"PROVIDER_UPLOADS_REDIS_URL": inside.redis.url.replace("//", "//operator:wrong@")})
        found = line("redis")
        assert found.verdict is FAILURE
        assert "password in PROVIDER_UPLOADS_REDIS_URL" in found.remedy

    def test_a_user_who_may_not_ask(self, alone: RedisProcess, enter: Enter) -> None:
        with alone.client as client:
            client.execute_command(
                *("ACL", "SETUSER", "narrow", "on", f">{PASSWORD}", "~*", "&*"),
                *("+@all", "-info", "-time"),
            )
        enter({"PROVIDER_UPLOADS_REDIS_URL": alone.url.replace("//", f"//narrow:{PASSWORD}@")})
        assert line("redis").verdict is WARNING
        assert "+info" in line("redis").remedy
        assert lines("persistence") == lines("eviction") == lines("memory") == []
        assert line("clock").verdict is FAILURE
        assert "no permissions to run the 'time' command" in line("clock").says

    def test_a_replica(self, alone: RedisProcess) -> None:
        with alone.client as client:
            client.replicaof("127.0.0.1", free_port())
        assert line("redis").verdict is FAILURE
        assert "replica" in line("redis").says

    def test_eviction(self, alone: RedisProcess) -> None:
        with alone.client as client:
            assert line("eviction").verdict is OK
            client.config_set("maxmemory-policy", "allkeys-lru")
            found = line("eviction")  # without a limit nothing is dropped yet
            assert found.verdict is WARNING
            assert "as long as maxmemory is not set" in found.says
            client.config_set("maxmemory", "1gb")
            found = line("eviction")
            assert found.verdict is FAILURE
            assert "drops messages" in found.says
            assert "noeviction" in found.remedy

    def test_persistence(self, alone: RedisProcess) -> None:
        with alone.client as client:
            client.config_set("save", "")
            assert line("persistence").verdict is WARNING
            assert "appendonly yes" in line("persistence").remedy
            client.config_set("save", "3600 1")
            assert line("persistence").verdict is NOTE
            client.config_set("appendonly", "yes")
            assert line("persistence").verdict is OK
            # Before its first file is written, Redis does not stop.
            written = "aof_rewrite_in_progress"
            wait_until(lambda: client.info()[written] == 0, "the append-only file")

    def test_persistence_that_fails(self) -> None:
        disk = {"aof_enabled": 1, "aof_last_write_status": "err"}
        assert persistence_of(disk, "p", True, 0.0).verdict is FAILURE
        snapshot = {"aof_enabled": 0, "rdb_last_bgsave_status": "err", "rdb_last_save_time": 0}
        assert persistence_of(snapshot, "p", True, 0.0).verdict is FAILURE
        assert persistence_of(snapshot, "p", None, 0.0).verdict is NOTE

    def test_memory(self, alone: RedisProcess) -> None:
        with alone.client as client:
            assert line("memory").verdict is NOTE
            client.set("ballast", bytes(20_000_000))  # beside which our own connections are small
            client.config_set("maxmemory", "1gb")
            assert line("memory").verdict is OK
            small = wait_until(
                lambda: [used for used in [client.info()["used_memory"]] if used < 25_000_000],
                "the buffer that the ballast came in is given up",
            )
            (used,) = small
            client.config_set("maxmemory", int(used * 1.11))
            assert line("memory").verdict is WARNING
            client.config_set("maxmemory", used // 2)
            assert line("memory").verdict is FAILURE
            # Nothing can be asked of workers through a Redis that is full.
            assert "Redis refuses" in lines("workers")[0].says


class TestWorkers:
    def test_none(self, alone: RedisProcess, make_file: Callable[..., Path]) -> None:
        with UploadQueue() as queue:
            queue.submit(make_file())
        begun = time.monotonic()
        found = {check.name: check for check in examine().checks}
        assert time.monotonic() - begun < 8
        assert found["workers"].verdict is FAILURE
        assert "celery -A tasks worker" in found["workers"].remedy
        assert found["queue transfer"].verdict is FAILURE
        assert found["queue transfer"].says.endswith("1 message waiting")
        assert found["queue transfer"].remedy.endswith("celery -A tasks worker -Q transfer")
        assert found["queue control"].verdict is FAILURE
        assert "agreement" not in found
        assert "renewal" not in found

    def test_one_after_the_other(
        self,
        alone: RedisProcess,
        enter: Enter,
        default_worker_env: dict[str, str],
        more_workers: Callable[..., WorkerProcess],
    ) -> None:
        enter(default_worker_env)
        first = more_workers("-Q", "transfer", PROVIDER_UPLOADS_VISIBILITY_TIMEOUT_S="3")
        transfer, control, _ = lines("queues")
        assert transfer.verdict is OK
        assert control.verdict is FAILURE
        assert control.remedy.endswith("celery -A tasks worker -Q control")
        hasty = line("renewal")  # renewed every second
        assert hasty.verdict is WARNING
        assert "held up for 2.0 s" in hasty.says

        other = {
            "PROVIDER_UPLOADS_VISIBILITY_TIMEOUT_S": "30",
            "PROVIDER_UPLOADS_ROOTS": str(ROOT),
            "PROVIDER_UPLOADS_SOURCES": "https",
            "PROVIDER_UPLOADS_PROFILES__BATCH__API_KEY": KEY,
        }
        more_workers("--concurrency", "3", **other)
        transfer, control, _ = lines("queues")
        assert transfer.says == "2 workers with 19 slots, 0 messages waiting"
        assert control.verdict is OK
        mixed = line("renewal")  # one renews every 10 s what the other hands out after 3 s
        assert mixed.verdict is WARNING
        assert "visibility timeouts differ" in mixed.says
        assert "handed out while their worker is alive" in mixed.says
        differ = [check.says.partition(":")[0] for check in lines("agreement")]
        assert differ == [f"workers differ in {what}" for what in ("profiles", "roots", "sources")]

        first.teardown()
        answer, serves_both = lines("workers")
        assert answer.verdict is OK
        assert serves_both.verdict is NOTE
        assert "-Q control" in serves_both.remedy

    def test_one_that_does_not_understand(self, alone: RedisProcess, tmp_path: Path) -> None:
        (tmp_path / "older.py").write_text(
            "from celery import Celery\n"
            f"app = Celery('older', broker={alone.url!r})\n"
            f"prefix = {protocol.KEY_PREFIX!r}\n"
            "app.conf.broker_transport_options = {'global_keyprefix': prefix}\n"
        )
        argv = ("celery", "-A", "older", "worker", "--pool", "solo", "--loglevel", "INFO")
        older = WorkerProcess(
            Process([sys.executable, "-m", *argv], name="older", folder=tmp_path, cwd=tmp_path)
        )
        older.ready()
        try:
            (found,) = lines("workers")
            assert found.verdict is WARNING
            assert "celery@" in found.says
            assert [check.verdict for check in lines("queues")] == [WARNING, WARNING, OK]
        finally:
            older.teardown()


class TestWork:
    def test_an_upload_that_waits_for_long(
        self, alone: RedisProcess, make_file: Callable[..., Path]
    ) -> None:
        assert line("uploads").says == "none waits to begin; 0 under way"
        with UploadQueue() as queue, alone.client as client:
            ticket = queue.submit(make_file())
            queue.submit(make_file())
            assert line("uploads").verdict is OK
            row = f"{protocol.KEY_PREFIX}upload:{ticket}"
            client.hset(row, "queued_at", time.time() - 3600)
            waits = line("uploads")
            assert waits.verdict is WARNING
            assert f"{ticket}, waits for 60 min" in waits.says
            assert "slots are busy" in waits.remedy
            client.delete(f"{protocol.KEY_PREFIX}transfer")
            assert "the sweep submits a lost one again" in line("uploads").remedy
            client.hset(row, "note", "attempt 2 of 10 failed")
            assert line("uploads").says.endswith("attempt 2 of 10 failed")

    def test_a_batch_that_waits_for_long(self, alone: RedisProcess) -> None:
        assert line("batches").says == "none waits to begin; 0 under way or being cleaned up"
        with UploadQueue() as queue, alone.client as client:
            ticket = queue.batch([{"contents": "Hi"}], model="gemini-2.5-flash")
            assert line("batches").verdict is OK
            row = f"{protocol.KEY_PREFIX}batch:{ticket}"
            client.hset(row, "queued_at", time.time() - 3600)
            client.hset(row, "note", "waits: all 100 batch jobs of the account are taken")
            waits = line("batches")
            assert waits.verdict is WARNING
            assert f"{ticket}, for 60 min: waits: all 100" in waits.says

    def test_what_gone_workers_left(self, alone: RedisProcess) -> None:
        with alone.client as client:
            client.hset(f"{protocol.KEY_PREFIX}unacked", "tag", "[]")
        *_, held = lines("queues")
        assert held.says.startswith("1 message left by workers that are gone")

    def test_the_sweep(self, alone: RedisProcess) -> None:
        never = line("sweep")
        assert never.verdict is WARNING
        assert "provider-uploads beat" in never.remedy
        ledger = Ledger(alone.url)
        sweep = Sweep(ledger, ITEMS, lambda message: None, quiet_s=60)
        sweep.done(every_s=60)
        assert line("sweep").verdict is OK
        sweep.done(every_s=0.01)
        wait_until(lambda: line("sweep").verdict is WARNING, "it is late")
        assert "one is due every 0.01 s" in line("sweep").says
        with sweep.alone(20):
            assert line("sweep").says.endswith("one is under way")
        ledger.close()

    def test_an_outage(self, inside: House) -> None:
        ledger = Ledger(settings().redis_url)
        breaker = Breaker(ledger, failures=2, probes=Backoff(30.0))
        assert line("breaker").says == "closed for batch, default"
        for _ in range(2):
            breaker.record_failure("batch", breaker.check("batch"))
        down = line("breaker")
        assert down.verdict is WARNING
        found = re.search(r"profile batch is down for (\d+) s: .* next in (\d+) s", down.says)
        assert found
        assert 29 <= sum(map(int, found.groups())) <= 31
        permit = breaker.check("batch")
        breaker.record_success("batch", permit)
        assert line("breaker").verdict is OK
        ledger.close()


class TestThisMachine:
    def test_a_key_that_is_refused(self, inside: House, enter: Enter) -> None:
        enter({"PROVIDER_UPLOADS_API_KEY": "another"})
        found = lines("profiles")[0]
        assert found.verdict is FAILURE
        assert found.says.startswith(f"{inside.gemini.url} does not accept the key (HTTP 400")
        assert "GEMINI_API_KEY" in found.remedy

    def test_no_key(self, alone: RedisProcess, enter: Enter) -> None:
        enter({"PROVIDER_UPLOADS_PROFILES__BATCH__BASE_URL": "https://gateway.example/genai"})
        default, batch = lines("profiles")
        assert (default.verdict, default.remedy) == (FAILURE, "Set GEMINI_API_KEY.")
        assert batch.verdict is WARNING
        assert batch.remedy == "Set PROVIDER_UPLOADS_PROFILES__BATCH__API_KEY."

    def test_a_provider_that_is_down(self, inside: House, enter: Enter) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        enter({"PROVIDER_UPLOADS_BASE_URL": url})
        found = lines("profiles")[0]
        assert found.verdict is FAILURE
        assert found.says.startswith(f"{url} cannot be used")
        assert "PROVIDER_UPLOADS_BASE_URL" in found.remedy

    def test_a_gateway_that_lists(self, inside: House, enter: Enter) -> None:
        enter(
            {
                "PROVIDER_UPLOADS_PROFILES__BATCH__API_KEY": KEY,
                "PROVIDER_UPLOADS_PROFILES__BATCH__HEADERS": '{"x-model-provider": "openai"}',
            }
        )
        assert [check.verdict for check in lines("profiles")] == [OK, OK]
        enter({"PROVIDER_UPLOADS_PROFILES__BATCH__HEADERS": '{"x-model-provider": "nobody"}'})
        assert lines("profiles")[1].verdict is FAILURE
        assert "'nobody' is no provider" in lines("profiles")[1].says

    def test_folders(self, inside: House, enter: Enter, tmp_path: Path) -> None:
        assert line("roots") == ok("roots", str(inside.folder))
        enter({"PROVIDER_UPLOADS_ROOTS": os.pathsep.join([str(inside.folder), "/no/where"])})
        assert line("roots").verdict is WARNING
        enter({"PROVIDER_UPLOADS_ROOTS": "/no/where"})
        assert line("roots").verdict is FAILURE
        enter({"PROVIDER_UPLOADS_ROOTS": ""})
        assert line("roots").verdict is NOTE

        enter({"PROVIDER_UPLOADS_STAGING": str(tmp_path / "none")})
        assert line("staging").verdict is FAILURE
        assert "is no folder" in line("staging").says
        assert "no worker reads there" in lines("agreement")[0].says
        enter({"PROVIDER_UPLOADS_STAGING": ""})
        assert line("staging").verdict is NOTE

    def test_flower(self, inside: House, enter: Enter) -> None:
        assert line("flower").verdict is NOTE
        port = free_port()
        env = {
            "PROVIDER_UPLOADS_FLOWER_AUTH": "operator:secret",
            "PROVIDER_UPLOADS_FLOWER_PORT": str(port),
        }
        enter(env)
        assert "nothing answers" in line("flower").says
        assert line("flower").verdict is NOTE
        flower = Process(
            [
                *(sys.executable, "-m", "celery", "-A", "tasks", "flower"),
                f"--conf={ROOT / 'config' / 'flowerconfig.py'}",
            ],
            name="flower",
            folder=inside.folder,
            env={**inside.env, **env},
            cwd=ROOT,
        )
        try:
            wait_until(lambda: line("flower").verdict is OK, "Flower answers")
        finally:
            flower.stop()
        # Something else answers there.
        enter({"PROVIDER_UPLOADS_FLOWER_PORT": str(httpx2.URL(inside.gemini.url).port)})
        assert line("flower").verdict is WARNING

    def test_a_variable_that_is_wrong(
        self, enter: Enter, capsys: pytest.CaptureFixture[str]
    ) -> None:
        enter({"PROVIDER_UPLOADS_REDIS_URL": f"http://:{PASSWORD}@127.0.0.1"})
        code, table = run(capsys)
        assert code == 2
        assert "must begin with redis://" in table
        assert PASSWORD not in table


# -- of records, without a server ------------------------------------------------------------------


def worker(name: str = "w@1", skew: Skew = Skew(0, 0), **changes: Any) -> Worker:  # noqa: B008
    about = describe_worker(name, ["transfer", "control"], 16, 30)
    return Worker(about.model_copy(update={"profiles": ("default",), **changes}), skew)


class TestClocks:
    def test_what_an_answer_that_took_its_time_says(self) -> None:
        assert Skew.measured(10.0, 10.5, 11.0).certain_s == 0
        assert Skew.measured(10.0, 15.0, 11.0).certain_s == 4
        assert Skew.measured(10.0, 7.0, 11.0).certain_s == -3
        ahead, behind = Skew.measured(10.0, 15.0, 10.0), Skew.measured(10.0, 7.0, 10.0)
        assert ahead.against(behind) == Skew(8, 8)
        assert behind.against(ahead).most_s == 8

    def test_whose_is_off(self) -> None:
        (found,) = clocks_of({"a": Skew(-0.1, 0.1), "b": Skew(2.9, 3.1)})
        assert found.verdict is WARNING
        assert found.says.startswith("b is 2.9 s ahead of Redis")
        (found,) = clocks_of({"a": Skew(-9, -8)})
        assert found.says.startswith("a is 8.0 s behind Redis")
        # Half a minute's wait for an answer says nothing.
        assert [check.verdict for check in clocks_of({"a": Skew(-30, 1)})] == [OK]

    def test_clocks_eat_into_the_visibility_timeout(self) -> None:
        apart = Fleet((worker(), worker("w@2", Skew(-21, -21))))
        (found,) = renewal_in(apart)
        assert found.verdict is WARNING
        assert "by clocks 21.0 s apart" in found.says
        assert "handed out while their worker is alive" in found.says


class TestAgreement:
    def said(self, *workers: Worker) -> list[str]:
        return [check.says for check in agreement_in(Fleet(workers), settings())]

    def test_versions(self) -> None:
        (said,) = self.said(worker(), worker("w@2", celery="5.6.3"))
        assert said.startswith("workers run different versions of celery: 5.7")
        assert said.endswith("5.6.3 (w@2)")
        (said,) = self.said(worker(provider_uploads="0.0.9"))
        assert "0.0.9, not the version here" in said

    def test_no_key_anywhere(self) -> None:
        (found,) = agreement_in(Fleet((worker(profiles=()),)), settings())
        assert found.verdict is FAILURE

    def test_many_names_are_counted(self) -> None:
        (said, _) = alive_in(Fleet(tuple(worker(f"w@{n}") for n in range(100))))
        assert said.says.endswith("and 94 more")

    def test_what_a_newer_worker_says_besides(self) -> None:
        said = worker().about.model_dump(mode="json") | {"tier": 3}
        assert WorkerInfo.model_validate(said).worker == "w@1"

    def test_a_queue(self) -> None:
        some = Fleet((worker(queues=("transfer",)), worker("w@2", queues=("transfer",), slots=4)))
        assert (
            queue_of("transfer", 1234, some).says
            == "2 workers with 20 slots, 1,234 messages waiting"
        )


class TestExamining:
    def test_a_check_that_fails_is_a_line(self, alone: RedisProcess, enter: Enter) -> None:
        enter({"GEMINI_API_KEY": KEY})

        def breaks(here: CheckContext) -> Iterator[Check]:
            yield ok("before", "")
            raise KeyError(f"{KEY} is not here")

        found = examine((("odd", breaks), *CHECKS[:1]))
        assert found.checks[0].name == "odd"
        assert found.checks[0].verdict is FAILURE
        assert "KeyError: '*** is not here'" in found.checks[0].says
        assert len(found.checks) > 1

    def test_a_check_that_hangs_is_not_waited_for(self, alone: RedisProcess) -> None:
        goes_on = threading.Event()

        def hangs(here: CheckContext) -> Iterator[Check]:
            goes_on.wait()
            yield ok("hangs", "")

        found = examine((("hangs", hangs), *CHECKS[:1]), most_s=0.5)
        goes_on.set()
        assert found.checks[0].says == "no answer in time"
        assert len(found.checks) > 1

    def test_the_worst_counts(self) -> None:
        checks = [ok("a", ""), note("b", "")]
        assert Examination.of(checks).verdict is OK
        assert Examination.of([*checks, warning("c", "", "")]).verdict is WARNING
        assert (
            Examination.of([failure("d", "", ""), warning("c", "", ""), *checks]).verdict is FAILURE
        )

    def test_the_table(self) -> None:
        checks = [
            warning("a [b]", "line\x1b[31m", "Do it."),
            failure("c", "so", "That."),
            ok("d", ""),
        ]
        screen = Console(file=io.StringIO(), record=True, width=60, highlight=False)
        screen.print(report(Examination.of(checks)))
        assert [row.rstrip() for row in screen.export_text().splitlines()] == [
            "warning  a [b]  line\N{REPLACEMENT CHARACTER}[31m",
            "                → Do it.",
            "failure  c      so",
            "                → That.",
            "ok       d",
            "",
            "It does not work: 1 failure, 1 warning.",
        ]


# -- what the page for operators shows -------------------------------------------------------------

PAGE = blocks((ROOT / "docs" / "operations.md").read_text())


def words(text: str) -> str:
    """Return a table without what differs from run to run: widths, numbers, paths, names."""
    text = re.sub(r"(?<=\s)/\S+?(?=[:;,\s])", "PATH", text)
    text = re.sub(r"\S+@[^\s,]+", "WORKER", text)
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)*", "N", text)).strip()


@pytest.mark.parametrize("number", range(len(PAGE)))
def test_the_page_for_operators(house: House, number: int) -> None:
    assert PAGE[number].language == "console"
    first, _, shown = PAGE[number].text.partition("\n")
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, **house.env, "PATH": scripts, "COLUMNS": "100"}

    done = subprocess.run(
        ["bash", "-c", first.removeprefix("$ ")],
        cwd=house.folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert words(done.stdout) == words(shown), done.stdout + done.stderr
    assert done.returncode == (0 if "All is well." in shown else 2)
