"""Faults on order, control endpoints, counters."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from provider_uploads.emulator import (
    EmulatorConfig,
    EmulatorError,
    Fault,
    InvalidFaultError,
    LocalGemini,
    Operation,
)
from tests.batch_requests import batch_request

KEY = {"x-goog-api-key": "a-key"}


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(processing_s=0, chunk_granularity_bytes=1)) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, headers=KEY) as http_client:
        yield http_client


def start(client: httpx2.Client, **file: Any) -> httpx2.Response:
    headers = {"X-Goog-Upload-Command": "start"}
    return client.post("/upload/v1/files", headers=headers, json={"file": file})


def send(client: httpx2.Client, url: str, command: str, data: bytes = b"") -> httpx2.Response:
    headers = {"X-Goog-Upload-Command": command, "X-Goog-Upload-Offset": "0"}
    return client.post(url, headers=headers, content=data)


def upload(client: httpx2.Client, data: bytes = b"abc", **file: Any) -> httpx2.Response:
    url = start(client, **file).headers["x-goog-upload-url"]
    return send(client, url, "upload, finalize", data)


def call(client: httpx2.Client, operation: str) -> httpx2.Response:
    """A request for an operation, on a session or a file made for it."""
    if operation == "start":
        return start(client)
    if operation == "list":
        return client.get("/v1/files")
    if operation == "register":
        bearer = {"Authorization": "Bearer token"}
        return client.post("/v1/files:register", headers=bearer, json={"uris": ["gs://b/o"]})
    if operation == "download":
        return client.get("/v1/files/none:download?alt=media")
    content = {"parts": [{"text": "hello"}]}
    if operation == "embed":
        url = "/v1/models/gemini-embedding-001:embedContent"
        return client.post(url, json={"content": content})
    if operation in ("generate", "count"):
        method = "generateContent" if operation == "generate" else "countTokens"
        url = f"/v1/models/gemini-2.5-flash:{method}"
        return client.post(url, json={"contents": [content]})
    lists = {"models": "models", "search": "fileSearchStores", "cache": "cachedContents"}
    if operation in lists:
        return client.get(f"/v1/{lists[operation]}")
    if operation in ("get", "delete"):
        return client.request(operation.upper(), "/v1/files/none")
    if "batch" in operation or operation == "webhook":
        return batch_request(client, operation)()
    url = start(client).headers["x-goog-upload-url"]
    return send(client, url, "upload, finalize" if operation == "upload" else operation)


OPERATIONS = [str(operation) for operation in Operation]
WITHOUT_FAULT = (200, 302, 403)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_answers_that_pass(client: httpx2.Client, gemini: LocalGemini, operation: str) -> None:
    for kind in ("rate_limited", "internal", "unavailable"):
        gemini.order_fault(operation, kind)
    limited, internal, unavailable = (call(client, operation) for _ in range(3))

    assert limited.status_code == 429
    error = limited.json()["error"]
    assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")
    types = [detail["@type"].rpartition(".")[2] for detail in error["details"]]
    assert types == ["Help", "QuotaFailure", "RetryInfo"]
    assert error["details"][2]["retryDelay"] == "1s"

    # All were due at the first request: they come one after another.
    assert (internal.status_code, unavailable.status_code) == (500, 503)
    assert call(client, operation).status_code in WITHOUT_FAULT


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("kind", "http_status"), [("internal", 500), ("unavailable", 503)])
def test_server_errors_carry_no_upload_status(
    client: httpx2.Client, gemini: LocalGemini, operation: str, kind: str, http_status: int
) -> None:
    gemini.order_fault(operation, kind)
    reply = call(client, operation)
    assert reply.status_code == http_status
    assert "x-goog-upload-status" not in reply.headers
    if kind == "unavailable":
        assert reply.text == ""
    else:
        assert reply.json()["error"]["status"] == "INTERNAL"
    assert call(client, operation).status_code in WITHOUT_FAULT


@pytest.mark.parametrize("operation", OPERATIONS)
def test_reset_gives_no_answer(client: httpx2.Client, gemini: LocalGemini, operation: str) -> None:
    gemini.order_fault(operation, "reset")
    with pytest.raises(httpx2.TransportError):
        call(client, operation)
    assert gemini.counters()["operations"][operation] == {
        "requests": 1,
        "by_status": {"reset": 1},
    }


def test_retry_delay_is_what_was_ordered(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("list", "rate_limited", retry_delay_s=27.5)
    error = client.get("/v1/files").json()["error"]
    assert error["details"][2]["retryDelay"] == "27.5s"


def test_nth_and_count(client: httpx2.Client, gemini: LocalGemini) -> None:
    client.get("/v1/files")  # before the order: not counted
    gemini.order_fault("list", "internal", nth=2, count=2)
    assert [client.get("/v1/files").status_code for _ in range(5)] == [200, 500, 500, 200, 200]
    entry = gemini.faults()[0]
    assert (entry["seen"], entry["applied"]) == (5, 2)


def test_match_aims_at_one_file(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("start", "internal", match="clip", count=9)
    gemini.order_fault("upload", "unavailable", match="report", count=9)
    gemini.order_fault("get", "internal", match="notes", count=9)
    assert start(client, display_name="my clip.mp4").status_code == 500
    assert start(client, name="files/clip-1").status_code == 500
    assert upload(client, display_name="report.pdf").status_code == 503
    assert upload(client, name="files/n1", display_name="notes").status_code == 200
    assert client.get("/v1/files/n1").status_code == 500
    assert client.get("/v1/files/n2").status_code == 403


def test_reset_after_some_bytes_leaves_them(client: httpx2.Client, gemini: LocalGemini) -> None:
    data = bytes(range(250)) * 4000
    url = start(client).headers["x-goog-upload-url"]
    gemini.order_fault("upload", "reset", after_bytes=300_001)
    with pytest.raises(httpx2.TransportError):
        send(client, url, "upload, finalize", data)
    reply = send(client, url, "query")
    assert reply.headers["x-goog-upload-size-received"] == "300001"
    headers = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "300001"}
    assert client.post(url, headers=headers, content=data[300_001:]).status_code == 200


def test_reset_after_more_bytes_than_come_still_strikes(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    url = start(client).headers["x-goog-upload-url"]
    gemini.order_fault("upload", "reset", after_bytes=1000)
    with pytest.raises(httpx2.TransportError):
        send(client, url, "upload, finalize", b"abc")
    assert send(client, url, "query").headers["x-goog-upload-size-received"] == "3"
    assert gemini.files() == []


def test_an_error_to_an_upload_takes_no_bytes(client: httpx2.Client, gemini: LocalGemini) -> None:
    url = start(client).headers["x-goog-upload-url"]
    gemini.order_fault("upload", "unavailable")
    assert send(client, url, "upload, finalize", b"a" * 1_000_000).status_code == 503
    assert send(client, url, "query").headers["x-goog-upload-size-received"] == "0"
    assert send(client, url, "upload, finalize", b"a" * 1_000_000).status_code == 200
    counters = gemini.counters()
    assert counters["bytes_received"] == 2_000_000
    assert counters["bytes_stored"] == 1_000_000


def test_a_file_can_fail(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "file_failed", nth=2)
    assert upload(client).json()["file"]["state"] == "ACTIVE"
    file = upload(client, mime_type="video/mp4").json()["file"]
    assert file["state"] == "FAILED"
    assert file["error"]["code"] == 13
    assert file["error"]["message"]
    assert "@type" in file["error"]["details"][0]
    assert "videoMetadata" not in file
    assert upload(client).json()["file"]["state"] == "ACTIVE"


def test_a_file_can_stay_in_processing(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "file_stuck", match="stuck")
    file = upload(client, display_name="stuck.txt").json()["file"]
    assert file["state"] == "PROCESSING"
    assert client.get(f"/v1/{file['name']}").json()["state"] == "PROCESSING"


def test_file_faults_count_files_and_not_chunks(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "file_failed")
    gemini.order_fault("upload", "internal", nth=2)
    url = start(client).headers["x-goog-upload-url"]
    assert send(client, url, "upload", b"abc").status_code == 200
    assert send(client, url, "finalize").status_code == 500
    headers = {"X-Goog-Upload-Command": "finalize"}
    assert client.post(url, headers=headers).json()["file"]["state"] == "FAILED"


def test_a_refused_key_consumes_no_fault(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("list", "internal")
    with httpx2.Client(base_url=gemini.url) as nobody:
        assert nobody.get("/v1/files").status_code == 403
    assert client.get("/v1/files").status_code == 500


# --- control endpoints ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "complaint"),
    [
        ([], "object"),
        ({"kind": "reset"}, "operation is missing"),
        ({"operation": "get"}, "kind is missing"),
        ({"operation": "fly", "kind": "reset"}, "operation must be one of"),
        ({"operation": "get", "kind": "bang"}, "kind must be one of"),
        ({"operation": ["get"], "kind": "reset"}, "operation must be one of"),
        ({"operation": "get", "kind": "reset", "often": 1}, "unknown: often"),
        ({"operation": "get", "kind": "reset", "nth": 0}, "nth must be"),
        ({"operation": "get", "kind": "reset", "nth": "1"}, "nth must be"),
        ({"operation": "get", "kind": "reset", "count": True}, "count must be"),
        ({"operation": "get", "kind": "reset", "match": ""}, "match must be"),
        ({"operation": "list", "kind": "reset", "match": "a"}, "leave match out"),
        ({"operation": "get", "kind": "file_failed"}, "only at upload"),
        ({"operation": "get", "kind": "reset", "after_bytes": 1}, "only for the operation upload"),
        ({"operation": "upload", "kind": "reset", "after_bytes": -1}, "after_bytes must be"),
        ({"operation": "upload", "kind": "internal", "after_bytes": 1}, "does not take"),
        ({"operation": "get", "kind": "rate_limited", "retry_delay_s": "1"}, "retry_delay_s must"),
        ({"operation": "get", "kind": "rate_limited", "retry_delay_s": -1}, "retry_delay_s must"),
        ({"operation": "get", "kind": "early_final"}, "only at upload"),
        ({"operation": "start", "kind": "active_error"}, "only at upload"),
        ({"operation": "query", "kind": "lost_finalize"}, "only at upload"),
        ({"operation": "get", "kind": "name_taken"}, "only at upload"),
        ({"operation": "download", "kind": "bad_json"}, "bad_json cannot happen at download"),
        ({"operation": "get", "kind": "reset", "stall_s": 1}, "does not take stall_s"),
        ({"operation": "get", "kind": "stall", "stall_s": -1}, "stall_s must be"),
        ({"operation": "get", "kind": "stall", "after_bytes": 1}, "only for the operation upload"),
        ({"operation": "upload", "kind": "lost_answer", "after_bytes": 1}, "does not take"),
        ({"operation": "get", "kind": "reset", "share": 0}, "share must be"),
        ({"operation": "get", "kind": "reset", "share": 2}, "share must be"),
        ({"operation": "get", "kind": "reset", "seed": 3}, "seed is for a share"),
        ({"operation": "get", "kind": "reset", "share": 0.5, "seed": "3"}, "seed must be"),
        ({"operation": "get", "kind": "reset", "for_s": -1}, "for_s must be"),
    ],
)
def test_a_senseless_fault_is_refused(
    gemini: LocalGemini, client: httpx2.Client, order: Any, complaint: str
) -> None:
    reply = client.post("/_emulator/faults", json=order)
    assert reply.status_code == 400
    assert complaint in reply.json()["error"]["message"]
    assert gemini.faults() == []
    with pytest.raises(InvalidFaultError, match=complaint):
        Fault.from_json(order)


def test_an_order_that_is_not_json_is_refused(client: httpx2.Client) -> None:
    assert client.post("/_emulator/faults", content=b"{").status_code == 400


def test_faults_over_http(client: httpx2.Client) -> None:
    order = {"operation": "get", "kind": "rate_limited", "nth": 2, "retry_delay_s": 3}
    entry = client.post("/_emulator/faults", json=order).json()
    assert entry == {
        "id": entry["id"],
        "operation": "get",
        "kind": "rate_limited",
        "nth": 2,
        "count": 1,
        "match": None,
        "share": 1.0,
        "seed": 0,
        "for_s": None,
        "retry_delay_s": 3,
        "stall_s": None,
        "after_bytes": None,
        "until": None,
        "seen": 0,
        "applied": 0,
        "fired": {},
    }
    assert client.get("/_emulator/faults").json() == {"faults": [entry]}
    assert client.delete("/_emulator/faults").json() == {}
    assert client.get("/_emulator/faults").json() == {"faults": []}


def test_counters_tell_what_was_seen(client: httpx2.Client, gemini: LocalGemini) -> None:
    start(client)
    upload(client, b"12345")
    client.get("/v1/files/none")
    counters = client.get("/_emulator/counters").json()
    assert counters == gemini.counters()
    assert counters["operations"] == {
        **{operation: {"requests": 0, "by_status": {}} for operation in OPERATIONS},
        "start": {"requests": 2, "by_status": {"200": 2}},
        "upload": {"requests": 1, "by_status": {"200": 1}},
        "get": {"requests": 1, "by_status": {"403": 1}},
    }
    assert (counters["bytes_received"], counters["bytes_stored"]) == (5, 5)
    assert (counters["files_made"], counters["sessions_open"]) == (1, 1)
    client.delete("/_emulator/counters")
    counters = gemini.counters()
    assert (counters["files_made"], counters["bytes_stored"]) == (0, 5)
    assert counters["operations"]["start"]["requests"] == 0


def test_files_and_sessions_without_their_keys(client: httpx2.Client, gemini: LocalGemini) -> None:
    upload(client, b"abc", name="files/x1", display_name="d", mime_type="text/plain")
    start(client, name="files/x2", size_bytes=9)
    [file] = client.get("/_emulator/files").json()["files"]
    del file["create_time"]
    assert file == {
        "name": "files/x1",
        "display_name": "d",
        "mime_type": "text/plain",
        "size_bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "state": "ACTIVE",
        "source": "UPLOADED",
        "path": None,
    }
    assert client.get("/_emulator/sessions").json()["sessions"] == [
        {
            "name": "files/x2",
            "display_name": None,
            "mime_type": "application/octet-stream",
            "received_bytes": 0,
            "declared_bytes": 9,
        }
    ]


def test_reset_forgets_everything(client: httpx2.Client, gemini: LocalGemini) -> None:
    upload(client)
    url = start(client).headers["x-goog-upload-url"]
    gemini.order_fault("query", "internal")
    assert client.post("/_emulator/reset").json() == {}
    assert (gemini.files(), gemini.sessions(), gemini.faults()) == ([], [], [])
    assert gemini.counters()["operations"]["start"]["requests"] == 0
    assert send(client, url, "query").status_code == 404


def test_control_needs_no_key(gemini: LocalGemini) -> None:
    with httpx2.Client(base_url=gemini.url) as nobody:
        assert nobody.get("/_emulator/health").json() == {"status": "ok"}
        assert nobody.get("/").json()["service"] == "local Gemini"
        assert nobody.get("/_emulator/nothing").status_code == 404


def test_latency_is_added_to_every_answer_but_control() -> None:
    with (
        LocalGemini(EmulatorConfig(latency_ms=200)) as gemini,
        httpx2.Client(base_url=gemini.url, headers=KEY) as client,
    ):
        client.get("/_emulator/health")
        for reply in (client.get("/v1/files/none"), upload(client)):
            assert reply.elapsed.total_seconds() >= 0.2
        controls = [client.get("/_emulator/health") for _ in range(10)]
        assert min(reply.elapsed.total_seconds() for reply in controls) < 0.2


def test_a_stopped_local_gemini_says_so() -> None:
    with LocalGemini() as gemini:
        pass
    with pytest.raises(EmulatorError, match="not running"):
        gemini.files()
