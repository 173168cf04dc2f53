"""The container files, as far as they can be wrong without a container engine."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from redis import Redis
from redis.exceptions import RedisError

from provider_uploads import protocol
from provider_uploads.errors import ConfigurationError
from provider_uploads.local.stack import find_redis_server
from tests.nodes import free_port, wait_until

HOME = Path(__file__).resolve().parents[1]
FLOWER_CONFIG = HOME / "config" / "flowerconfig.py"
QUEUES = {protocol.TRANSFER_QUEUE, protocol.CONTROL_QUEUE}


Services = dict[str, dict[str, Any]]


@pytest.fixture
def services() -> Services:
    yaml: Any = pytest.importorskip("yaml", reason="PyYAML reads docker-compose.yml")
    parsed: dict[str, Services] = yaml.safe_load((HOME / "docker-compose.yml").read_text())
    return parsed["services"]


class TestCompose:
    def test_workers_serve_exactly_the_queues_of_the_contract(self, services: Services) -> None:
        served = [set(_after("-Q", argv).split(",")) for argv in _workers(services).values()]
        assert set[str]().union(*served) == QUEUES
        assert sum(map(len, served)) == len(QUEUES), "a queue is served by two kinds of workers"

    def test_workers_can_be_scaled_and_come_back(self, services: Services) -> None:
        for name, argv in _workers(services).items():
            node = _after("-n", argv)
            assert node.endswith("@%h"), "two containers would have one node name"
            assert (
                f"-d {node.removesuffix('%h')}$$HOSTNAME" in services[name]["healthcheck"]["test"]
            )
            assert "container_name" not in services[name]
            assert "ports" not in services[name]
            assert services[name]["restart"] == "unless-stopped"

    def test_workers_see_the_folder_under_the_path_the_client_sees(
        self, services: Services
    ) -> None:
        for name in _workers(services):
            (mount,) = services[name]["volumes"]
            assert mount["source"] == mount["target"]
            assert mount["target"] == services[name]["environment"]["PROVIDER_UPLOADS_ROOTS"]
            assert mount["read_only"] is True

    def test_profiles_and_numbers_reach_workers_only(self, services: Services) -> None:
        told = {name for name, service in services.items() if "env_file" in service}
        assert told == {*_workers(services)}
        for name in told:
            assert services[name]["env_file"] == [{"path": "workers.env", "required": False}]
        assert "workers.env" in (HOME / ".gitignore").read_text().splitlines()

    def test_nothing_is_published_beyond_this_machine(self, services: Services) -> None:
        published = {name: service.get("ports", []) for name, service in services.items()}
        assert {name for name, ports in published.items() if ports} == {
            "redis",
            "flower",
            "local-gemini",
        }
        for port in (port for ports in published.values() for port in ports):
            assert re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port)
        assert not [name for name, service in services.items() if "network_mode" in service]

    def test_secrets_come_from_outside_and_only_to_those_who_need_them(
        self, services: Services
    ) -> None:
        told: dict[str, set[str]] = {}
        for name, service in services.items():
            for variable, value in service.get("environment", {}).items():
                if re.search(r"KEY|AUTH|PASSWORD|TOKEN|SECRET", variable):
                    told.setdefault(variable, set()).add(name)
                    assert re.fullmatch(r"\$\{\w+:-(\$\{\w+:\+local\})?\}", value)
        assert told == {
            "GEMINI_API_KEY": {"preflight", *_workers(services)},
            "PROVIDER_UPLOADS_FLOWER_AUTH": {"flower"},
        }

    def test_the_local_gemini_takes_its_options_and_is_where_the_comments_say(
        self, services: Services
    ) -> None:
        from provider_uploads.cli import cli

        service = services["local-gemini"]
        assert service["profiles"] == ["local"]
        program, command, *options = shlex.split(service["command"])
        assert program == "provider-uploads"
        found = cli.get_command(click.Context(cli), command)
        assert found
        given = found.make_context(command, options).params
        assert given["host"] == "0.0.0.0"
        assert service["ports"][0].endswith(f":{given['port']}")
        assert f"BASE_URL=http://local-gemini:{given['port']} " in (
            HOME / "docker-compose.yml"
        ).read_text().replace("\n", " ")

    def test_what_make_knows_is_kept_for_later_commands(self, tmp_path: Path) -> None:
        def run(**env: str) -> str:
            done = subprocess.run(
                ["sh", str(HOME / "config" / "compose_env.sh")],
                env={"PATH": os.environ["PATH"], **env},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=True,
            )
            return done.stdout

        said = run()
        written = (tmp_path / ".env").read_text()
        known = dict(line.split("=", 1) for line in written.splitlines() if line[0] != "#")
        assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
        assert known["PROVIDER_UPLOADS_FLOWER_AUTH"] in said
        assert known["PROVIDER_UPLOADS_FILES"] == str(tmp_path / "files")
        assert known["COMPOSE_PROFILES"] == "local"
        assert (tmp_path / "files").is_dir()
        variables = set(re.findall(r"\$\{(\w+)", (HOME / "docker-compose.yml").read_text()))
        assert set(known) - {"COMPOSE_PROFILES"} <= variables
        run()
        assert (tmp_path / ".env").read_text() == written, "the second time changes nothing"

        (tmp_path / ".env").write_text("GEMINI_API_KEY=k\n")
        assert "local Gemini" not in run(PROVIDER_UPLOADS_TIER="tier_1")
        assert "COMPOSE_PROFILES" not in (tmp_path / ".env").read_text()

    def test_one_service_builds_the_image_and_nobody_pulls_it(self, services: Services) -> None:
        ours = {name: s for name, s in services.items() if s["image"] == "provider-uploads"}
        assert [name for name, service in ours.items() if "build" in service] == ["preflight"]
        others = [service["pull_policy"] for name, service in ours.items() if name != "preflight"]
        assert others == ["never"] * (len(ours) - 1)


def _workers(services: Services) -> dict[str, list[str]]:
    commands = {name: service.get("command") for name, service in services.items()}
    argvs = {name: shlex.split(c) for name, c in commands.items() if isinstance(c, str)}
    workers = {name: argv for name, argv in argvs.items() if "worker" in argv}
    assert workers
    return workers


def _after(option: str, argv: list[str]) -> str:
    return argv[argv.index(option) + 1]


class TestImage:
    def test_is_made_of_what_exists_and_of_nothing_else(self) -> None:
        copied = re.findall(r"^COPY (?!--)(.*) \S+$", (HOME / "Dockerfile").read_text(), re.M)
        needed = {source for line in copied for source in line.split()}
        rules = [
            line
            for line in (HOME / ".dockerignore").read_text().splitlines()
            if line and not line.startswith("#")
        ]
        assert rules[0] == "*"  # so that no .env, and nothing else unnamed, is ever sent
        assert {rule[1:] for rule in rules if rule.startswith("!")} == needed
        assert all((HOME / source).exists() for source in needed)

    def test_installs_extras_that_exist_and_runs_without_rights(self) -> None:
        dockerfile = (HOME / "Dockerfile").read_text()
        project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
        (extras,) = re.findall(r"'\.\[([\w,]+)\]'", dockerfile)
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
        assert re.findall(r"^USER (\d+):", dockerfile, re.M)[-1] != "0"


class TestRedisConf:
    @pytest.fixture
    def binary(self) -> str:
        try:
            return find_redis_server()
        except ConfigurationError as error:
            pytest.skip(str(error))

    def test_leaves_the_place_to_whoever_starts_it(self) -> None:
        words = [
            line.split()[:1] for line in (HOME / "config" / "redis.conf").read_text().split("\n")
        ]
        assert not {"port", "bind", "dir", "daemonize"} & {word for line in words for word in line}

    def test_redis_starts_with_it_evicts_nothing_and_survives_a_kill(
        self, binary: str, tmp_path: Path
    ) -> None:
        with _redis(binary, tmp_path) as (process, client):
            wanted = {
                "appendonly": "yes",
                "appendfsync": "everysec",
                "maxmemory-policy": "noeviction",
                "save": "",
            }
            assert {name: client.config_get(name)[name] for name in wanted} == wanted
            assert int(client.config_get("maxmemory")["maxmemory"]) > 0
            client.set("a row", "kept")
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        with _redis(binary, tmp_path) as (_, client):
            assert client.get("a row") == "kept"


@contextmanager
def _redis(binary: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
    port = free_port()
    process = subprocess.Popen(
        [
            *(binary, str(HOME / "config" / "redis.conf")),
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        ],
        stdout=subprocess.DEVNULL,
    )
    client = Redis(port=port, decode_responses=True)

    def answers() -> bool:
        assert process.poll() is None, "redis-server refused config/redis.conf"
        try:
            return bool(client.ping())
        except RedisError:
            return False

    try:
        wait_until(answers, "Redis to answer")
        yield process, client
    finally:
        client.close()
        process.kill()
        process.wait(10)


class TestFlowerConfig:
    NAME = "PROVIDER_UPLOADS_FLOWER_AUTH"

    @pytest.fixture(autouse=True)
    def _flower(self) -> None:
        pytest.importorskip("flower")

    def test_without_a_login_flower_says_one_line_and_does_not_start(self) -> None:
        ended = subprocess.run(
            _flower_argv(), cwd=HOME, capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == 1
        assert ended.stderr.splitlines() == [
            f"Flower needs a login: set {self.NAME}=user:password (several: a:b,c:d)."
        ]

    @pytest.mark.parametrize(
        "login", ["user", "user:", ":password", "a:b,", "a:b,,c:d", " ", "us\u00e9r:password"]
    )
    def test_a_malformed_login_is_refused_and_not_repeated(
        self, login: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(self.NAME, login)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(FLOWER_CONFIG))
        assert self.NAME in str(ended.value.code)
        assert "us\u00e9r" not in str(ended.value.code)

    @pytest.mark.parametrize("port", ["http", "-1", "65536", "5555 "])
    def test_a_port_that_is_none_is_refused(
        self, port: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(self.NAME, "user:password")
        monkeypatch.setenv("PROVIDER_UPLOADS_FLOWER_PORT", port)
        with pytest.raises(SystemExit, match="PROVIDER_UPLOADS_FLOWER_PORT"):
            runpy.run_path(str(FLOWER_CONFIG))

    def test_every_name_is_an_option_of_flower(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Flower ignores a name it does not know, such as a misspelt basic_auth."""
        monkeypatch.setenv(self.NAME, "ops:one, dev:two:with colon")
        known: Any = importlib.import_module("flower.options").default_options
        names = runpy.run_path(str(FLOWER_CONFIG))
        mine = {name for name in names if not name.startswith("_") and name != "os"}
        assert mine == {name for name in mine if name in known}
        assert names["basic_auth"] == ["ops:one", "dev:two:with colon"]
        assert (names["address"], names["port"]) == ("127.0.0.1", 5555)
        columns: Any = importlib.import_module("flower.views.tasks").TASK_COLUMNS
        assert set(names["tasks_columns"].split(",")) <= set(columns)

    def test_only_metrics_and_healthcheck_are_open(self, redis_url: str) -> None:
        port = free_port()
        env = {
            **os.environ,
            self.NAME: "ops:right",
            "PROVIDER_UPLOADS_FLOWER_PORT": str(port),
            "PROVIDER_UPLOADS_REDIS_URL": redis_url,
            "FLOWER_UNAUTHENTICATED_API": "true",  # must not open anything either
        }
        process = subprocess.Popen(_flower_argv(), cwd=HOME, env=env, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: _status(port, "/healthcheck") == 200, "Flower to answer")
            for page in ("/", "/tasks", "/api/workers"):
                assert _status(port, page) == 401
                assert _status(port, page, "ops:wrong") == 401
                assert _status(port, page, "ops:right") == 200
            assert _status(port, "/metrics") == 200
        finally:
            process.terminate()
            process.wait(20)


def _flower_argv() -> list[str]:
    celery = [sys.executable, "-m", "celery", "--quiet", "-A", "tasks", "flower"]
    return [*celery, f"--conf={FLOWER_CONFIG}"]


def _status(port: int, page: str, login: str | None = None) -> int | None:
    headers = {"Authorization": "Basic " + b64encode(login.encode()).decode()} if login else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{page}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None
