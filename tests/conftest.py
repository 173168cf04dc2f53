"""Fixtures for all tests: a clean environment, a real Redis, a local Gemini, real workers."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import httpx2
import pytest
from celery import Celery
from pydantic import SecretStr
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestSetup,
    RedisTestBackend,
    RedisTestBroker,
)

from provider_uploads import UploadQueue, protocol
from provider_uploads.emulator import EmulatorConfig, LocalGemini
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.profiles import Profile
from provider_uploads.settings import settings
from tests.accounts import Account, table
from tests.environments import build_wheel
from tests.nodes import ROOT, Process, RedisProcess, WorkerProcess, free_port, wait_until
from tests.origins import S3, Origin
from tests.pool import Pool

KEY = "a-key-only-tests-know"

# For ``--live`` only.
_REAL_KEY = os.environ.get("GEMINI_API_KEY")

# A developer's own keys and settings must neither help a test nor be seen by one.
for name in list(os.environ):
    if name.startswith(
        ("PROVIDER_UPLOADS_", "CELERY_", "GEMINI_", "GOOGLE_", "FLOWER_", "AWS_", "SSL_", "POLLUX_")
    ):
        del os.environ[name]
os.environ["PROVIDER_UPLOADS_ENV_FILE"] = ""  # nor the .env in their checkout


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--live", action="store_true", help="run tests/test_live.py at Google's service"
    )
    parser.addoption(
        "--chaos", action="store_true", help="run tests/test_chaos.py at full length, with a table"
    )
    parser.addoption(
        "--tiers", action="store_true", help="run tests/test_fleet_limits.py, a quarter of an hour"
    )
    parser.addoption(
        "--fuzz", action="store_true", help="run tests/test_emulator_fuzz.py for two minutes"
    )
    parser.addoption("--chaos-seed", type=int, default=1, help="what tests/test_chaos.py draws")


ACCOUNTS = pytest.StashKey[list[Account]]()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Twice as many as there are cores: most tests wait for processes or for a deadline."""
    return (os.cpu_count() or 2) * 2


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    accounts = config.stash.get(ACCOUNTS, [])
    if accounts and config.getoption("--chaos"):
        terminalreporter.section(f"chaos, seed {config.getoption('--chaos-seed')}")
        terminalreporter.write_line(table(accounts))


@pytest.fixture(scope="session")
def live_key(request: pytest.FixtureRequest) -> str | None:
    """The real key, if these tests may use it."""
    if not request.config.getoption("--live"):
        return None
    assert _REAL_KEY, "--live needs GEMINI_API_KEY"
    return _REAL_KEY


@pytest.fixture(autouse=True)
def fresh_settings() -> Iterator[None]:
    """Settings are read once a process; each test is a new reader."""
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project, as it is uploaded to a package index."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """One Redis for all tests that neither stop nor stall it."""
    node = RedisProcess.spawn(tmp_path_factory.mktemp("redis"))
    node.ready()
    yield node
    node.teardown()


@pytest.fixture
def redis_url(shared_redis: RedisProcess) -> str:
    """The shared Redis, emptied."""
    with shared_redis.client as client:
        client.flushall()
    return shared_redis.url


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    made = Ledger(redis_url)
    yield made
    made.close()


@pytest.fixture
def flower(tmp_path: Path, default_worker_env: dict[str, str]) -> Iterator[httpx2.Client]:
    """A client of Flower, logged in."""
    port = free_port()
    env = {
        **default_worker_env,
        "PROVIDER_UPLOADS_FLOWER_AUTH": "operator:pass",
        "PROVIDER_UPLOADS_FLOWER_PORT": str(port),
    }
    conf = f"--conf={ROOT / 'config' / 'flowerconfig.py'}"
    argv = [sys.executable, "-m", "celery", "-A", "tasks", "flower", conf]
    node = Process(argv, name="flower", folder=tmp_path, env=env, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    with httpx2.Client(base_url=url, auth=("operator", "pass"), timeout=20) as client:
        wait_until(lambda: b"Visit me at" in node.logs(), "Flower")
        yield client
    node.kill()


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    """How the local Gemini behaves; classes override it."""
    return EmulatorConfig(processing_s=0.3, api_keys=frozenset({KEY}))


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """What tests use one after another."""
    made = Pool(tmp_path_factory.mktemp("pool"))
    yield made
    made.close()


@pytest.fixture
def gemini(gemini_config: EmulatorConfig, pool: Pool) -> LocalGemini:
    return pool.gemini(gemini_config)


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[..., Path]:
    """Make a file of seeded random bytes in a folder that workers may read."""
    folder = tmp_path / "files"
    folder.mkdir()

    def make(name: str = "clip.mp4", size_bytes: int = 1000) -> Path:
        path = folder / name
        path.write_bytes(random.Random(name).randbytes(size_bytes))
        return path

    return make


# -- pytest-celery: its setup, on processes --------------------------------------------------------


@pytest.fixture
def default_redis_broker(
    request: pytest.FixtureRequest, tmp_path: Path, pool: Pool
) -> Iterator[RedisProcess]:
    """The pool's Redis where the test has a worker; else one that no worker serves."""
    if {"celery_setup", "default_worker_container"} & set(request.fixturenames):
        yield pool.redis()
        return
    node = RedisProcess.spawn(tmp_path)
    node.ready()
    yield node
    node.teardown()


@pytest.fixture
def default_redis_backend(default_redis_broker: RedisProcess) -> RedisProcess:
    return default_redis_broker  # one server for both, as in production


@pytest.fixture
def celery_broker_cluster(celery_redis_broker: RedisTestBroker) -> Iterator[CeleryBrokerCluster]:
    cluster = CeleryBrokerCluster(celery_redis_broker)
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_backend_cluster(
    celery_redis_backend: RedisTestBackend,
) -> Iterator[CeleryBackendCluster]:
    cluster = CeleryBackendCluster(celery_redis_backend)
    yield cluster
    cluster.teardown()


@pytest.fixture
def default_worker_container_cls() -> type[WorkerProcess]:
    return WorkerProcess


@pytest.fixture
def policy() -> dict[str, str]:
    """Numbers of config/policy.py for this test's workers; classes override it."""
    return {}


@pytest.fixture
def default_worker_env(
    default_redis_broker: RedisProcess,
    gemini: LocalGemini,
    tmp_path_factory: pytest.TempPathFactory,
    policy: dict[str, str],
) -> dict[str, str]:
    return {
        "PROVIDER_UPLOADS_REDIS_URL": default_redis_broker.url,
        "PROVIDER_UPLOADS_BASE_URL": gemini.url,
        "GEMINI_API_KEY": KEY,
        "PROVIDER_UPLOADS_TIER": "unlimited",
        "PROVIDER_UPLOADS_ROOTS": str(tmp_path_factory.getbasetemp()),  # the same for all tests
        "PROVIDER_UPLOADS_UPLOAD_RETRY_FIRST_S": "0.05",
        "PROVIDER_UPLOADS_DELETE_RETRY_FIRST_S": "0.05",
        "PROVIDER_UPLOADS_COOL_DOWN_FIRST_S": "0.05",
        "PROVIDER_UPLOADS_BREAKER_PROBE_FIRST_S": "0.05",
        "PROVIDER_UPLOADS_BREAKER_PROBE_MAX_S": "0.5",
        **policy,
    }


@pytest.fixture
def default_worker_container(
    request: pytest.FixtureRequest,
    pool: Pool,
    default_worker_command: list[str],
    default_worker_env: dict[str, str],
) -> Iterator[WorkerProcess]:
    yield pool.worker(default_worker_command, default_worker_env)
    if "flower" in request.fixturenames:  # it has switched the worker's events on
        pool.discard_worker()


@pytest.fixture
def default_worker_app(default_redis_broker: RedisProcess) -> Celery:
    """An app for a test's own questions: it knows the broker, not the tasks."""
    app = Celery(
        "tests",
        broker=default_redis_broker.url,
        backend=default_redis_broker.url,
        set_as_current=False,
    )
    app.conf.broker_transport_options = {"global_keyprefix": protocol.KEY_PREFIX}
    return app


@pytest.fixture
def celery_setup_app(default_worker_app: Celery) -> Celery:
    return default_worker_app


@pytest.fixture
def more_workers(
    tmp_path: Path, default_worker_env: dict[str, str]
) -> Iterator[Callable[..., WorkerProcess]]:
    """Start further workers: ``more_workers("-Q", "control", PROVIDER_UPLOADS_…="…")``."""
    nodes: list[WorkerProcess] = []

    def start(*arguments: str, **env: str) -> WorkerProcess:
        command = WorkerProcess.command(*arguments)
        nodes.append(WorkerProcess.spawn(tmp_path, command, {**default_worker_env, **env}))
        nodes[-1].ready()
        return nodes[-1]

    yield start
    for node in nodes:
        node.teardown()


@pytest.fixture
def queue(
    celery_setup: CeleryTestSetup, default_redis_broker: RedisProcess
) -> Iterator[UploadQueue]:
    """A client of the running setup."""
    with UploadQueue(default_redis_broker.url) as made:
        yield made


@pytest.fixture
def quick() -> dict[str, Any]:
    """A poll policy for tests: polls close together, no jitter."""
    return {"timeout_s": 15, "poll_s": 0.05, "max_poll_s": 0.2, "jitter_s": 0}


def profile_at(base_url: str, key: str = KEY, **fields: Any) -> Profile:
    """A profile for the server there."""
    return Profile(api_key=SecretStr(key), base_url=base_url, **fields)


# -- where remote sources come from ----------------------------------------------------------------


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One S3 server for all tests; each uses names of its own."""
    with S3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The S3 server, as this process's own, whose clients are new to the environment."""
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    clients = fsspec.get_filesystem_class("s3")
    clients.clear_instance_cache()
    yield s3_server
    clients.clear_instance_cache()
    gc.collect()  # one that nobody closed warns when it is collected, and warnings are errors


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Origin]:
    """A local https server."""
    with Origin(tmp_path) as running:
        yield running
