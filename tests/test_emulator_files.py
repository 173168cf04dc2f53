"""Files once they are made: resource, states, get, list, delete, keys."""

import base64
import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from provider_uploads.emulator import EmulatorConfig, LocalGemini
from provider_uploads.emulator.config import SECOND_NS

KEY = {"x-goog-api-key": "a-key"}
START_NS = 1_750_000_000 * SECOND_NS


class HandClock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_ns = START_NS

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def gemini(clock: HandClock) -> Iterator[LocalGemini]:
    config = EmulatorConfig(processing_s=2, processing_by_mime={"video/*": 3, "image/png": 1})
    with LocalGemini(config, clock=clock) as local:
        yield local


@pytest.fixture
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, headers=KEY) as http_client:
        yield http_client


def upload(client: httpx2.Client, data: bytes = b"hello", **file: Any) -> dict[str, Any]:
    start = client.post(
        "/upload/v1/files", headers={"X-Goog-Upload-Command": "start"}, json={"file": file}
    )
    headers = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
    reply = client.post(start.headers["x-goog-upload-url"], headers=headers, content=data)
    assert reply.status_code == 200, reply.text
    stored: dict[str, Any] = reply.json()["file"]
    return stored


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    error = reply.json()["error"]
    assert error["code"] == reply.status_code
    return reply.status_code, error["status"]


# --- the resource --------------------------------------------------------------------------------


def test_every_field_of_a_file(client: httpx2.Client, gemini: LocalGemini) -> None:
    file = upload(client, name="files/x1", display_name="greeting", mime_type="text/plain")
    hex_text = hashlib.sha256(b"hello").hexdigest()
    assert file == {
        "name": "files/x1",
        "displayName": "greeting",
        "mimeType": "text/plain",
        "sizeBytes": "5",
        "createTime": "2025-06-15T15:06:40.000000Z",
        "updateTime": "2025-06-15T15:06:40.000000Z",
        "expirationTime": "2025-06-17T15:06:39.995000000Z",
        "sha256Hash": base64.b64encode(hex_text.encode()).decode(),
        "uri": "https://generativelanguage.googleapis.com/v1beta/files/x1",
        "state": "ACTIVE",
        "source": "UPLOADED",
    }
    assert client.get("/v1/files/x1").json() == file
    assert client.get("/v1beta/files/x1").json() == file


def test_fields_that_are_not_set_are_absent(client: httpx2.Client) -> None:
    file = upload(client)
    assert not {"displayName", "videoMetadata", "error", "downloadUri"} & set(file)


def test_hash_can_be_base64_of_the_raw_digest() -> None:
    config = EmulatorConfig(sha256_encoding="raw")
    with (
        LocalGemini(config) as gemini,
        httpx2.Client(base_url=gemini.url, headers=KEY) as client,
    ):
        file = upload(client)
    assert base64.b64decode(file["sha256Hash"]) == hashlib.sha256(b"hello").digest()


@pytest.mark.parametrize(
    ("public_uri", "uri"),
    [
        ("", "https://proxy.example/v1beta/files/x1"),
        ("http://gemini.test:81/", "http://gemini.test:81/v1beta/files/x1"),
        (None, "https://generativelanguage.googleapis.com/v1beta/files/x1"),
    ],
)
def test_a_uri_is_googles_unless_another_is_wanted(public_uri: str | None, uri: str) -> None:
    config = EmulatorConfig() if public_uri is None else EmulatorConfig(public_uri=public_uri)
    with LocalGemini(config) as gemini, httpx2.Client(base_url=gemini.url, headers=KEY) as client:
        upload(client, name="files/x1")
        headers = {"Host": "proxy.example", "X-Forwarded-Proto": "https"}
        assert client.get("/v1/files/x1", headers=headers).json()["uri"] == uri


@pytest.mark.parametrize("public_uri", ["gemini.test", "ftp://a", "http://a/?b", "https://a b"])
def test_a_public_uri_is_a_url(public_uri: str) -> None:
    with pytest.raises(ValueError, match="public_uri is a URL"):
        EmulatorConfig(public_uri=public_uri)


def test_times_are_the_real_ones() -> None:
    with LocalGemini() as gemini, httpx2.Client(base_url=gemini.url, headers=KEY) as client:
        file = upload(client)
    created = datetime.fromisoformat(file["createTime"])
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)
    assert re.fullmatch(r"[0-9T:-]+\.[0-9]{9}Z", file["expirationTime"])


# --- states --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mime_type", ["text/plain", "image/jpeg", "audio/mpeg", "application/json", "jsonl"]
)
def test_most_types_are_active_at_once(client: httpx2.Client, mime_type: str) -> None:
    assert upload(client, mime_type=mime_type)["state"] == "ACTIVE"


@pytest.mark.parametrize(
    ("mime_type", "processing_s"), [("video/mp4", 3), ("application/pdf", 2), ("image/png", 1)]
)
def test_some_types_are_processed_first(
    client: httpx2.Client, clock: HandClock, mime_type: str, processing_s: float
) -> None:
    file = upload(client, name="files/x1", mime_type=mime_type)
    assert (file["state"], file["updateTime"]) == ("PROCESSING", file["createTime"])
    assert "videoMetadata" not in file
    clock.pass_s(processing_s - 0.001)
    assert client.get("/v1/files/x1").json()["state"] == "PROCESSING"
    clock.pass_s(0.001)
    file = client.get("/v1/files/x1").json()
    assert file["state"] == "ACTIVE"
    assert file["updateTime"] == f"2025-06-15T15:06:4{processing_s}.000000Z"
    assert ("videoMetadata" in file) is (mime_type == "video/mp4")


def test_default_processing_time_is_two_seconds() -> None:
    config = EmulatorConfig()
    assert config.processing_s_for("video/mp4") == 2
    assert config.processing_s_for("application/pdf") == 2
    assert config.processing_s_for("audio/wav") == 0


def test_an_exact_type_goes_before_a_pattern() -> None:
    config = EmulatorConfig(processing_by_mime={"video/*": 3, "video/webm": 0, "*/*": 9})
    assert config.processing_s_for("video/webm") == 0
    assert config.processing_s_for("Video/MP4") == 3
    assert config.processing_s_for("text/plain") == 9


def test_files_vanish_after_48_hours(
    client: httpx2.Client, clock: HandClock, gemini: LocalGemini
) -> None:
    upload(client, name="files/old")
    clock.pass_s(48 * 3600 - 1)
    upload(client, name="files/new")
    assert client.get("/v1/files/old").status_code == 200
    clock.pass_s(1)
    assert refusal(client.get("/v1/files/old")) == (403, "PERMISSION_DENIED")
    assert [file["name"] for file in client.get("/v1/files").json()["files"]] == ["files/new"]
    assert len(gemini.files()) == 1
    upload(client, name="files/old")  # the name is free again


def test_sessions_vanish_after_a_week(client: httpx2.Client, clock: HandClock) -> None:
    start = client.post("/upload/v1/files", headers={"X-Goog-Upload-Command": "start"}, json={})
    url, query = start.headers["x-goog-upload-url"], {"X-Goog-Upload-Command": "query"}
    clock.pass_s(6 * 24 * 3600)
    assert client.post(url, headers=query).status_code == 200
    clock.pass_s(2 * 24 * 3600)
    assert client.post(url, headers=query).status_code == 404


# --- get, list, delete ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["/v1", "/v1beta", "/v1alpha", ""])
def test_every_version_sees_the_same_files(client: httpx2.Client, version: str) -> None:
    upload(client, name="files/x1")
    assert client.get(f"{version}/files/x1").status_code == 200
    assert len(client.get(f"{version}/files").json()["files"]) == 1
    assert client.delete(f"{version}/files/x1").json() == {}


@pytest.mark.parametrize("file_id", ["none", "batch-" + "x" * 36, "not%20possible"])
def test_a_missing_file_is_forbidden_never_not_found(client: httpx2.Client, file_id: str) -> None:
    assert refusal(client.get(f"/v1/files/{file_id}")) == (403, "PERMISSION_DENIED")
    assert refusal(client.delete(f"/v1/files/{file_id}")) == (403, "PERMISSION_DENIED")


def test_delete_forgets_and_frees_the_name(client: httpx2.Client) -> None:
    upload(client, name="files/x1")
    reply = client.delete("/v1/files/x1")
    assert (reply.status_code, reply.json()) == (200, {})
    assert client.get("/v1/files/x1").status_code == 403
    assert client.delete("/v1/files/x1").status_code == 403
    upload(client, name="files/x1")


def test_an_empty_list_is_an_empty_object(client: httpx2.Client) -> None:
    assert client.get("/v1/files").json() == {}


def test_list_comes_in_pages_newest_first(client: httpx2.Client) -> None:
    for number in range(23):
        upload(client, name=f"files/n{number}")
    pages: list[list[str]] = []
    query: dict[str, str] = {}
    while True:
        page = client.get("/v1/files", params=query).json()
        pages.append([file["name"] for file in page["files"]])
        if "nextPageToken" not in page:
            break
        query = {"pageToken": page["nextPageToken"]}
    assert [len(page) for page in pages] == [10, 10, 3]
    assert sum(pages, []) == [f"files/n{number}" for number in range(22, -1, -1)]  # noqa: RUF017
    assert len(client.get("/v1/files?pageSize=100").json()["files"]) == 23
    assert len(client.get("/v1/files?page_size=7").json()["files"]) == 7


def test_a_page_is_not_moved_by_what_happens_meanwhile(client: httpx2.Client) -> None:
    for number in range(4):
        upload(client, name=f"files/n{number}")
    token = client.get("/v1/files?pageSize=2").json()["nextPageToken"]
    client.delete("/v1/files/n2")
    upload(client, name="files/n4")
    rest = client.get("/v1/files", params={"pageToken": token}).json()["files"]
    assert [file["name"] for file in rest] == ["files/n1", "files/n0"]


@pytest.mark.parametrize(
    "query", ["pageSize=101", "pageSize=-1", "pageSize=x", "pageToken=x", "pageToken=YmVmb3JlOg"]
)
def test_a_bad_page_is_refused(client: httpx2.Client, query: str) -> None:
    assert refusal(client.get(f"/v1/files?{query}")) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nothing"),
        ("GET", "/v2/files"),
        ("GET", "/v1/files/"),
        ("PATCH", "/v1/files/x"),
        ("GET", "/v1/files/x:fly"),
        ("PUT", "/v1/files"),
        ("POST", "/v1/files/x:download"),
        ("GET", "/v1/files:register"),
        ("POST", "/v1/models/m:generateContent"),
    ],
)
def test_an_unknown_path_is_not_found(client: httpx2.Client, method: str, path: str) -> None:
    assert refusal(client.request(method, path)) == (404, "NOT_FOUND")


# --- keys ----------------------------------------------------------------------------------------


@pytest.fixture
def strict() -> Iterator[httpx2.Client]:
    config = EmulatorConfig(api_keys=frozenset({"one", "two"}))
    with LocalGemini(config) as local, httpx2.Client(base_url=local.url) as http_client:
        yield http_client


CALLS = [
    ("POST", "/upload/v1/files"),
    ("GET", "/v1/files"),
    ("GET", "/v1/files/x"),
    ("DELETE", "/v1/files/x"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_call_without_key_is_forbidden(strict: httpx2.Client, method: str, path: str) -> None:
    reply = strict.request(method, path, headers={"X-Goog-Upload-Command": "start"})
    assert refusal(reply) == (403, "PERMISSION_DENIED")
    assert "unregistered callers" in reply.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_wrong_key_is_an_invalid_argument(strict: httpx2.Client, method: str, path: str) -> None:
    headers = {"X-Goog-Upload-Command": "start", "x-goog-api-key": "wrong"}
    reply = strict.request(method, path, headers=headers)
    assert refusal(reply) == (400, "INVALID_ARGUMENT")
    info, localized = reply.json()["error"]["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == ("API_KEY_INVALID", "googleapis.com")
    assert localized["@type"].endswith("LocalizedMessage")


def test_a_key_may_stand_in_the_query(strict: httpx2.Client) -> None:
    assert strict.get("/v1/files?key=one").status_code == 200
    assert strict.get("/v1/files?key=wrong").status_code == 400
    assert strict.get("/v1/files?key=").status_code == 403


def test_each_key_owns_its_files(strict: httpx2.Client) -> None:
    with httpx2.Client(base_url=strict.base_url, headers={"x-goog-api-key": "one"}) as one:
        upload(one, name="files/x1")
        assert len(one.get("/v1/files").json()["files"]) == 1
    two = {"x-goog-api-key": "two"}
    assert refusal(strict.get("/v1/files/x1", headers=two)) == (403, "PERMISSION_DENIED")
    assert refusal(strict.delete("/v1/files/x1", headers=two)) == (403, "PERMISSION_DENIED")
    assert strict.get("/v1/files", headers=two).json() == {}


# --- bytes on disk -------------------------------------------------------------------------------


def paths_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_bytes_are_removed_once_the_file_is_made(tmp_path: Path) -> None:
    with (
        LocalGemini(EmulatorConfig(data_dir=tmp_path)) as gemini,
        httpx2.Client(base_url=gemini.url, headers=KEY) as client,
    ):
        upload(client)
        assert gemini.files()[0]["path"] is None
        assert paths_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_bytes_can_be_kept_until_the_file_is_deleted(tmp_path: Path) -> None:
    with (
        LocalGemini(EmulatorConfig(data_dir=tmp_path, keep_bytes=True)) as gemini,
        httpx2.Client(base_url=gemini.url, headers=KEY) as client,
    ):
        upload(client, name="files/x1")
        upload(client, name="files/x2")
        path = Path(gemini.files()[0]["path"])
        assert path.read_bytes() == b"hello"
        assert client.delete("/v1/files/x1").status_code == 200
        assert not path.exists()
        assert len(paths_in(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"processing_s": -1},
        {"processing_by_mime": {"a/b": -1}},
        {"latency_ms": -1},
        {"max_file_bytes": -1},
        {"max_project_bytes": -1},
        {"chunk_granularity_bytes": 0},
        {"sha256_encoding": "sha"},
    ],
)
def test_nonsense_in_the_configuration_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"negative|at least|hex"):
        EmulatorConfig(**settings)


def test_keys_do_not_show_in_a_configuration() -> None:
    assert "secret" not in repr(EmulatorConfig(api_keys=frozenset({"secret"})))
