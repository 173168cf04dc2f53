"""The gateway under /genai: by hand, and as the official SDK experiences it."""

import hashlib
import io
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from google import genai
from google.genai import errors, types

from provider_uploads.emulator import EmulatorConfig, LocalGemini

KEY = {"x-goog-api-key": "a-key"}
CHUNK = 8 * 1024**2
START = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
WHOLE = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
PROVIDERS = ["gemini", "openai", "anthropic", "bedrock", "nobody"]
WITHOUT_FILES = ["anthropic", "bedrock", "nobody"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulator")


@pytest.fixture(scope="module")
def gemini(folder: Path) -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(data_dir=folder)) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, headers=KEY, timeout=10) as http_client:
        yield http_client


def sdk_of(
    gemini: LocalGemini, provider: str | None = None, api_version: str = "v1beta"
) -> genai.Client:
    headers = None if provider is None else {"x-model-provider": provider}
    options = types.HttpOptions(
        base_url=f"{gemini.url}/genai", api_version=api_version, headers=headers, timeout=10_000
    )
    return genai.Client(vertexai=False, api_key="a-key", http_options=options)


def at(provider: str | None) -> dict[str, str]:
    return {} if provider is None else {"x-model-provider": provider}


def start(client: httpx2.Client, provider: str | None = None, **file: Any) -> httpx2.Response:
    headers = {**START, **at(provider), "X-Goog-Upload-Header-Content-Type": "application/json"}
    return client.post("/genai/upload/v1beta/files", headers=headers, json={"file": file})


def session_url(client: httpx2.Client, provider: str | None = None, **file: Any) -> str:
    return start(client, provider, **file).headers["x-goog-upload-url"]


def send(
    url: str, data: Any, command: str = "upload, finalize", offset: int = 0
) -> httpx2.Response:
    """As the SDK sends a chunk: neither a key nor the provider's header."""
    headers = {"X-Goog-Upload-Command": command, "X-Goog-Upload-Offset": str(offset)}
    # Loading certificates nobody needs takes longer than the request.
    return httpx2.post(url, headers=headers, content=data, verify=False)


def upload(
    client: httpx2.Client, data: bytes = b"hello", provider: str | None = None, **file: Any
) -> dict[str, Any]:
    reply = send(session_url(client, provider, **file), data)
    assert reply.status_code == 200, reply.text
    made: dict[str, Any] = reply.json()["file"]
    return made


def refusal(reply: httpx2.Response) -> tuple[int, int, str]:
    """HTTP status, the code in the body, the message; the rest is always the same."""
    error = reply.json()["error"]
    assert set(error) == {"code", "message", "status", "details"}
    assert (error["status"], error["details"]) == ("", None)
    return reply.status_code, error["code"], error["message"]


# --- routes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/genai/upload/v1/files"),
        ("POST", "/genai/upload/v1alpha/files"),
        ("POST", "/genai/upload/files"),
        ("GET", "/genai/v1/files"),
        ("GET", "/genai/files"),
        ("GET", "/genai/v1/files/x"),
        ("DELETE", "/genai/v1/files/x"),
        ("POST", "/genai/v1beta/files:register"),
        ("GET", "/genai/v1beta/files/x:download?alt=media"),
        ("GET", "/genai/download/v1beta/files/x:download"),
        ("PATCH", "/genai/v1beta/files/x"),
        ("POST", "/genai/v1/models/gemini-2.5-flash:generateContent"),
    ],
)
def test_only_v1beta_and_only_files(client: httpx2.Client, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 404


def test_the_sdks_default_version_finds_no_route(gemini: LocalGemini) -> None:
    with sdk_of(gemini, api_version="v1") as sdk, pytest.raises(errors.ClientError) as lost:
        sdk.files.list()
    assert lost.value.code == 404


# --- start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_start_asks_no_provider(client: httpx2.Client, gemini: LocalGemini, provider: str) -> None:
    reply = start(client, provider, name="files/NOT allowed", size_bytes=10**15)
    assert (reply.status_code, reply.json()) == (200, {})
    assert reply.headers["x-goog-upload-status"] == "active"
    assert "x-goog-upload-chunk-granularity" not in reply.headers
    assert "x-goog-upload-control-url" not in reply.headers
    url = re.escape(f"{gemini.url}/genai/upload/v1beta/files?upload_id=genai_upload_session:")
    assert re.fullmatch(url + r"[A-Za-z0-9_-]{43}", reply.headers["x-goog-upload-url"])


def test_the_session_url_is_where_the_client_reached_us(client: httpx2.Client) -> None:
    headers = {**START, "Host": "gateway.example", "X-Forwarded-Proto": "https"}
    reply = client.post("/genai/upload/v1beta/files", headers=headers)
    url = reply.headers["x-goog-upload-url"]
    assert url.startswith("https://gateway.example/genai/upload/v1beta/files?upload_id=")


def test_no_key_is_needed(gemini: LocalGemini) -> None:
    with httpx2.Client(base_url=gemini.url) as nobody:
        name = upload(nobody)["name"]
        assert nobody.get(f"/genai/v1beta/{name}").status_code == 200


# --- upload --------------------------------------------------------------------------------------


def test_a_file_at_gemini_is_a_file_of_the_service(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    made = upload(client, b"hello", display_name="in.jsonl", name="files/ignored")
    assert re.fullmatch(r"files/[a-z0-9]{12}", made["name"])
    created = datetime.fromisoformat(made["createTime"])
    expires = datetime.fromisoformat(made["expirationTime"])
    assert timedelta(hours=47) < expires - created <= timedelta(hours=48)
    assert re.fullmatch(r"[0-9-]+T[0-9:]{8}Z", made["createTime"])
    assert made == {
        "name": made["name"],
        "displayName": "in.jsonl",
        "mimeType": "application/octet-stream",
        "sizeBytes": "5",
        "createTime": made["createTime"],
        "expirationTime": made["expirationTime"],
        "state": "ACTIVE",
        "uri": f"https://generativelanguage.googleapis.com/v1beta/{made['name']}",
    }
    plain = client.get(f"{gemini.url}/v1beta/{made['name']}").json()
    assert (plain["name"], plain["displayName"]) == (made["name"], "in.jsonl")
    assert (plain["mimeType"], plain["source"]) == ("application/octet-stream", "UPLOADED")
    assert plain["sha256Hash"]
    client.delete(f"/v1/{made['name']}")
    assert client.get(f"/genai/v1beta/{made['name']}").status_code == 403


def test_a_file_at_openai_is_none_of_the_service(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    made = upload(client, b"hello", "openai", displayName="in.jsonl")
    assert re.fullmatch(r"file-[A-Za-z0-9]{24}", made["name"])
    assert made == {
        "name": made["name"],
        "displayName": "in.jsonl",
        "mimeType": "application/octet-stream",
        "sizeBytes": "5",
        "createTime": made["createTime"],
        "state": "ACTIVE",
        "uri": "",
    }
    assert gemini.files() == []
    assert client.get("/v1/files").json() == {}
    assert client.get(f"/genai/v1beta/files/{made['name']}").status_code == 403
    gemini.reset()
    gone = client.get(f"/genai/v1beta/files/{made['name']}", headers=at("openai"))
    assert refusal(gone)[0] == 404


def test_without_a_display_name_it_is_called_upload(client: httpx2.Client) -> None:
    assert upload(client)["displayName"] == "upload"


@pytest.mark.parametrize("command", ["upload", "upload, finalize", "finalize", "query", "nonsense"])
def test_the_first_body_is_the_whole_file_whatever_is_said(
    client: httpx2.Client, command: str
) -> None:
    reply = send(session_url(client, size_bytes=99), b"hello", command, offset=77)
    assert reply.headers["x-goog-upload-status"] == "final"
    assert reply.json()["file"]["sizeBytes"] == "5"


@pytest.mark.parametrize("provider", [None, "openai"])
def test_of_20_mib_the_sdk_leaves_8_there(gemini: LocalGemini, provider: str | None) -> None:
    data = bytes(range(256)) * (20 * 1024**2 // 256)
    with sdk_of(gemini, provider) as sdk:
        made = sdk.files.upload(file=io.BytesIO(data), config={"mime_type": "application/json"})
        assert (made.size_bytes, made.state) == (CHUNK, types.FileState.ACTIVE)
    assert gemini.counters()["operations"]["upload"]["requests"] == 1
    if provider is None:
        assert gemini.files()[0]["sha256"] == hashlib.sha256(data[:CHUNK]).hexdigest()


def test_a_file_of_one_chunk_is_complete(gemini: LocalGemini) -> None:
    data = b"x" * CHUNK
    with sdk_of(gemini) as sdk:
        sdk.files.upload(file=io.BytesIO(data), config={"mime_type": "text/plain"})
    assert gemini.files()[0]["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("provider", ["gemini", "openai"])
def test_what_is_sent_again_finds_no_session(
    client: httpx2.Client, gemini: LocalGemini, provider: str
) -> None:
    url = session_url(client, provider)
    assert send(url, b"hello").status_code == 200
    again = send(url, b"hello")
    assert "x-goog-upload-status" not in again.headers
    code, inner, message = refusal(again)
    assert (code, inner) == (500, 500)
    assert "upload session not found" in message
    assert send(url.replace("session:", "session:x"), b"hello").status_code == 500
    assert gemini.counters()["files_made"] == 1


def test_a_session_lives_for_a_minute() -> None:
    with LocalGemini() as gemini, httpx2.Client(base_url=gemini.url, headers=KEY) as client:
        first, second = session_url(client), session_url(client)
        assert len(gemini.sessions()) == 2
        gemini.advance_clock(55)
        assert send(first, b"hello").status_code == 200
        gemini.advance_clock(5)
        assert gemini.sessions() == []
        assert send(second, b"hello").status_code == 500


@pytest.mark.parametrize("provider", ["gemini", "openai"])
def test_an_empty_file_is_an_error_and_takes_the_session(
    client: httpx2.Client, gemini: LocalGemini, provider: str
) -> None:
    url = session_url(client, provider)
    assert refusal(send(url, b"")) == (500, 500, "file content is required")
    assert "not found" in refusal(send(url, b"hello"))[2]
    assert gemini.files() == []


def test_a_request_that_breaks_off_leaves_the_session(
    client: httpx2.Client, gemini: LocalGemini, folder: Path
) -> None:
    url = session_url(client)
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 0)) as connection:
        head = f"POST {where.path}?{where.query} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"
        connection.sendall(head.encode() + b"part")
    end = time.monotonic() + 5
    while not gemini.counters()["operations"]["upload"]["by_status"].get("disconnected"):
        assert time.monotonic() < end
        time.sleep(0.005)
    gemini.order_fault("upload", "reset", after_bytes=1000)
    with pytest.raises(httpx2.TransportError):
        send(url, b"x" * 5000)
    assert send(url, b"hello").json()["file"]["sizeBytes"] == "5"
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_of_two_at_once_one_wins(client: httpx2.Client, gemini: LocalGemini) -> None:
    url = session_url(client)
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda n: send(url, b"x" * 100_000).status_code, range(4)))
    assert sorted(replies) == [200, 500, 500, 500]
    assert len(gemini.files()) == 1


def test_too_large_a_file_is_refused() -> None:
    with (
        LocalGemini(EmulatorConfig(max_file_bytes=10, max_project_bytes=15)) as gemini,
        httpx2.Client(base_url=gemini.url, headers=KEY) as client,
    ):
        assert refusal(send(session_url(client), b"x" * 11))[:2] == (400, 400)
        assert upload(client, b"x" * 10)["sizeBytes"] == "10"
        assert refusal(send(session_url(client), b"x" * 10))[:2] == (429, 429)


# --- get, list, delete ---------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["gemini", "openai"])
def test_get_and_list_leave_more_out(client: httpx2.Client, provider: str) -> None:
    made = upload(client, b"hello", provider, display_name="d")
    path = f"/genai/v1beta/files/{made['name'].removeprefix('files/')}"
    got = client.get(path, headers=at(provider)).json()
    empty = {"mimeType": "", "sha256Hash": "", "uri": ""}
    assert got == made | empty | {"updateTime": made["createTime"]}
    assert not {"source", "error", "downloadUri"} & set(got)
    listed = client.get("/genai/v1beta/files", headers=at(provider)).json()
    assert listed == {"files": [got]}
    assert client.delete(path, headers=at(provider)).json() == {}
    assert client.get("/genai/v1beta/files", headers=at(provider)).json() == {"files": []}


def test_the_header_says_whose_files(gemini: LocalGemini, client: httpx2.Client) -> None:
    upload(client, b"1", display_name="at gemini")
    upload(client, b"2", "openai", display_name="at openai")
    for provider, name in ((None, "at gemini"), ("gemini", "at gemini"), ("openai", "at openai")):
        with sdk_of(gemini, provider) as sdk:
            assert [file.display_name for file in sdk.files.list()] == [name]


@pytest.mark.parametrize("provider", [None, "openai"])
def test_the_sdk_walks_all_pages_and_deletes(gemini: LocalGemini, provider: str | None) -> None:
    with sdk_of(gemini, provider) as sdk:
        for number in range(7):
            sdk.files.upload(
                file=io.BytesIO(b"{}"),
                config={"mime_type": "application/json", "display_name": f"f{number}"},
            )
        files = list(sdk.files.list(config={"page_size": 3}))
        assert [file.display_name for file in files] == [f"f{n}" for n in range(6, -1, -1)]
        name = files[0].name
        assert name is not None
        assert sdk.files.get(name=name) == files[0]
        assert (files[0].uri, files[0].source, files[0].sha256_hash) == ("", None, "")
        sdk.files.delete(name=name)
        with pytest.raises(errors.ClientError):
            sdk.files.get(name=name)


def test_a_file_at_openai_stays(client: httpx2.Client) -> None:
    with LocalGemini() as gemini, httpx2.Client(base_url=gemini.url, headers=KEY) as client:
        at_gemini, at_openai = upload(client), upload(client, b"x", "openai")
        gemini.advance_clock(72 * 3600)
        assert client.get(f"/genai/v1beta/{at_gemini['name']}").status_code == 403
        path = f"/genai/v1beta/files/{at_openai['name']}"
        assert client.get(path, headers=at("openai")).status_code == 200


def test_states_are_passed_on_without_the_error(client: httpx2.Client, gemini: LocalGemini) -> None:
    for provider in ("gemini", "openai"):
        gemini.order_fault("upload", "file_failed")
        gemini.order_fault("upload", "file_stuck")
        failed, stuck = upload(client, b"x", provider), upload(client, b"x", provider)
        assert (failed["state"], stuck["state"]) == ("FAILED", "PROCESSING")
        assert "error" not in failed


@pytest.mark.parametrize("provider", WITHOUT_FILES)
def test_providers_without_files_say_so_but_not_at_start(
    client: httpx2.Client, folder: Path, provider: str
) -> None:
    def expect(reply: httpx2.Response, request_type: str) -> None:
        # The code in the body is not that of the answer.
        assert refusal(reply) == (
            400,
            500,
            f"{request_type} is not supported by {provider} provider",
        )

    expect(send(session_url(client, provider), b"hello"), "file_upload")
    expect(client.get("/genai/v1beta/files", headers=at(provider)), "file_list")
    expect(client.get("/genai/v1beta/files/x", headers=at(provider)), "file_retrieve")
    expect(client.delete("/genai/v1beta/files/x", headers=at(provider)), "file_delete")
    assert [path for path in folder.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("provider", ["anthropic", "bedrock"])
def test_the_sdk_raises_where_there_are_no_files(gemini: LocalGemini, provider: str) -> None:
    with sdk_of(gemini, provider) as sdk, pytest.raises(errors.ClientError) as refused:
        sdk.files.list()
    assert (refused.value.code, refused.value.status) == (400, "")


# --- errors, faults, counters --------------------------------------------------------------------


def test_a_providers_refusal_is_put_in_other_words(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    code, inner, message = refusal(client.get("/genai/v1beta/files/none"))
    assert (code, inner) == (403, 403)
    assert "or it may not exist" in message
    gemini.order_fault("list", "rate_limited", retry_delay_s=9)
    code, inner, _ = refusal(client.get("/genai/v1beta/files"))
    assert (code, inner) == (429, 429)  # and no RetryInfo
    gemini.order_fault("list", "unavailable")
    assert refusal(client.get("/genai/v1beta/files")) == (503, 503, "")
    assert refusal(client.get("/genai/v1beta/files?pageSize=x"))[0] == 400


def test_a_key_the_provider_does_not_know_is_refused_there() -> None:
    config = EmulatorConfig(api_keys=frozenset({"another"}))
    with LocalGemini(config) as gemini, httpx2.Client(base_url=gemini.url, headers=KEY) as client:
        url = session_url(client)
        assert refusal(send(url, b"hello"))[:2] == (400, 400)
        assert refusal(client.get("/genai/v1beta/files"))[0] == 400


def test_requests_are_counted_and_faults_strike(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("start", "internal", match="clip")
    gemini.order_fault("upload", "unavailable", match="clip")
    gemini.order_fault("get", "reset")
    assert start(client, display_name="clip").status_code == 500
    url = session_url(client, display_name="clip")
    assert send(url, b"hello").status_code == 503
    name = send(url, b"hello").json()["file"]["name"]  # the session was not taken
    with pytest.raises(httpx2.TransportError):
        client.get(f"/genai/v1beta/{name}")
    operations = gemini.counters()["operations"]
    assert operations["start"]["by_status"] == {"500": 1, "200": 1}
    assert operations["upload"]["by_status"] == {"503": 1, "200": 1}
    assert operations["get"]["by_status"] == {"reset": 1}


# --- generateContent -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini/gemini-2.5-flash"])
def test_generate_with_the_provider_before_the_model(gemini: LocalGemini, model: str) -> None:
    with sdk_of(gemini, "openai") as sdk:  # the header is not looked at
        answer = sdk.models.generate_content(model=model, contents="hello")
    assert answer.text is not None
    assert "asked as gemini-2.5-flash" in answer.text


def test_generate_refusals(client: httpx2.Client) -> None:
    def ask(model: str, *parts: Any) -> httpx2.Response:
        body = {"contents": [{"parts": list(parts)}]}
        return client.post(f"/genai/v1beta/models/{model}:generateContent", json=body)

    assert refusal(ask("openai/gpt-4o", {"text": "x"}))[:2] == (400, 500)
    assert refusal(ask("gpt-4o", {"text": "x"}))[0] == 404
    # The type was lost on the way to Gemini: no model reads it.
    lost = ask("gemini-2.5-flash", {"fileData": {"fileUri": upload(client)["uri"]}})
    assert refusal(lost) == (400, 400, "Unsupported MIME type: application/octet-stream")


# --- a gateway that waits for finalize -----------------------------------------------------------


@pytest.fixture(scope="module")
def patient() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(gateway_finalizes_first=False)) as local:
        yield local


@pytest.fixture(scope="module")
def patient_client(patient: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=patient.url, headers=KEY, timeout=10) as http_client:
        yield http_client


@pytest.mark.parametrize("provider", [None, "openai"])
def test_a_patient_gateway_takes_all_chunks(patient: LocalGemini, provider: str | None) -> None:
    patient.reset()
    data = bytes(range(256)) * (20 * 1024**2 // 256)
    with sdk_of(patient, provider) as sdk:
        made = sdk.files.upload(file=io.BytesIO(data), config={"mime_type": "application/json"})
    assert made.size_bytes == len(data)
    if provider is None:
        assert patient.files()[0]["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "again",
    [
        lambda url: send(url, b"abc", "upload"),
        lambda url: send(url, b"abcd", "upload"),
        lambda url: send(url, b"d", "upload", 3),
    ],
)
def test_a_patient_gateway_skips_what_it_has(
    patient: LocalGemini, patient_client: httpx2.Client, again: Callable[[str], httpx2.Response]
) -> None:
    patient.reset()
    url = session_url(patient_client)
    assert send(url, b"abc", "upload").headers["x-goog-upload-status"] == "active"
    assert again(url).headers["x-goog-upload-status"] == "active"
    for offset in ("9", "x"):
        headers = WHOLE | {"X-Goog-Upload-Offset": offset}
        assert refusal(httpx2.post(url, headers=headers, content=b"z"))[0] == 400
    assert send(url, b"cdef", "upload, finalize", 2).headers["x-goog-upload-status"] == "final"
    assert patient.files()[0]["sha256"] == hashlib.sha256(b"abcdef").hexdigest()
    assert send(url, b"cdef", "upload, finalize", 2).status_code == 500
    unsupported = session_url(patient_client, "anthropic")
    assert refusal(send(unsupported, b"x"))[0] == 400
    assert patient.sessions() == []
