"""The resumable protocol of Google's older clients, and uploads without bytes."""

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from provider_uploads.emulator import EmulatorConfig, LocalGemini

KEY = {"x-goog-api-key": "a-key"}
PATHS = ("/upload/v1beta/files?uploadType=resumable", "/resumable/upload/v1beta/files")


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(chunk_granularity_bytes=4, processing_s=0)) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, timeout=10) as http_client:
        yield http_client


def start(client: httpx2.Client, path: str = PATHS[0], length: int | None = None) -> str:
    headers = {**KEY, "X-Upload-Content-Type": "text/plain"}
    if length is not None:
        headers["X-Upload-Content-Length"] = str(length)
    reply = client.post(path, headers=headers, json={"file": {"displayName": "greeting"}})
    assert reply.status_code == 200, reply.text
    return reply.headers["location"]


def put(
    client: httpx2.Client, url: str, content: bytes = b"", content_range: str | None = None
) -> httpx2.Response:
    headers = {} if content_range is None else {"Content-Range": content_range}
    return client.put(url, headers=headers, content=content)


def message_of(reply: httpx2.Response) -> str:
    message: str = reply.json()["error"]["message"]
    return message


@pytest.mark.parametrize("path", PATHS)
def test_chunks_until_the_file_is_there(
    client: httpx2.Client, gemini: LocalGemini, path: str
) -> None:
    url = start(client, path, 10)
    assert url.startswith(f"{gemini.url}{path.partition('?')[0]}?uploadType=resumable&upload_id=")
    before = put(client, url, content_range="bytes */10")
    assert (before.status_code, "range" in before.headers) == (308, False)
    first = put(client, url, b"01234567", "bytes 0-7/10")
    assert (first.status_code, first.headers["range"]) == (308, "bytes=0-7")
    again = put(client, url, content_range="bytes */*")
    assert (again.status_code, again.headers["range"]) == (308, "bytes=0-7")
    last = put(client, url, b"89", "bytes 8-9/10")
    file = last.json()["file"]
    assert (last.status_code, file["displayName"], file["mimeType"]) == (
        200,
        "greeting",
        "text/plain",
    )
    assert gemini.files()[0]["sha256"] == hashlib.sha256(b"0123456789").hexdigest()
    assert put(client, url, content_range="bytes */10").json() == last.json()
    assert put(client, url, b"89", "bytes 8-9/10").json() == last.json()
    assert "not stored" in message_of(put(client, url, b"xx", "bytes 8-9/10"))


def test_the_whole_file_in_one_put(client: httpx2.Client, gemini: LocalGemini) -> None:
    assert put(client, start(client), b"hello").json()["file"]["sizeBytes"] == "5"
    assert put(client, start(client)).status_code == 200
    assert [file["size_bytes"] for file in gemini.files()] == [5, 0]


def test_the_length_may_become_known_at_the_end(client: httpx2.Client) -> None:
    url = start(client)
    assert put(client, url, b"0123", "bytes 0-3/*").status_code == 308
    assert put(client, url, content_range="bytes */4").json()["file"]["sizeBytes"] == "4"


@pytest.mark.parametrize(
    ("content", "content_range", "complaint"),
    [
        (b"4567", "bytes 0-3/10", "begins at 0, but 4 bytes have arrived"),
        (b"89", "bytes 8-9/10", "begins at 8, but 4 bytes have arrived"),
        (b"456", "bytes 4-7/10", "names 4 bytes, the request has 3"),
        (b"45678", "bytes 4-8/10", "must be a multiple of 4 bytes"),
        (b"4567", "bytes 4-7/9", "names 9 bytes in all, 10 were declared"),
        (b"4567", "bytes 7-4/10", "makes no sense"),
        (b"4567", "bytes 4-10/10", "makes no sense"),
        (b"4567", "items 4-7", "must be bytes <from>-<to>/<all>"),
    ],
)
def test_a_wrong_range_takes_nothing(
    client: httpx2.Client, content: bytes, content_range: str, complaint: str
) -> None:
    url = start(client, length=10)
    put(client, url, b"0123", "bytes 0-3/10")
    refused = put(client, url, content, content_range)
    assert (refused.status_code, complaint in message_of(refused)) == (400, True)
    assert put(client, url, b"456789", "bytes 4-9/10").status_code == 200


def test_an_upload_is_given_up(client: httpx2.Client, gemini: LocalGemini) -> None:
    url = start(client, length=8)
    put(client, url, b"0123", "bytes 0-3/8")
    assert client.delete(url).status_code == 499
    assert gemini.sessions() == []
    assert put(client, url, b"4567", "bytes 4-7/8").status_code == 410
    assert client.put(PATHS[0] + "&upload_id=none", content=b"a").status_code == 404


def test_too_much_and_no_key_are_refused_at_the_start(client: httpx2.Client) -> None:
    long = {**KEY, "X-Upload-Content-Length": str(3 * 1024**3)}
    assert client.post(PATHS[0], headers=long, json={}).status_code == 400
    assert client.post(PATHS[0], json={}).status_code == 403


def test_metadata_alone_makes_an_empty_file(client: httpx2.Client, gemini: LocalGemini) -> None:
    file: dict[str, Any] = {"displayName": "d", "mimeType": "text/plain", "name": "files/x1"}
    reply = client.post("/v1beta/files", headers=KEY, json={"file": file})
    made = reply.json()["file"]
    assert {name: made[name] for name in file} == file
    assert ("sizeBytes" in made, made["state"]) == (False, "ACTIVE")
    assert client.post("/v1beta/files", headers=KEY, json={"file": {"x": 1}}).status_code == 400
    assert len(gemini.files()) == 1
