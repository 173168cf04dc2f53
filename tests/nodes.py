"""pytest-celery's nodes as local processes, so that its setup runs where there is no Docker engine.

A ``CeleryTestContainer`` only delegates to the docker-py container object it wraps. `Process` has
the names it uses; `ProcessContainer` replaces the two methods that look into Docker. Nothing of
pytest-celery is patched.
"""

from __future__ import annotations

import os
import signal as signals
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pytest_celery import CeleryWorkerContainer, RedisContainer
from pytest_docker_tools.exceptions import ContainerFailed

from provider_uploads import protocol
from provider_uploads.local.stack import find_redis_server

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
#: A node that takes longer to start is a failure; a busy machine needs a few seconds.
START_S = 60.0
STOP_S = 10.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = 60.0) -> T:
    """Return the first true value of ``condition()``; fail with ``what`` when time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


class Process:
    """What pytest-celery calls of docker-py's Container, around a subprocess in its own session."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        name: str,
        folder: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.id = uuid.uuid4().hex  # a node's host name is id[:12]
        self.name = f"{name}-{self.id[:6]}"
        self.argv = [argument.replace("%h", self.id[:12]) for argument in argv]
        self.env = {**os.environ, **(env or {})}
        self.cwd = cwd or folder
        self.log = folder / f"{self.name}.log"
        self._this_run = 0
        self._this_test = 0
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._this_run = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            return subprocess.Popen(
                self.argv,
                cwd=self.cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    # -- docker-py's names -----------------------------------------------------------------------

    @property
    def status(self) -> str:
        return "running" if self.process.poll() is None else "exited"

    @property
    def attrs(self) -> dict[str, Any]:
        return {
            "Config": {"Hostname": "127.0.0.1", "Env": [], "Labels": {}},
            "NetworkSettings": {"Networks": {}, "Ports": {}},
            "State": {"Status": self.status, "ExitCode": self.process.returncode},
        }

    def reload(self) -> None:
        """docker-py reads the attributes again; ours are live."""

    def kill(self, signal: str | int | None = None) -> None:
        """SIGKILL ends the whole session, as it ends a container; others its first process."""
        if isinstance(signal, str):
            number = signals.Signals[signal]
        else:
            number = signals.Signals(signal or signals.SIGKILL)
        if self.process.poll() is not None:
            return
        if number is signals.SIGKILL:
            os.killpg(self.process.pid, number)
            self.process.wait(STOP_S)
        else:
            self.process.send_signal(number)

    def stop(self, timeout: float = STOP_S) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signals.SIGCONT)  # a stalled process cannot stop
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signals.SIGKILL)
        self.process.wait(STOP_S)

    def restart(self, timeout: float = STOP_S) -> None:
        self.stop(timeout)
        self.process = self._spawn()

    def logs(self, **_: Any) -> bytes:
        return self.log.read_bytes()[self._this_test :]

    def forget_logs(self) -> None:
        """Let ``logs`` begin here: another test uses the process now."""
        self._this_test = self.log.stat().st_size

    def logs_of_this_run(self) -> bytes:
        return self.log.read_bytes()[self._this_run :]


class ProcessContainer:
    """Goes before a CeleryTestContainer class."""

    _container: Process
    ready_prompt: str
    #: Whether other tests use it too, one after another (tests/pool.py).
    pooled = False

    @property
    def is_ready(self) -> bool:
        """Whether it serves, or served until it ended."""
        return self.ready_prompt.encode() in self._container.logs_of_this_run()

    @property
    def exit_code(self) -> int | None:
        return self._container.process.poll()

    @property
    def pid(self) -> int:
        return int(self._container.process.pid)

    def ready(self) -> bool:
        deadline = time.monotonic() + START_S
        while not self.is_ready:
            if self._container.status == "exited" or time.monotonic() > deadline:
                raise ContainerFailed(
                    self, f"{self._container.name} is not ready:\n{self._container.logs().decode()}"
                )
            time.sleep(0.02)
        return True

    def teardown(self) -> None:
        if not self.pooled:
            self.kill_now()

    def kill_now(self) -> None:
        """End it at once: a test that wants to see a quiet stop makes one itself."""
        self._container.kill()

    def forget_logs(self) -> None:
        self._container.forget_logs()


class RedisProcess(ProcessContainer, RedisContainer):
    """A real redis-server on a free port; with ``aof`` it survives its own restarts."""

    @classmethod
    def spawn(cls, folder: Path, *, aof: bool = False) -> RedisProcess:
        port = free_port()
        arguments = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder))
        argv = [find_redis_server(), *cls.command(*arguments)[1:]]
        if aof:
            argv += ["--appendonly", "yes", "--appendfsync", "always"]
        node = cls(Process(argv, name="redis", folder=folder))
        node._port = port
        return node

    @property
    def port(self) -> int:
        return int(self._port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    host_url = url


class WorkerProcess(ProcessContainer, CeleryWorkerContainer):
    """This project's own worker: ``celery -A tasks worker`` in the checkout."""

    @classmethod
    def command(cls, *args: str, **_: Any) -> list[str]:
        return [
            *("celery", "-A", "tasks", "worker", "--loglevel", "INFO"),
            *("--hostname", f"{cls.worker_name()}@%h", "--without-gossip", "--without-mingle"),
            *args,
        ]

    @property
    def node_name(self) -> str:
        """Celery's name of it."""
        return f"{self.worker_name()}@{self._container.id[:12]}"

    @classmethod
    def worker_queue(cls) -> str:
        return protocol.CONTROL_QUEUE

    @classmethod
    def spawn(cls, folder: Path, command: Sequence[str], env: Mapping[str, str]) -> WorkerProcess:
        argv = [sys.executable, "-m", *command]
        return cls(Process(argv, name="worker", folder=folder, env=env, cwd=ROOT))

    @classmethod
    def beat(cls, folder: Path, env: Mapping[str, str]) -> Process:
        """Start what sends the sweeps: ``celery -A tasks beat``."""
        schedule = str(folder / "beat-schedule")
        argv = [sys.executable, "-m", "celery", "-A", "tasks", "beat", "--schedule", schedule]
        return Process(argv, name="beat", folder=folder, env=env, cwd=ROOT)
