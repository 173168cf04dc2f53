"""Child processes: ready or explained, restarted, and all gone at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provider_uploads.errors import ConfigurationError
from provider_uploads.local.supervisor import Service, Supervisor
from tests.nodes import wait_until

#: Until it is told to end.
WAIT = "while :; do sleep 0.05; done"


class Heard:
    """What a supervisor says."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.events: list[str] = []

    def line(self, service: str, text: str) -> None:
        self.lines.append((service, text))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def supervisor(heard: Heard) -> Iterator[Supervisor]:
    with Supervisor(heard.line, heard.events.append) as running:
        yield running


def shell(name: str, script: str, *, grace_s: float = 5.0, cwd: Path | None = None) -> Service:
    return Service(name, ["sh", "-c", script], "ready", cwd=cwd, grace_s=grace_s)


def alive(pid: int) -> bool:
    """Whether it runs; what nobody has reaped yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def read_pid(path: Path) -> int:
    return int(wait_until(lambda: path.exists() and path.read_text().strip(), f"{path.name}"))


class TestStarting:
    def test_it_returns_when_all_serve(self, supervisor: Supervisor, heard: Heard) -> None:
        supervisor.start(
            shell("one", f"echo begins; sleep 0.2; echo I am ready now; {WAIT}"),
            shell("two", f"echo ready; {WAIT}"),
        )
        assert ("one", "begins") in heard.lines
        assert ("one", "I am ready now") in heard.lines
        assert set(supervisor.pids) == {"one", "two"}
        assert all(alive(pid) for pid in supervisor.pids.values())

    def test_both_streams_folder_environment_and_no_input(
        self, supervisor: Supervisor, heard: Heard, tmp_path: Path
    ) -> None:
        script = f'pwd >&2; echo "$WORD"; cat; echo ready; {WAIT}'
        supervisor.start(
            Service("one", ["sh", "-c", script], "ready", env={"WORD": "hällo"}, cwd=tmp_path)
        )
        said = [text for _, text in heard.lines]
        assert said[:2] == [str(tmp_path), "hällo"]

    def test_what_is_no_text_does_not_end_the_reading(
        self, supervisor: Supervisor, heard: Heard
    ) -> None:
        supervisor.start(shell("one", rf"printf '\377\376\n'; echo ready; {WAIT}"))
        assert heard.lines[-1] == ("one", "ready")

    def test_one_that_ends_is_quoted_to_its_last_line(self, supervisor: Supervisor) -> None:
        """Again and again: its end must not be noticed before its last words."""
        script = "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo line $i; done; exit 3"
        for _ in range(20):
            with pytest.raises(ConfigurationError) as caught:
                supervisor.start(shell("broken", script))
            said = str(caught.value).splitlines()
            assert said[0] == "broken ended with exit code 3. Its last lines:"
            assert said[-1] == "  line 40"
            assert len(said) == 31
        assert supervisor.pids == {}

    def test_one_that_says_nothing(self, supervisor: Supervisor) -> None:
        with pytest.raises(ConfigurationError, match=r"code 0.*\n  \(it printed nothing\)$"):
            supervisor.start(shell("silent", "exit 0"))

    def test_one_that_takes_too_long(self, supervisor: Supervisor, tmp_path: Path) -> None:
        pid_file = tmp_path / "pid"
        with pytest.raises(ConfigurationError, match=r"slow is not ready after 0\.3 s.*\n  busy"):
            supervisor.start(
                shell("slow", f"echo $$ > {pid_file}; echo busy; {WAIT}"), timeout_s=0.3
            )
        assert not alive(read_pid(pid_file))

    def test_its_batch_goes_with_it(self, supervisor: Supervisor, tmp_path: Path) -> None:
        pid_file = tmp_path / "pid"
        good = shell("good", f"echo $$ > {pid_file}; echo ready; {WAIT}")
        with pytest.raises(ConfigurationError, match=r"^broken"):
            supervisor.start(good, shell("broken", f"until [ -s {pid_file} ]; do :; done; exit 1"))
        assert not alive(read_pid(pid_file))

    def test_a_program_that_is_not_there(self, supervisor: Supervisor, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="missing"):
            supervisor.start(Service("missing", [str(tmp_path / "no-such-program")], "ready"))

    def test_a_service_does_not_show_its_secrets(self) -> None:
        assert "s3cret" not in repr(Service("x", ["y"], "z", env={"KEY": "s3cret"}))


class TestRestarting:
    def test_what_is_killed_comes_back(self, supervisor: Supervisor, heard: Heard) -> None:
        supervisor.start(shell("one", f"echo ready; {WAIT}"), shell("two", f"echo ready; {WAIT}"))
        first = supervisor.pids
        os.kill(first["one"], signal.SIGKILL)
        wait_until(lambda: heard.lines.count(("one", "ready")) == 2, "a second start", 10)
        assert heard.events == ["one ended with exit code -9; starting it again in 0.5 s"]
        assert supervisor.pids["one"] != first["one"]
        assert supervisor.pids["two"] == first["two"]

    def test_ever_later(self, supervisor: Supervisor, heard: Heard) -> None:
        begun = time.monotonic()
        supervisor.start(shell("one", "echo ready; exit 7"))
        wait_until(lambda: len(heard.events) == 3, "three ends", 10)
        assert [event.rpartition("again in ")[2] for event in heard.events] == [
            *("0.5 s", "1 s", "2 s")
        ]
        assert time.monotonic() - begun >= 1.5

    def test_what_it_left_is_gone_first(
        self, supervisor: Supervisor, heard: Heard, tmp_path: Path
    ) -> None:
        """A grandchild would hold the port that the next one needs."""
        pid_file = tmp_path / "pid"
        script = f"sleep 1000 & echo $! > {pid_file}; echo ready; exit 1"
        supervisor.start(shell("one", script))
        grandchild = read_pid(pid_file)
        wait_until(lambda: heard.events, "its end")
        wait_until(lambda: not alive(grandchild), "the grandchild's end")

    def test_no_restart_while_stopping(self, heard: Heard) -> None:
        with Supervisor(heard.line, heard.events.append) as supervisor:
            supervisor.start(shell("one", "echo ready; exit 7"))
            wait_until(lambda: len(heard.events) == 3, "its third end")
            begun = time.monotonic()
        assert time.monotonic() - begun < 1.5  # it does not sit the two seconds out
        assert heard.lines == [("one", "ready")] * 3


class TestStopping:
    def test_the_last_batch_first(self, heard: Heard, tmp_path: Path) -> None:
        log = tmp_path / "log"

        def service(name: str) -> Service:
            return shell(
                name, f"trap 'sleep 0.1; echo {name} >> {log}; exit' TERM; echo ready; {WAIT}"
            )

        with Supervisor(heard.line, heard.events.append) as supervisor:
            for name in ("redis", "provider", "workers"):
                supervisor.start(service(name))
        assert log.read_text().split() == ["workers", "provider", "redis"]
        assert heard.events == []

    def test_a_batch_ends_together(self, heard: Heard) -> None:
        with Supervisor(heard.line, heard.events.append) as supervisor:
            script = f"trap 'sleep 0.4; exit' TERM; echo ready; {WAIT}"
            supervisor.start(*(shell(str(n), script) for n in range(5)))
            begun = time.monotonic()
        assert time.monotonic() - begun < 1.5

    def test_over_its_grace_it_is_killed(self, heard: Heard) -> None:
        with Supervisor(heard.line, heard.events.append) as supervisor:
            supervisor.start(shell("deaf", f"trap '' TERM; echo ready; {WAIT}", grace_s=0.3))
            pid = supervisor.pids["deaf"]
            begun = time.monotonic()
        assert 0.25 < time.monotonic() - begun < 3
        assert not alive(pid)

    def test_grandchildren_go_too(self, heard: Heard, tmp_path: Path) -> None:
        deaf, plain = tmp_path / "deaf", tmp_path / "plain"
        script = (
            f"(trap '' TERM; echo ready; exec sleep 1000) & echo $! > {deaf};"
            f"sleep 1000 & echo $! > {plain}; wait"
        )
        with Supervisor(heard.line, heard.events.append) as supervisor:
            supervisor.start(shell("one", script))
            pids = [read_pid(deaf), read_pid(plain)]
            assert all(alive(pid) for pid in pids)
        wait_until(lambda: not any(alive(pid) for pid in pids), "the grandchildren's end")

    def test_nothing_to_stop(self, heard: Heard) -> None:
        with Supervisor(heard.line, heard.events.append) as supervisor:
            assert supervisor.pids == {}
        assert heard.events == []

    def test_an_exception_inside_stops_all(self, heard: Heard) -> None:
        with (
            contextlib.suppress(ZeroDivisionError),
            Supervisor(heard.line, heard.events.append) as supervisor,
        ):
            supervisor.start(shell("one", f"echo ready; {WAIT}"))
            pid = supervisor.pids["one"]
            raise ZeroDivisionError
        assert not alive(pid)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_a_ctrl_c_while_a_process_is_made_leaves_none(heard: Heard) -> None:
    for _ in range(10):
        service = Service("a", ["sh", "-c", WAIT], "never")

        with Supervisor(heard.line, heard.events.append) as running:
            before = set(children())
            # As soon as there is a process, which is well before Popen returns.
            thread = threading.Thread(target=interrupt_at_next_child, args=(before,))
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                running.start(service)
            thread.join()

        assert [pid for pid in children() if pid not in before and alive(pid)] == []


def children() -> list[int]:
    found = Path("/proc/self/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def interrupt_at_next_child(before: set[int]) -> None:
    while set(children()) <= before:
        pass
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
