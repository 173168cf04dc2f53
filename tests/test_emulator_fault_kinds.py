"""Each kind of fault: what the client sees, and what the server holds afterwards."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from provider_uploads.emulator import EmulatorConfig, LocalGemini, Operation
from provider_uploads.emulator.fault_kinds import RULES
from tests.batch_requests import batch_request

pytestmark = pytest.mark.slow

KEY = {"x-goog-api-key": "a-key"}
OPERATIONS = [str(operation) for operation in Operation]
DATA = bytes(range(1, 251)) * 4000  # 1 MB without a zero in it


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    config = EmulatorConfig(processing_s=0, chunk_granularity_bytes=1, keep_bytes=True)
    with LocalGemini(config) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, headers=KEY, timeout=20) as http_client:
        yield http_client


def session(client: httpx2.Client, size: int | None = None, **file: Any) -> str:
    headers = {"X-Goog-Upload-Command": "start"}
    if size is not None:
        headers["X-Goog-Upload-Header-Content-Length"] = str(size)
    reply = client.post("/upload/v1/files", headers=headers, json={"file": file})
    return reply.headers["x-goog-upload-url"]


def send(
    client: httpx2.Client,
    url: str,
    command: str,
    data: bytes = b"",
    offset: int = 0,
    timeout_s: float = 20,
) -> httpx2.Response:
    headers = {"X-Goog-Upload-Command": command, "X-Goog-Upload-Offset": str(offset)}
    return client.post(url, headers=headers, content=data, timeout=timeout_s)


def received(client: httpx2.Client, url: str) -> int:
    """How far the server says the upload has come."""
    reply = send(client, url, "query")
    assert reply.status_code == 200
    return int(reply.headers["x-goog-upload-size-received"])


def stored(gemini: LocalGemini) -> bytes:
    [file] = gemini.files()
    return Path(file["path"]).read_bytes()


def make_file(client: httpx2.Client, **file: Any) -> dict[str, Any]:
    made: dict[str, Any] = send(client, session(client, **file), "upload, finalize", b"abc").json()[
        "file"
    ]
    return made


def requests_of(client: httpx2.Client, operation: str) -> Callable[[], httpx2.Response]:
    """A request for an operation on things that are there, ready to be sent."""
    bearer = {"Authorization": "Bearer token"}
    uris = {"uris": ["gs://b/o"]}
    body = {"contents": [{"parts": [{"text": "hello"}]}]}
    start = {"X-Goog-Upload-Command": "start"}
    if operation in ("upload", "query", "cancel"):
        url = session(client)
        command = "upload, finalize" if operation == "upload" else operation
        return lambda: send(client, url, command, b"abc" if operation == "upload" else b"")
    if operation == "download":
        made = client.post("/_emulator/generated", content=b"abc").json()["name"]
        return lambda: client.get(f"/download/v1/{made}:download?alt=media")
    if operation in ("get", "delete"):
        name = make_file(client)["name"]
        return lambda: client.request(operation.upper(), f"/v1/{name}")
    if "batch" in operation or operation == "webhook":
        return batch_request(client, operation)
    return {
        "start": lambda: client.post("/upload/v1/files", headers=start, json={"file": {}}),
        "list": lambda: client.get("/v1/files"),
        "register": lambda: client.post("/v1/files:register", headers=bearer, json=uris),
        "generate": lambda: client.post("/v1/models/gemini-2.5-flash:generateContent", json=body),
        "models": lambda: client.get("/v1/models"),
        "search": lambda: client.get("/v1/fileSearchStores"),
        "cache": lambda: client.get("/v1/cachedContents"),
        "count": lambda: client.post("/v1/models/gemini-2.5-flash:countTokens", json=body),
        "embed": lambda: client.post(
            "/v1/models/gemini-embedding-001:embedContent", json={"content": body["contents"][0]}
        ),
    }[operation]


def fired(gemini: LocalGemini, operation: str) -> dict[str, int]:
    counted: dict[str, int] = gemini.counters()["faults"].get(operation, {})
    return counted


def wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until_s, "it did not come about"
        time.sleep(0.01)


def test_every_kind_fits_somewhere() -> None:
    assert all(rule.operations for rule in RULES.values())


# --- answers instead of doing anything -----------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("kind", "http_status"),
    [
        ("rate_limited", 429),
        ("rate_limited_bare", 429),
        ("rate_limited_day", 429),
        ("internal", 500),
        ("unavailable", 503),
        ("reset", None),
    ],
)
def test_nothing_is_done_where_the_request_is_refused(
    client: httpx2.Client,
    gemini: LocalGemini,
    operation: str,
    kind: str,
    http_status: int | None,
) -> None:
    request = requests_of(client, operation)
    before = (len(gemini.files()), len(gemini.sessions()))
    gemini.order_fault(operation, kind)
    if http_status is None:
        with pytest.raises(httpx2.TransportError):
            request()
    else:
        assert request().status_code == http_status
    assert (len(gemini.files()), len(gemini.sessions())) == before
    assert fired(gemini, operation) == {kind: 1}
    assert request().status_code == 200


def test_a_bare_429_gives_no_hint(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("start", "rate_limited_bare")
    error = client.post("/upload/v1/files", headers={"X-Goog-Upload-Command": "start"}).json()
    assert error["error"].keys() == {"code", "message", "status"}


def test_the_quota_of_a_day_says_so(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("list", "rate_limited_day", retry_delay_s=41.25)
    details = client.get("/v1/files").json()["error"]["details"]
    assert "PerDay" in details[1]["violations"][0]["quotaId"]
    assert details[2]["retryDelay"] == "41.25s"


# --- done, but the answer suffers ----------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_lost_answer_changes_nothing_of_what_was_done(
    client: httpx2.Client, gemini: LocalGemini, operation: str
) -> None:
    request = requests_of(client, operation)
    files, sessions = len(gemini.files()), len(gemini.sessions())
    gemini.order_fault(operation, "lost_answer")
    with pytest.raises(httpx2.TransportError):
        request()
    more_files = {"upload": 1, "register": 1, "delete": -1}.get(operation, 0)
    more_sessions = {"start": 1, "upload": -1, "cancel": -1}.get(operation, 0)
    assert len(gemini.files()) == files + more_files
    assert len(gemini.sessions()) == sessions + more_sessions
    assert gemini.counters()["operations"][operation]["by_status"] == {"reset": 1}
    assert fired(gemini, operation) == {"lost_answer": 1}


@pytest.mark.parametrize("operation", [op for op in OPERATIONS if op != "download"])
def test_bad_json_is_the_right_answer_cut_off(
    client: httpx2.Client, gemini: LocalGemini, operation: str
) -> None:
    request = requests_of(client, operation)
    gemini.order_fault(operation, "bad_json")
    reply = request()
    assert reply.status_code == 200
    assert int(reply.headers["content-length"]) == len(reply.content)
    with pytest.raises(json.JSONDecodeError):
        reply.json()


def test_bad_json_at_finalize_leaves_the_file(client: httpx2.Client, gemini: LocalGemini) -> None:
    url = session(client)
    gemini.order_fault("upload", "bad_json")
    assert send(client, url, "upload, finalize", b"abc").headers["x-goog-upload-status"] == "final"
    assert send(client, url, "query").json()["file"]["name"] == gemini.files()[0]["name"]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["stall", "late_answer"])
def test_patience_is_rewarded(
    client: httpx2.Client, gemini: LocalGemini, operation: str, kind: str
) -> None:
    request = requests_of(client, operation)
    gemini.order_fault(operation, kind, stall_s=0.15)
    before_s = time.monotonic()
    assert request().status_code == 200
    assert time.monotonic() - before_s >= 0.15
    assert fired(gemini, operation) == {kind: 1}


@pytest.mark.parametrize("operation", ["start", "get", "delete", "register"])
def test_who_does_not_wait_for_a_stalled_server_finds_nothing_done(
    client: httpx2.Client, gemini: LocalGemini, operation: str
) -> None:
    requests_of(client, operation)()
    gemini.reset()
    gemini.order_fault(operation, "stall", stall_s=60)
    bearer = {"Authorization": "Bearer token", "X-Goog-Upload-Command": "start"}
    path = {"start": "/upload/v1/files", "register": "/v1/files:register"}
    with pytest.raises(httpx2.ReadTimeout):
        client.request(
            {"get": "GET", "delete": "DELETE"}.get(operation, "POST"),
            path.get(operation, "/v1/files/none"),
            headers=bearer,
            json={"uris": ["gs://b/o"]} if operation == "register" else {},
            timeout=0.2,
        )
    wait_until(lambda: gemini.counters()["operations"][operation]["by_status"] != {})
    counted = gemini.counters()["operations"][operation]
    assert counted == {"requests": 1, "by_status": {"disconnected": 1}}
    assert (gemini.files(), gemini.sessions()) == ([], [])


def test_who_does_not_wait_for_a_late_finalize_finds_the_file(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    url = session(client)
    gemini.order_fault("upload", "late_answer", stall_s=60)
    with pytest.raises(httpx2.ReadTimeout):
        send(client, url, "upload, finalize", b"abc", timeout_s=0.3)
    wait_until(lambda: gemini.files() != [])
    reply = send(client, url, "query")
    assert reply.headers["x-goog-upload-status"] == "final"
    assert reply.json()["file"]["sizeBytes"] == "3"
    wait_until(
        lambda: gemini.counters()["operations"]["upload"]["by_status"] == {"disconnected": 1}
    )


# --- among the bytes -----------------------------------------------------------------------------


@contextmanager
def in_background(work: Callable[[], Any]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(20)
    assert not thread.is_alive()


def test_a_server_that_stops_reading(client: httpx2.Client, gemini: LocalGemini) -> None:
    url = session(client, len(DATA))
    gemini.order_fault("upload", "stall", after_bytes=300_001, stall_s=0.5)
    replies: list[httpx2.Response] = []
    with in_background(lambda: replies.append(send(client, url, "upload, finalize", DATA))):
        wait_until(lambda: sum(s["received_bytes"] for s in gemini.sessions()) == 300_001)
        time.sleep(0.1)
        assert [s["received_bytes"] for s in gemini.sessions()] == [300_001]
    assert replies[0].json()["file"]["sizeBytes"] == str(len(DATA))
    assert stored(gemini) == DATA


def test_a_newer_request_ends_the_stall_and_can_go_on(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    url = session(client, len(DATA))
    gemini.order_fault("upload", "stall", after_bytes=300_001, stall_s=60)

    def stalled() -> None:
        with pytest.raises(httpx2.TransportError):
            send(client, url, "upload, finalize", DATA)

    with in_background(stalled):
        wait_until(lambda: sum(s["received_bytes"] for s in gemini.sessions()) == 300_001)
        assert received(client, url) == 300_001
    reply = send(client, url, "upload, finalize", DATA[300_001:], offset=300_001)
    assert reply.status_code == 200
    assert stored(gemini) == DATA


def test_a_stall_before_any_byte_leaves_the_session_untouched(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    url = session(client, len(DATA))
    gemini.order_fault("upload", "stall", stall_s=60)
    with pytest.raises(httpx2.TransportError):
        send(client, url, "upload, finalize", DATA, timeout_s=0.3)
    assert received(client, url) == 0
    assert send(client, url, "upload, finalize", DATA).status_code == 200
    assert stored(gemini) == DATA


def test_a_lost_answer_to_a_chunk_keeps_its_bytes(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    url = session(client, 6)
    gemini.order_fault("upload", "lost_answer")
    with pytest.raises(httpx2.TransportError):
        send(client, url, "upload", b"abc")
    assert received(client, url) == 3
    assert send(client, url, "upload, finalize", b"def", offset=3).status_code == 200
    assert stored(gemini) == b"abcdef"


@pytest.mark.parametrize("command", ["upload", "upload, finalize"])
@pytest.mark.parametrize(("after_bytes", "kept"), [(None, 500_000), (0, 0), (123_456, 123_456)])
def test_an_early_final_truncates(
    client: httpx2.Client, gemini: LocalGemini, command: str, after_bytes: int | None, kept: int
) -> None:
    url = session(client, 10_000_000 if command == "upload" else len(DATA))
    gemini.order_fault("upload", "early_final", after_bytes=after_bytes)
    reply = send(client, url, command, DATA)
    assert (reply.status_code, reply.headers["x-goog-upload-status"]) == (200, "final")
    assert reply.json()["file"].get("sizeBytes", "0") == str(kept)
    assert stored(gemini) == DATA[:kept]
    assert send(client, url, "query").json() == reply.json()
    again = send(client, url, "upload, finalize", DATA, offset=kept)
    assert (again.status_code, again.headers["x-goog-upload-status"]) == (400, "final")


def test_early_final_waits_for_bytes(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "early_final")
    url = session(client, 0)
    assert send(client, url, "finalize").status_code == 200
    assert gemini.faults()[0]["seen"] == 0


def test_early_final_truncates_uploads_in_one_request(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    gemini.order_fault("upload", "early_final", after_bytes=2, count=2)
    assert client.post("/upload/v1/files", content=b"abc").json()["file"]["sizeBytes"] == "2"
    multipart = b"--b\r\n\r\n{}\r\n--b\r\nContent-Type: text/plain\r\n\r\nabcdef\r\n--b--\r\n"
    headers = {
        "X-Goog-Upload-Protocol": "multipart",
        "Content-Type": "multipart/related; boundary=b",
    }
    reply = client.post("/upload/v1/files", headers=headers, content=multipart)
    assert reply.json()["file"]["sizeBytes"] == "2"


def test_an_active_error_and_a_careless_client_make_a_hole(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    url = session(client, 9)
    gemini.order_fault("upload", "active_error", nth=2)
    assert send(client, url, "upload", b"abc").status_code == 200
    reply = send(client, url, "upload", b"def", offset=3)
    assert (reply.status_code, reply.headers["x-goog-upload-status"]) == (503, "active")
    assert send(client, url, "upload, finalize", b"ghi", offset=6).status_code == 200
    assert stored(gemini) == b"abc\0\0\0ghi"


def test_after_an_active_error_a_query_tells_the_truth(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    url = session(client, len(DATA))
    gemini.order_fault("upload", "active_error")
    reply = send(client, url, "upload", DATA[:400_000])
    assert (reply.status_code, reply.headers["x-goog-upload-status"]) == (503, "active")
    assert received(client, url) == 0
    beyond = send(client, url, "upload, finalize", DATA[400_001:], offset=400_001)
    assert (beyond.status_code, beyond.headers["x-goog-upload-status"]) == (400, "active")
    assert send(client, url, "upload, finalize", DATA).status_code == 200
    assert stored(gemini) == DATA


def test_a_chunk_that_is_refused_makes_no_hole(client: httpx2.Client, gemini: LocalGemini) -> None:
    url = session(client, 6)
    gemini.order_fault("upload", "active_error")
    assert send(client, url, "upload", b"abc").status_code == 503
    refused = send(client, url, "upload, finalize", b"defg", offset=3)
    assert (refused.status_code, refused.headers["x-goog-upload-size-received"]) == (400, "0")
    assert received(client, url) == 0


def test_active_errors_are_for_resumable_uploads(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    gemini.order_fault("upload", "active_error")
    assert client.post("/upload/v1/files", content=b"abc").status_code == 200
    assert gemini.faults()[0]["seen"] == 0


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["upload, finalize", "finalize"])
def test_a_lost_finalize_leaves_the_file_and_says_so_when_asked(
    client: httpx2.Client, gemini: LocalGemini, command: str
) -> None:
    url = session(client, 3)
    gemini.order_fault("upload", "lost_finalize")
    if command == "finalize":
        assert send(client, url, "upload", b"abc").status_code == 200
    offset = 3 if command == "finalize" else 0
    with pytest.raises(httpx2.TransportError):
        send(client, url, command, b"abc"[offset:], offset)
    [file] = gemini.files()
    asked = send(client, url, "query")
    assert asked.headers["x-goog-upload-status"] == "final"
    assert asked.json()["file"]["name"] == file["name"]
    again = send(client, url, "upload, finalize", b"abc")
    assert again.json() == asked.json()
    assert len(gemini.files()) == 1
    assert fired(gemini, "upload") == {"lost_finalize": 1}


def test_a_lost_finalize_counts_files(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "lost_finalize", nth=2)
    make_file(client)
    url = session(client)
    assert send(client, url, "upload", b"abc").status_code == 200
    with pytest.raises(httpx2.TransportError):
        send(client, url, "finalize", offset=3)


def test_an_answer_without_its_file(client: httpx2.Client, gemini: LocalGemini) -> None:
    url = session(client)
    gemini.order_fault("upload", "no_file")
    reply = send(client, url, "upload, finalize", b"abc")
    assert (reply.status_code, reply.headers["x-goog-upload-status"]) == (200, "final")
    assert reply.json() == {}
    assert send(client, url, "query").json()["file"]["name"] == gemini.files()[0]["name"]


def test_a_name_can_be_taken_by_nothing(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "name_taken")
    make_file(client)  # the service names it: not counted
    url = session(client, name="files/mine")
    refused = send(client, url, "upload, finalize", b"abc")
    assert (refused.status_code, refused.headers["x-goog-upload-status"]) == (409, "final")
    assert refused.json() == {"error": {"message": "mine already exists.", "code": 409}}
    assert client.get("/v1/files/mine").status_code == 403
    assert client.delete("/v1/files/mine").status_code == 403
    assert len(client.get("/v1/files").json()["files"]) == len(gemini.files()) == 1
    again = send(client, session(client, name="files/mine"), "upload, finalize", b"abc")
    assert again.status_code == 409
    assert fired(gemini, "upload") == {"name_taken": 1}
    gemini.reset()
    assert make_file(client, name="files/mine")["name"] == "files/mine"


# --- through the gateway -------------------------------------------------------------------------


def test_faults_through_the_gateway(client: httpx2.Client, gemini: LocalGemini) -> None:
    def upload(data: bytes) -> httpx2.Response:
        started = client.post("/genai/upload/v1beta/files", json={})
        return client.post(started.headers["x-goog-upload-url"], content=data)

    gemini.order_fault("upload", "early_final")
    assert upload(b"abcd").json()["file"]["sizeBytes"] == "2"
    gemini.order_fault("upload", "lost_finalize")
    with pytest.raises(httpx2.TransportError):
        upload(b"abcd")
    gemini.order_fault("upload", "active_error")  # there are no chunks to leave out
    gemini.order_fault("upload", "name_taken")  # nor names to choose
    assert upload(b"abcd").status_code == 200
    assert [file["size_bytes"] for file in gemini.files()] == [2, 4, 4]
    assert fired(gemini, "upload") == {"early_final": 1, "lost_finalize": 1}


# --- what each upload was sent -------------------------------------------------------------------


def test_what_was_sent_is_told_by_upload(client: httpx2.Client, gemini: LocalGemini) -> None:
    url = session(client, 1_000_000, display_name="twice", name="files/twice")
    gemini.order_fault("upload", "reset", after_bytes=300_000)
    gemini.order_fault("upload", "unavailable", nth=2)
    with pytest.raises(httpx2.TransportError):
        send(client, url, "upload, finalize", DATA)
    [counted] = gemini.counters()["uploads"]
    first = counted["bytes_received"]
    assert 300_000 <= first < 1_000_000
    assert counted == {
        "name": "files/twice",
        "display_name": "twice",
        "state": "active",
        "declared_bytes": 1_000_000,
        "requests": 1,
        "bytes_received": first,
        "bytes_kept": 300_000,
    }
    assert send(client, url, "upload, finalize", DATA[300_000:], 300_000).status_code == 503
    assert send(client, url, "upload, finalize", DATA[300_000:], 300_000).status_code == 200
    client.post("/upload/v1/files", content=b"abc")
    twice, once = gemini.counters()["uploads"]
    assert (twice["state"], twice["requests"], twice["bytes_kept"]) == ("final", 3, 1_000_000)
    assert twice["bytes_received"] == first + 1_400_000
    assert (once["requests"], once["bytes_received"], once["bytes_kept"]) == (1, 3, 3)
    assert gemini.counters()["bytes_received"] == first + 1_400_003
    gemini.clear_counters()
    assert (gemini.counters()["uploads"], gemini.counters()["faults"]) == ([], {})


def test_what_was_sent_through_the_gateway(client: httpx2.Client, gemini: LocalGemini) -> None:
    started = client.post("/genai/upload/v1beta/files", json={"file": {"display_name": "g"}})
    client.post(started.headers["x-goog-upload-url"], content=b"abc")
    [counted] = gemini.counters()["uploads"]
    assert counted["name"] == gemini.files()[0]["name"]
    assert (counted["display_name"], counted["state"]) == ("g", "final")
    assert (counted["requests"], counted["bytes_received"], counted["bytes_kept"]) == (1, 3, 3)


def test_of_a_multipart_upload_all_is_counted(client: httpx2.Client, gemini: LocalGemini) -> None:
    body = b"--b\r\n\r\n{}\r\n--b\r\nContent-Type: text/plain\r\n\r\nabcdef\r\n--b--\r\n"
    headers = {
        "X-Goog-Upload-Protocol": "multipart",
        "Content-Type": "multipart/related; boundary=b",
    }
    assert client.post("/upload/v1/files", headers=headers, content=body).status_code == 200
    [counted] = gemini.counters()["uploads"]
    assert (counted["bytes_received"], counted["bytes_kept"]) == (len(body), 6)
