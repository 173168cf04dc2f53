"""Installed by pip beside other frameworks and versions, each in a virtualenv of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_celery import CeleryTestSetup

from provider_uploads import UploadQueue
from tests.environments import Environment
from tests.nodes import Process, RedisProcess, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

#: The oldest Celery and redis-py that the client is tested with.
OLDEST = ("celery[redis]==5.4.0", "kombu==5.4.0", "redis==4.5.2")

HOSTS = {
    "django": """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
open("settings.py", "w").write("SECRET_KEY='x'; ROOT_URLCONF='urls'; ALLOWED_HOSTS=['*']")
open("urls.py", "w").write(
    "from django.http import JsonResponse\\n"
    "from django.urls import path\\n"
    "from provider_uploads import UploadQueue\\n"
    "queue = UploadQueue()\\n"
    "urlpatterns = [path('up', lambda r: JsonResponse({'t': queue.submit(r.GET['p'])}))]\\n"
)
import sys; sys.path.insert(0, os.getcwd())
import django; django.setup()
from django.test import Client
print(Client().get("/up", {"p": os.environ["FILE"]}).json()["t"])
""",
    "flask": """
import os
from flask import Flask, request
from provider_uploads import UploadQueue
app, queue = Flask(__name__), UploadQueue()
app.get("/up")(lambda: {"t": queue.submit(request.args["p"])})
print(app.test_client().get("/up", query_string={"p": os.environ["FILE"]}).json["t"])
""",
    "fastapi": """
import os
from fastapi import FastAPI
from fastapi.testclient import TestClient
from provider_uploads import UploadQueue
app, queue = FastAPI(), UploadQueue()
@app.get("/up")
def up(p: str) -> dict: return {"t": queue.submit(p)}
print(TestClient(app).get("/up", params={"p": os.environ["FILE"]}).json()["t"])
""",
    "asyncio": """
import asyncio, os
from provider_uploads import AsyncUploadQueue
async def up():
    async with AsyncUploadQueue() as queue:
        ticket = await queue.submit(os.environ["FILE"], owner="ann")
        for _ in range(50):  # browsers that leave
            asking = asyncio.create_task(queue.list(owner="ann"))
            await asyncio.sleep(0)
            asking.cancel()
            assert (await queue.status(ticket)).ticket == ticket
        stages = [status.stage async for status in queue.events([ticket], timeout_s=20)]
        assert stages[-1] == "ACTIVE", stages
        assert [one.ticket for one in (await queue.list(owner="ann")).uploads] == [ticket]
        print(ticket)
asyncio.run(up())
""",
}
PACKAGES = {
    "django": ["django"],
    "flask": ["flask"],
    "fastapi": ["fastapi", "httpx"],
    "asyncio": [],
}


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    """The client beside the oldest Celery, with three frameworks."""
    frameworks = [name for names in PACKAGES.values() for name in names]
    folder = tmp_path_factory.mktemp("oldest") / "venv"
    return Environment(folder, wheel, "", *OLDEST, *frameworks)


@pytest.mark.parametrize("host", HOSTS)
def test_a_web_app_with_the_oldest_celery_enqueues(
    oldest: Environment,
    host: str,
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    default_redis_broker: RedisProcess,
    make_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Its own process, framework, Celery and redis-py; the worker is ours."""
    path, folder = make_file("a.txt"), tmp_path / host
    folder.mkdir()
    env = {"PROVIDER_UPLOADS_REDIS_URL": default_redis_broker.url, "FILE": str(path)}
    ticket = oldest.run("-c", HOSTS[host], cwd=folder, **env).strip()
    assert re.fullmatch(r"[0-9a-f]{32}", ticket)
    assert queue.result(ticket, timeout_s=60).state == "ACTIVE"
    assert oldest.run("-c", "import celery; print(celery.__version__)").strip() == "5.4.0"


def test_the_command_line_runs_where_django_is_set_up(oldest: Environment, tmp_path: Path) -> None:
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "nowhere.settings"}
    done = subprocess.run(
        [oldest.bin / "provider-uploads", "status", "0" * 32],
        cwd=tmp_path,
        env={**env, "PROVIDER_UPLOADS_REDIS_URL": "redis://127.0.0.1:1/0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_a_bare_install_is_small_and_loads_little(oldest: Environment) -> None:
    code = "import sys; before = set(sys.modules); import provider_uploads; " + (
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    loaded = oldest.run("-c", code)
    for heavy in ("celery", "kombu", "redis", "pydantic", "rich", "click"):
        assert f"'{heavy}'" not in loaded
    assert "errors" in oldest.run("-c", "import provider_uploads; print(provider_uploads.errors)")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    return Environment(tmp_path_factory.mktemp("everything") / "venv", wheel, "[all]")


class TestEverything:
    """``pip install 'provider-uploads[all]' && provider-uploads up`` in an empty folder."""

    @pytest.fixture
    def up(self, everything: Environment, tmp_path: Path) -> Iterator[Process]:
        """A folder with somebody else's ``tasks`` and ``config`` in it."""
        folder = tmp_path / "empty"
        for name in ("tasks", "config"):
            (folder / name).mkdir(parents=True)
            (folder / name / "__init__.py").write_text("raise SystemExit('not ours')\n")
        argv = [str(everything.bin / "provider-uploads"), "up", "--redis-port", "0"]
        node = Process(argv, name="up", folder=folder)
        yield node
        node.stop()

    def test_up_brings_a_file_to_active(self, everything: Environment, up: Process) -> None:
        wait_until(lambda: b"Ready." in up.logs(), "Ready")
        said = up.logs().decode()
        found = re.search(r"Redis (redis://\S+)", said)
        assert found
        path = up.cwd / "a.txt"
        path.write_text("hello")
        code = (
            "from provider_uploads import UploadQueue; q = UploadQueue();"
            f"print(q.result(q.submit({str(path)!r}), timeout_s=30).state)"
        )
        said = everything.run("-P", "-c", code, PROVIDER_UPLOADS_REDIS_URL=str(found[1]))
        assert said.strip() == "ACTIVE"
        up.process.send_signal(signal.SIGINT)

    def test_no_name_of_ours_is_at_the_top(self, everything: Environment, tmp_path: Path) -> None:
        code = "import importlib.util as u; print([u.find_spec(m) for m in ('tasks', 'config')])"
        assert everything.run("-c", code, cwd=tmp_path).strip() == "[None, None]"

    def test_a_worker_takes_numbers_of_ones_own(
        self, everything: Environment, tmp_path: Path
    ) -> None:
        tiers, policy = tmp_path / "tiers.toml", tmp_path / "policy.env"
        tiers.write_text("[mine]\ntransfer_concurrency = 3\n")
        policy.write_text("PROVIDER_UPLOADS_TIER=mine\nPROVIDER_UPLOADS_UPLOAD_TRIES=many\n")
        done = subprocess.run(
            [
                *(everything.bin / "provider-uploads", "worker"),
                *("--tiers-file", tiers, "--policy", policy),
            ],
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if k != "PROVIDER_UPLOADS_ENV_FILE"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 1
        assert "PROVIDER_UPLOADS_UPLOAD_TRIES: Input should be a valid integer" in done.stderr
