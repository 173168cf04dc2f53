"""Limits, and a clock that can be put forward."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import errors, types

from provider_uploads.emulator import EmulatorConfig, LocalGemini, Operation

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


# --- requests ------------------------------------------------------------------------------------


class Time:
    """A clock that stands still until it is moved."""

    def __init__(self, now: str) -> None:
        self.ns = int(datetime.fromisoformat(now).timestamp()) * 10**9

    def __call__(self) -> int:
        return self.ns


@contextmanager
def limited(now: str = "2026-03-01T12:00:00+00:00", **limits: Any) -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(**limits), clock=Time(now)) as local:
        yield local


def as_key(gemini: LocalGemini, key: str = "a-key") -> httpx2.Client:
    headers = {"x-goog-api-key": key, "Authorization": "Bearer token"}
    return httpx2.Client(base_url=gemini.url, headers=headers, timeout=10)


def quota_of(reply: httpx2.Response) -> tuple[str, str, str]:
    """What a 429 says: the quota, its value, the delay."""
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["status"]) == (429, 429, "RESOURCE_EXHAUSTED")
    _, failure, retry = error["details"]
    assert failure["@type"] == "type.googleapis.com/google.rpc.QuotaFailure"
    assert retry["@type"] == "type.googleapis.com/google.rpc.RetryInfo"
    [violation] = failure["violations"]
    return violation["quotaId"], violation["quotaValue"], retry["retryDelay"]


def test_requests_of_any_minute_are_limited_by_operation_and_key() -> None:
    with limited(requests_per_minute={"list": 3}) as gemini, as_key(gemini) as client:
        for wait_s in (0, 10, 20):
            gemini.advance_clock(wait_s)
            assert client.get("/v1/files").status_code == 200
        refused = client.get("/v1/files")
        assert quota_of(refused) == ("FileListRequestsPerMinutePerProject", "3", "30s")
        assert client.get("/v1/files/x").status_code == 403  # another operation
        with as_key(gemini, "another") as other:
            assert other.get("/v1/files").status_code == 200
        gemini.advance_clock(29.5)
        assert quota_of(client.get("/v1/files"))[2] == "0.5s"
        gemini.advance_clock(
            0.5
        )  # the delay it named: the first is out, what was refused is not in
        assert [client.get("/v1/files").status_code for _ in range(2)] == [200, 429]
        counters = gemini.counters()
        assert counters["over_quota"] == {"list": 3}
        assert counters["operations"]["list"]["by_status"] == {"200": 5, "429": 3}
        assert counters["most_in_60_s"] == {"list": 7, "get": 1}
        gemini.reset()
        assert client.get("/v1/files").status_code == 200


def test_chunks_use_the_quota_of_their_session() -> None:
    limits = {"start": 2, "upload": 1, "query": 1}
    with limited(requests_per_minute=limits) as gemini, as_key(gemini) as client:
        urls = [start(client).headers["x-goog-upload-url"] for _ in range(2)]
        assert quota_of(start(client))[0] == "FileStartRequestsPerMinutePerProject"
        with httpx2.Client(timeout=10) as nobody:  # chunks carry no key
            assert send(nobody, urls[0], b"abc").status_code == 200
            refused = send(nobody, urls[1], b"abc")
            assert quota_of(refused)[1:] == ("1", "60s")
            assert "x-goog-upload-status" not in refused.headers
            query = {"X-Goog-Upload-Command": "query"}
            asked = [nobody.post(urls[1], headers=query) for _ in range(2)]
        assert [reply.status_code for reply in asked] == [200, 429]
        assert asked[0].headers["x-goog-upload-size-received"] == "0"


def test_the_quota_of_a_day_is_whole_again_at_midnight_in_california() -> None:
    # In March, the clocks there are eight hours behind; midnight is at 08:00 UTC.
    with (
        limited("2026-03-01T07:59:00+00:00", requests_per_day={"list": 2}) as gemini,
        as_key(gemini) as client,
    ):
        assert [client.get("/v1/files").status_code for _ in range(2)] == [200, 200]
        for wait_s in (0, 30, 29):  # the delay it names is no use
            gemini.advance_clock(wait_s)
            quota_id, value, delay = quota_of(client.get("/v1/files"))
            assert (quota_id, value, delay) == ("FileListRequestsPerDayPerProject", "2", "30s")
        gemini.advance_clock(1)
        assert [client.get("/v1/files").status_code for _ in range(3)] == [200, 200, 429]
        assert gemini.counters()["over_quota"] == {"list": 4}


def test_a_day_in_summer_begins_an_hour_earlier() -> None:
    with (
        limited("2026-07-01T06:59:59+00:00", requests_per_day={"list": 1}) as gemini,
        as_key(gemini) as client,
    ):
        assert [client.get("/v1/files").status_code for _ in range(2)] == [200, 429]
        gemini.advance_clock(1)
        assert client.get("/v1/files").status_code == 200


def test_every_operation_can_be_limited_also_through_the_gateway() -> None:
    limits = dict.fromkeys(Operation, 1)
    body = {"contents": [{"parts": [{"text": "hello"}]}]}
    with limited(requests_per_minute=limits) as gemini, as_key(gemini) as client:
        for prefix in ("/v1", "/genai/v1beta"):
            model = f"{prefix}/models/gemini-2.5-flash:generateContent"
            for _ in range(2):
                client.get(f"{prefix}/files")
                client.get(f"{prefix}/files/x")
                client.delete(f"{prefix}/files/x")
                client.post(model, json=body)
        for _ in range(2):
            client.post("/v1/files:register", json={"uris": ["gs://b/o"]})
            client.get("/download/v1/files/x:download?alt=media")
        over = gemini.counters()["over_quota"]
        assert over == {
            "get": 3,
            "list": 3,
            "delete": 3,
            "register": 1,
            "download": 1,
            "generate": 3,
        }
        refused = client.post(model, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, 429)


def test_the_window_slides() -> None:
    with limited() as gemini, as_key(gemini) as client:
        # Ten in 20 seconds around a full minute: no clock minute has more than five.
        for _ in range(2):
            for _ in range(5):
                client.get("/v1/files")
                gemini.advance_clock(2)
        assert gemini.counters()["most_in_60_s"] == {"list": 10}
        gemini.advance_clock(60)
        client.get("/v1/files")
        assert gemini.counters()["most_in_60_s"] == {"list": 10}
        gemini.clear_counters()
        assert gemini.counters()["most_in_60_s"] == {}


def test_the_sdk_reads_the_quota() -> None:
    with limited(requests_per_day={"list": 1}) as gemini:
        options = types.HttpOptions(base_url=gemini.url)
        with genai.Client(vertexai=False, api_key="a-key", http_options=options) as client:
            assert list(client.files.list()) == []
            with pytest.raises(errors.ClientError) as refused:
                client.files.list()
        assert (refused.value.code, refused.value.status) == (429, "RESOURCE_EXHAUSTED")
        [violation] = refused.value.details["error"]["details"][1]["violations"]
        assert "PerDay" in violation["quotaId"]


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"requests_per_minute": {"fly": 1}}, "'fly' is no operation"),
        ({"requests_per_day": {"get": 0}}, "get needs a whole number from 1"),
        ({"requests_per_day": {"get": True}}, "get needs a whole number from 1"),
        ({"requests_per_minute": {"get": 1.5}}, "get needs a whole number from 1"),
    ],
)
def test_a_senseless_limit_is_refused(limits: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        EmulatorConfig(**limits)
