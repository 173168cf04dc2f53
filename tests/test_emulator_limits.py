"""Limits, and a clock that can be put forward."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import errors, types

from provider_uploads.emulator import EmulatorConfig, LocalGemini

KEY = {"x-goog-api-key": "a-key"}


@pytest.fixture
def gemini(tmp_path: Path) -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(max_project_bytes=1000, data_dir=tmp_path)) as local:
        yield local


@pytest.fixture
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, headers=KEY, timeout=10) as http_client:
        yield http_client


def start(client: httpx2.Client, size: int | None = None, **file: Any) -> httpx2.Response:
    headers = {"X-Goog-Upload-Command": "start"}
    if size is not None:
        headers["X-Goog-Upload-Header-Content-Length"] = str(size)
    return client.post("/upload/v1/files", headers=headers, json={"file": file})


def send(client: httpx2.Client, url: str, data: bytes) -> httpx2.Response:
    headers = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
    return client.post(url, headers=headers, content=data)


def is_full(reply: httpx2.Response) -> bool:
    if reply.status_code == 200:
        return False
    error = reply.json()["error"]
    assert (reply.status_code, error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert "1000 bytes together" in error["message"]
    assert "details" not in error  # no RetryInfo: waiting does not help
    return True


# --- storage -------------------------------------------------------------------------------------


def test_the_documented_limits_are_the_defaults() -> None:
    config = EmulatorConfig()
    assert config.max_file_bytes == 2 * 1024**3
    assert config.max_project_bytes == 20 * 1024**3


def test_a_full_project_is_refused_at_start_if_the_size_is_known(client: httpx2.Client) -> None:
    assert send(client, start(client).headers["x-goog-upload-url"], b"x" * 600).status_code == 200
    assert not is_full(start(client, 400))
    assert is_full(start(client, 401))
    other = client.post(
        "/upload/v1/files",
        headers={"x-goog-api-key": "other", "X-Goog-Upload-Command": "start"},
        json={"file": {"sizeBytes": "1000"}},
    )
    assert not is_full(other)


def test_a_full_project_is_refused_at_finalize_for_good(
    client: httpx2.Client, gemini: LocalGemini, tmp_path: Path
) -> None:
    first, second = (start(client, 600).headers["x-goog-upload-url"] for _ in range(2))
    assert not is_full(send(client, first, b"x" * 600))
    refused = send(client, second, b"x" * 600)
    assert is_full(refused)
    assert refused.headers["x-goog-upload-status"] == "final"
    assert gemini.sessions() == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_deleting_and_expiry_make_room(client: httpx2.Client, gemini: LocalGemini) -> None:
    def upload(size: int) -> httpx2.Response:
        return client.post("/upload/v1/files", content=b"x" * size)

    name = upload(600).json()["file"]["name"]
    assert is_full(upload(600))
    client.delete(f"/v1/{name}")
    assert not is_full(upload(600))
    assert is_full(client.post("/_emulator/generated", content=b"x" * 600))
    gemini.advance_clock(48 * 3600)
    assert not is_full(upload(1000))
    assert is_full(upload(1))
    assert not is_full(upload(0))
    gemini.reset()
    assert not is_full(upload(1000))


def test_registered_files_take_no_room(client: httpx2.Client) -> None:
    assert client.post("/upload/v1/files", content=b"x" * 1000).status_code == 200
    bearer = {"Authorization": "Bearer t"}
    reply = client.post("/v1/files:register", headers=bearer, json={"uris": ["gs://b/o"]})
    assert reply.status_code == 200


def test_the_sdk_raises_at_once(gemini: LocalGemini, tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_bytes(b"x" * 1001)
    options = types.HttpOptions(base_url=gemini.url, timeout=10_000)
    with genai.Client(vertexai=False, api_key="a-key", http_options=options) as sdk:
        with pytest.raises(errors.ClientError) as full:
            sdk.files.upload(file=path)
        assert (full.value.code, full.value.status) == (429, "RESOURCE_EXHAUSTED")


# --- clock ---------------------------------------------------------------------------------------


def advance(client: httpx2.Client, seconds: Any) -> httpx2.Response:
    return client.post("/_emulator/clock", json={"advance_s": seconds})


def now(client: httpx2.Client) -> datetime:
    return datetime.fromisoformat(client.get("/_emulator/clock").json()["now"])


def test_time_can_be_let_pass_from_outside(client: httpx2.Client) -> None:
    video = start(client, name="files/clip", mime_type="video/mp4").headers["x-goog-upload-url"]
    file = send(client, video, b"x").json()["file"]
    assert file["state"] == "PROCESSING"
    before = now(client)
    assert advance(client, 2).json()["advanced_s"] == 2
    assert timedelta(seconds=2) <= now(client) - before < timedelta(seconds=10)
    assert client.get("/v1/files/clip").json()["state"] == "ACTIVE"
    assert advance(client, 48 * 3600).json()["advanced_s"] == 48 * 3600 + 2
    assert client.get("/v1/files/clip").status_code == 403
    assert client.get("/v1/files").json() == {}


def test_sessions_grow_old_too(client: httpx2.Client) -> None:
    url = start(client).headers["x-goog-upload-url"]
    advance(client, 8 * 24 * 3600)
    assert client.post(url, headers={"X-Goog-Upload-Command": "query"}).status_code == 404


def test_new_files_are_of_the_new_time(client: httpx2.Client) -> None:
    advance(client, 3600.5)
    file = client.post("/upload/v1/files", content=b"x").json()["file"]
    created = datetime.fromisoformat(file["createTime"])
    assert abs(now(client) - created) < timedelta(seconds=10)


@pytest.mark.parametrize(
    "order",
    [
        {"advance_s": -1},
        {"advance_s": "1"},
        {"advance_s": True},
        {"advance_s": None},
        {"advance_s": 1e12},
        {"advance_s": 1, "back": 1},
        {},
        [],
        1,
    ],
)
def test_only_forward_and_only_so_far(client: httpx2.Client, order: Any) -> None:
    reply = client.post("/_emulator/clock", json=order)
    assert reply.status_code == 400
    assert "advance_s" in reply.json()["error"]["message"]
    assert client.get("/_emulator/clock").json()["advanced_s"] == 0


def test_nonsense_for_the_clock_is_refused(client: httpx2.Client, gemini: LocalGemini) -> None:
    assert client.post("/_emulator/clock", content=b"{").status_code == 400
    assert client.post("/_emulator/clock", content=b'{"advance_s": NaN}').status_code == 400
    with pytest.raises(ValueError, match="from 0"):
        gemini.advance_clock(-1)


def test_a_reset_leaves_the_clock(client: httpx2.Client) -> None:
    advance(client, 60)
    client.post("/_emulator/reset")
    assert client.get("/_emulator/clock").json()["advanced_s"] == 60
