"""The doors: an ASGI app, a context manager, a foreground server."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

import provider_uploads.emulator as emulator
from provider_uploads.emulator import EmulatorConfig, LocalGemini, PortInUseError, create_app, serve

KEY = {"x-goog-api-key": "a-key"}
MIB = 1024**2


def test_public_names() -> None:
    assert emulator.__all__ == [
        "create_app",
        "LocalGemini",
        "serve",
        "EmulatorConfig",
        "BatchConfig",
        "Operation",
        "FaultKind",
        "Fault",
        "FaultMix",
        "EmulatorError",
        "PortInUseError",
        "InvalidFaultError",
    ]


# --- context manager -----------------------------------------------------------------------------


def test_it_leaves_no_thread_and_no_listener() -> None:
    before = threading.active_count()
    with LocalGemini() as gemini, httpx2.Client(base_url=gemini.url) as client:
        assert client.get("/_emulator/health").status_code == 200
    assert threading.active_count() == before
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(gemini.url)


def test_it_stops_at_once_whoever_is_connected(tmp_path: Path) -> None:
    config = EmulatorConfig(latency_ms=60_000, data_dir=tmp_path)
    with LocalGemini(config) as gemini:
        port = int(gemini.url.rpartition(":")[2])
        idle = socket.create_connection(("127.0.0.1", port))
        waiting = socket.create_connection(("127.0.0.1", port))
        waiting.sendall(b"GET /v1/files HTTP/1.1\r\nHost: x\r\nx-goog-api-key: k\r\n\r\n")
        while not gemini.counters()["operations"]["list"]["requests"]:
            time.sleep(0.005)
        before_s = time.monotonic()
    assert time.monotonic() - before_s < 1
    idle.close()
    waiting.close()
    assert list(tmp_path.iterdir()) == []


def test_it_can_be_started_again_on_the_same_port() -> None:
    with LocalGemini() as gemini:
        port = int(gemini.url.rpartition(":")[2])
    with LocalGemini(port=port) as gemini:
        assert gemini.url.endswith(f":{port}")


def test_a_taken_port_is_a_clear_error() -> None:
    with LocalGemini() as gemini:
        port = int(gemini.url.rpartition(":")[2])
        with pytest.raises(PortInUseError, match=f"port {port} on 127.0.0.1 is taken"):
            LocalGemini(port=port).start()
        with pytest.raises(PortInUseError):
            serve(port=port)


# --- app -----------------------------------------------------------------------------------------


def test_the_app_runs_under_any_server() -> None:
    import asyncio

    async def ask() -> list[int]:
        transport = httpx2.ASGITransport(create_app())
        async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
            listed = await client.get("/v1/files", headers=KEY)
            await client.post("/_emulator/faults", json={"operation": "list", "kind": "reset"})
            # Nobody lends us the connection here.
            reset = await client.get("/v1/files", headers=KEY)
        return [listed.status_code, reset.status_code]

    assert asyncio.run(ask()) == [200, 500]


# --- foreground server ---------------------------------------------------------------------------


@contextmanager
def served(tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "provider_uploads.emulator", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert process.stdout is not None
        url = re.search(r"http://[0-9.:]+", process.stdout.readline())
        assert url is not None
        yield process, url.group()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_within_a_second(tmp_path: Path, signal_number: signal.Signals) -> None:
    with served(tmp_path) as (process, url), httpx2.Client(base_url=url, headers=KEY) as client:
        started = client.post("/upload/v1/files", headers={"X-Goog-Upload-Command": "start"})
        session = started.headers["x-goog-upload-url"]
        command = {"X-Goog-Upload-Command": "upload", "X-Goog-Upload-Offset": "0"}
        assert client.post(session, headers=command, content=b"x" * MIB).status_code == 200
        assert [path.name[:13] for path in tmp_path.iterdir()] == ["local-gemini-"]
        before_s = time.monotonic()
        process.send_signal(signal_number)
        _, complaints = process.communicate(timeout=5)
        assert time.monotonic() - before_s < 1
    assert process.returncode == 0
    assert complaints == ""
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_that_a_port_is_taken(tmp_path: Path) -> None:
    with LocalGemini() as gemini:
        port = gemini.url.rpartition(":")[2]
        ended = subprocess.run(
            [sys.executable, "-m", "provider_uploads.emulator", "--port", port],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert ended.returncode == 1
    assert f"port {port}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_large_upload_needs_little_memory(tmp_path: Path) -> None:
    size = 192 * MIB
    block = b"\0" * MIB
    with served(tmp_path) as (process, url), httpx2.Client(base_url=url, timeout=60) as client:

        def peak_kib() -> int:
            status = Path(f"/proc/{process.pid}/status").read_text()
            return int(re.findall(r"VmHWM:\s+([0-9]+) kB", status)[0])

        command = {**KEY, "X-Goog-Upload-Command": "start"}
        session = client.post("/upload/v1/files", headers=command).headers["x-goog-upload-url"]
        before_kib = peak_kib()
        command = {
            "X-Goog-Upload-Command": "upload, finalize",
            "X-Goog-Upload-Offset": "0",
            "Content-Length": str(size),
        }
        reply = client.post(session, headers=command, content=(block for _ in range(size // MIB)))
        assert reply.json()["file"]["sizeBytes"] == str(size)
        assert peak_kib() - before_kib < 16 * 1024


# --- what every client gets ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"nonsense\r\n\r\n",
        b"GET /v1/files HTTP/1.1\r\nno colon here\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_malformed_http_is_answered_in_json(text: bytes) -> None:
    with LocalGemini() as gemini:
        port = int(gemini.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(text + b"\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    error = json.loads(body)["error"]
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("path", ["/", "/nothing", "/v9/files", "/genai/nothing", "/_emulator/x"])
def test_unknown_paths_are_answered_in_json(path: str) -> None:
    with LocalGemini() as gemini:
        reply = httpx2.request("POST", f"{gemini.url}{path}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, 404)


def test_the_control_endpoints_are_listed() -> None:
    with LocalGemini() as gemini, httpx2.Client(base_url=gemini.url) as client:
        endpoints = client.get("/_emulator/").json()["endpoints"]
        assert client.get("/_emulator").json()["endpoints"] == endpoints
        for endpoint in endpoints:
            method, _, path = endpoint.partition(" ")
            if method == "GET":
                assert client.get(path).status_code == 200
    assert "POST /_emulator/faults" in endpoints
    assert "DELETE /_emulator/faults/{order_id:int}" in endpoints


def test_a_browser_may_upload_from_any_page() -> None:
    """The preflight a browser makes, and the headers it lets a page read."""
    origin = {"Origin": "https://app.example"}
    with LocalGemini() as gemini, httpx2.Client(base_url=gemini.url, headers=origin) as client:
        asks = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-goog-api-key,x-goog-upload-command,content-type",
        }
        preflight = client.options("/upload/v1beta/files", headers=asks)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert "POST" in preflight.headers["access-control-allow-methods"]
        allowed = preflight.headers["access-control-allow-headers"].lower()
        assert "x-goog-upload-command" in allowed
        start = client.post(
            "/upload/v1beta/files", headers={**KEY, "X-Goog-Upload-Command": "start"}
        )
        assert start.headers["access-control-allow-origin"] == "*"
        exposed = start.headers["access-control-expose-headers"].lower().split(", ")
        seen = {name for name in start.headers if name.startswith(("x-goog", "x-guploader"))}
        assert seen <= set(exposed)
        assert client.get("/v1/files").headers["access-control-allow-origin"] == "*"
