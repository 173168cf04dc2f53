"""Child processes that are kept running, and all ended together.

Written rather than taken: supervisord and circus are services of their own, with configuration
files and sockets; what is needed here is a ``with`` block that leaves nothing behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self, cast

from provider_uploads.backoff import Backoff
from provider_uploads.errors import ConfigurationError

#: Restarts come ever later while a service keeps dying; one that lived a minute starts afresh.
_RESTART = Backoff(0.5, 2.0, 30.0)
_SETTLED_S = 60.0

OnLine = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Service:
    """A command to keep running; ``ready_line`` is what it prints once it serves."""

    name: str
    argv: Sequence[str]
    ready_line: str
    env: dict[str, str] = field(default_factory=dict, repr=False)
    #: What it does not inherit.
    without: frozenset[str] = frozenset()
    cwd: Path | None = None
    grace_s: float = 5.0


class _Reaper:
    """The process that ends all others if this one is killed."""

    def __init__(self, leftovers: Sequence[Path]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "provider_uploads.local.reaper", *map(str, leftovers)],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._pipe = cast("IO[str]", self._process.stdin)
        self._lock = threading.Lock()

    def started(self, pid: int) -> None:
        self._tell(f"+ {pid}\n")

    def ended(self, pid: int) -> None:
        self._tell(f"- {pid}\n")

    def _tell(self, line: str) -> None:
        with self._lock, suppress(BrokenPipeError, ValueError):  # somebody killed it
            self._pipe.write(line)
            self._pipe.flush()

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._pipe.close()
        self._process.wait()


class _Child:
    """One service's process, in a session of its own so that Ctrl-C reaches only us."""

    def __init__(self, service: Service, on_line: OnLine, reaper: _Reaper) -> None:
        self.service = service
        self.recent: deque[str] = deque(maxlen=30)
        self.restarts = 0
        self.begun_at = 0.0
        self.ready = threading.Event()
        self._on_line = on_line
        self._reaper = reaper
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def exit_code(self) -> int | None:
        return self._process.poll() if self._process else None

    def start(self) -> None:
        self._drain()
        self.ready.clear()
        self.begun_at = time.monotonic()
        with _signals_held():
            self._process = subprocess.Popen(
                self.service.argv,
                env=self._environment(),
                cwd=self.service.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._reaper.started(self.pid)
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def _environment(self) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items() if name not in self.service.without
        }
        return {**inherited, "PYTHONUNBUFFERED": "1", **self.service.env}

    def _read(self, process: subprocess.Popen[str]) -> None:
        with suppress(ValueError):  # closed while it begins
            for line in process.stdout or ():
                text = line.rstrip()
                self.recent.append(text)
                if self.service.ready_line in text:
                    self.ready.set()
                self._on_line(self.service.name, text)

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def wait(self, timeout_s: float) -> bool:
        if self._process is None:
            return True
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(timeout_s, 0.0))
        return self._process.returncode is not None

    def _drain(self) -> None:
        if self._reader is not None:
            with suppress(RuntimeError):  # a Ctrl-C came before it had started
                self._reader.join(1.0)
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()

    def close(self) -> None:
        self.signal(signal.SIGKILL)  # whatever its session still holds
        if self.wait(5.0) and self.pid:
            self._reaper.ended(self.pid)
        self._drain()


class Supervisor:
    """Starts services in batches, restarts what dies, stops the batches in reverse.

    ``on_line(service, text)`` gets every line they print, ``on_event(text)`` what happens to them;
    both are called from other threads. When this process is killed, a process of its own stops the
    services and removes the folders ``leftovers``.
    """

    def __init__(
        self, on_line: OnLine, on_event: Callable[[str], None], leftovers: Sequence[Path] = ()
    ) -> None:
        self._on_line = on_line
        self._on_event = on_event
        self._batches: list[list[_Child]] = []
        self._leftovers = leftovers
        self._stopping = threading.Event()
        self._monitor = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._reaper = _Reaper(self._leftovers)
        self._monitor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each service."""
        return {child.service.name: child.pid for batch in self._batches for child in batch}

    def start(self, *services: Service, timeout_s: float = 30.0) -> None:
        """Start a batch and wait until each serves.

        Raises ConfigurationError with a service's last lines when it ends instead, or is not
        ready in time.
        """
        batch = [_Child(service, self._on_line, self._reaper) for service in services]
        deadline = time.monotonic() + timeout_s
        starting: list[_Child] = []
        try:
            for child in batch:
                starting.append(child)
                try:
                    child.start()
                except OSError as error:
                    raise ConfigurationError(
                        f"{child.service.name} cannot be started: {error}. Is it installed?"
                    ) from None
            for child in batch:
                while not child.ready.wait(0.02):
                    if child.exit_code is not None:
                        raise _not_started(child, f"ended with exit code {child.exit_code}")
                    if time.monotonic() > deadline:
                        raise _not_started(child, f"is not ready after {timeout_s:g} s")
        except BaseException:
            for child in starting:
                child.close()
            raise
        self._batches.append(batch)

    def stop(self) -> None:
        """Stop all, the last batch first; its grace over, or at a second Ctrl-C, it is killed."""
        self._stopping.set()
        self._monitor.join()
        try:
            for batch in reversed(self._batches):
                for child in batch:
                    child.signal(signal.SIGTERM)
                deadline = time.monotonic() + max(child.service.grace_s for child in batch)
                for child in batch:
                    child.wait(deadline - time.monotonic())
        finally:
            for batch in reversed(self._batches):
                for child in batch:
                    child.close()
            self._batches.clear()
            self._reaper.close()

    def _watch(self) -> None:
        while not self._stopping.wait(0.1):
            for child in [child for batch in list(self._batches) for child in batch]:
                if child.exit_code is not None:
                    self._restart(child)

    def _restart(self, child: _Child) -> None:
        if time.monotonic() - child.begun_at > _SETTLED_S:
            child.restarts = 0
        wait_s = _RESTART.delay(child.restarts)
        child.restarts += 1
        self._on_event(
            f"{child.service.name} ended with exit code {child.exit_code}; "
            f"starting it again in {wait_s:g} s"
        )
        child.signal(signal.SIGKILL)  # its session may hold processes that would be in the way
        self._reaper.ended(child.pid)
        if not self._stopping.wait(wait_s):
            try:
                child.start()
            except OSError as error:  # tried again, later each time
                self._on_event(f"{child.service.name} cannot be started: {error}")


@contextmanager
def _signals_held() -> Iterator[None]:
    """Deal with signals after the block: one that interrupts Popen leaves a process behind."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals interrupt the main thread only
        return
    came: list[int] = []
    handlers = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if (handler := signal.getsignal(number)) not in {signal.SIG_IGN, None}
    }
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for received in came:
            signal.raise_signal(received)


def _not_started(child: _Child, what: str) -> ConfigurationError:
    last = "\n  ".join(child.recent) or "(it printed nothing)"
    return ConfigurationError(f"{child.service.name} {what}. Its last lines:\n  {last}")
