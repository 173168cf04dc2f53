"""Files that were not uploaded: registered ones, and generated ones with their download."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

from provider_uploads.emulator import EmulatorConfig, LocalGemini

KEY = {"x-goog-api-key": "a-key"}
BEARER = {"Authorization": "Bearer a-token"}
VERSIONS = ["/v1", "/v1beta", "/v1alpha", ""]
BATCH_NAME = "files/batch-" + "0123456789ab" * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulator")


@pytest.fixture(scope="module")
def gemini(folder: Path) -> Iterator[LocalGemini]:
    config = EmulatorConfig(data_dir=folder, api_keys=frozenset({"a-key", "other"}))
    with LocalGemini(config) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, headers=KEY, timeout=10) as http_client:
        yield http_client


def sdk_of(gemini: LocalGemini, api_version: str | None = None) -> genai.Client:
    options = types.HttpOptions(base_url=gemini.url, api_version=api_version, timeout=10_000)
    return genai.Client(vertexai=False, api_key="a-key", http_options=options)


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    error = reply.json()["error"]
    assert error["code"] == reply.status_code
    return reply.status_code, error["status"]


# --- register ------------------------------------------------------------------------------------


def register(client: httpx2.Client, *uris: Any, version: str = "/v1beta") -> httpx2.Response:
    return client.post(f"{version}/files:register", headers=BEARER, json={"uris": list(uris)})


def test_the_sdk_registers_and_asks(gemini: LocalGemini) -> None:
    credentials = Credentials(  # type: ignore[no-untyped-call]
        token="a-token", quota_project_id="a-project"
    )
    with sdk_of(gemini) as sdk:
        files = sdk.files.register_files(
            auth=credentials, uris=["gs://bucket/file.pdf", "gs://bucket/a/b.mp4"]
        ).files
        assert files is not None
        assert [file.uri for file in files] == ["gs://bucket/file.pdf", "gs://bucket/a/b.mp4"]
        assert [file.mime_type for file in files] == ["application/pdf", "video/mp4"]
        assert {file.source for file in files} == {types.FileSource.REGISTERED}
        assert {file.state for file in files} == {types.FileState.ACTIVE}
        assert files[0].name is not None
        assert sdk.files.get(name=files[0].name) == files[0]
        contents = ["What is this?", *files]
        answer = sdk.models.generate_content(model="gemini-3-flash-preview", contents=contents)
        assert answer.text is not None
        assert "file gs://bucket/file.pdf, application/pdf, bytes not here" in answer.text


@pytest.mark.parametrize("version", VERSIONS)
def test_a_registered_file_has_no_bytes(
    client: httpx2.Client, gemini: LocalGemini, version: str
) -> None:
    [file] = register(client, "gs://b/notes", version=version).json()["files"]
    assert re.fullmatch(r"files/[a-z0-9]{12}", file["name"])
    assert (file["mimeType"], file["source"]) == ("application/octet-stream", "REGISTERED")
    assert not {"sizeBytes", "sha256Hash", "downloadUri", "displayName"} & set(file)
    assert client.get(f"{version}/{file['name']}").json() == file
    assert client.get(f"{version}/files").json()["files"] == [file]
    assert gemini.counters()["bytes_stored"] == 0
    assert client.delete(f"{version}/{file['name']}").json() == {}


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic YTpi"])
def test_credentials_are_needed(client: httpx2.Client, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    reply = client.post("/v1/files:register", headers=headers, json={"uris": ["gs://b/o"]})
    assert refusal(reply) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize(
    "uris",
    [
        [],
        "gs://b/o",
        None,
        [1],
        ["https://host/o"],
        ["s3://b/o"],
        ["gs://b"],
        ["gs://b/"],
        ["gs:///o"],
        ["gs://b/o", "/a/path"],
    ],
)
def test_other_schemes_are_refused_and_nothing_is_registered(
    client: httpx2.Client, gemini: LocalGemini, uris: Any
) -> None:
    reply = client.post("/v1/files:register", headers=BEARER, json={"uris": uris})
    assert refusal(reply) == (400, "INVALID_ARGUMENT")
    assert gemini.files() == []
    assert client.post("/v1/files:register", headers=BEARER, json=[]).status_code == 400


def test_only_what_was_registered_can_be_asked_about(client: httpx2.Client) -> None:
    register(client, "gs://b/o.txt")
    body = {"contents": [{"parts": [{"fileData": {"fileUri": "gs://b/o.txt"}}]}]}
    url = "/v1/models/gemini-2.5-flash:generateContent"
    assert client.post(url, json=body).status_code == 200
    other = client.post(url, json=body, headers={"x-goog-api-key": "other"})
    assert refusal(other) == (403, "PERMISSION_DENIED")


def test_a_token_alone_stands_for_its_project() -> None:
    with LocalGemini() as gemini, httpx2.Client(base_url=gemini.url, headers=BEARER) as client:
        project = {"x-goog-user-project": "p"}
        [file] = client.post(
            "/v1/files:register", headers=project, json={"uris": ["gs://b/o.txt"]}
        ).json()["files"]
        assert client.get(f"/v1/{file['name']}", headers=project).json() == file
        assert client.get(f"/v1/{file['name']}").status_code == 403


def test_where_keys_are_named_a_token_alone_is_not_enough(gemini: LocalGemini) -> None:
    body = {"uris": ["gs://b/o"]}
    reply = httpx2.post(f"{gemini.url}/v1/files:register", headers=BEARER, json=body)
    assert refusal(reply) == (403, "PERMISSION_DENIED")


def test_register_faults_are_aimed_by_uri(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("register", "unavailable", match="gs://b/2")
    assert [register(client, f"gs://b/{n}").status_code for n in (1, 2, 2)] == [200, 503, 200]


# --- generated files and their download ----------------------------------------------------------


def make_generated(client: httpx2.Client, data: bytes = b"results", **query: str) -> dict[str, Any]:
    reply = client.post("/_emulator/generated", params=query, content=data)
    assert reply.status_code == 200, reply.text
    file: dict[str, Any] = reply.json()
    return file


def test_a_generated_file_says_where_its_bytes_are(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    file = make_generated(
        client, name=BATCH_NAME, display_name="out.jsonl", mime_type="application/jsonl"
    )
    assert (file["name"], file["displayName"]) == (BATCH_NAME, "out.jsonl")
    assert (file["mimeType"], file["sizeBytes"]) == ("application/jsonl", "7")
    assert (file["source"], file["state"]) == ("GENERATED", "ACTIVE")
    assert file["downloadUri"] == f"{gemini.url}/v1beta/{BATCH_NAME}:download?alt=media"
    assert client.get(f"/v1/{BATCH_NAME}").json() == file
    direct = client.get(file["downloadUri"], follow_redirects=True)
    assert (direct.content, direct.headers["content-type"]) == (b"results", "application/jsonl")


@pytest.mark.parametrize("version", VERSIONS)
def test_download_redirects_to_the_bytes(client: httpx2.Client, version: str) -> None:
    name = make_generated(client, mime_type="video/mp4")["name"]
    assert re.fullmatch(r"files/[a-z0-9]{12}", name)
    first = client.get(f"{version}/{name}:download?alt=media")
    assert first.status_code == 302
    assert first.headers["location"].endswith(f"/download{version}/{name}:download?alt=media")
    assert client.get(first.headers["location"]).content == b"results"


@pytest.mark.parametrize("api_version", [None, "v1beta"])
def test_the_sdk_downloads(gemini: LocalGemini, tmp_path: Path, api_version: str | None) -> None:
    data = bytes(range(256)) * 20_000
    made = gemini.add_generated(data, key="a-key", name=BATCH_NAME, display_name="out")
    with sdk_of(gemini, api_version) as sdk:
        assert sdk.files.download(file=BATCH_NAME) == data
        file = sdk.files.get(name=BATCH_NAME)
        assert file.download_uri == made["downloadUri"]
        path = tmp_path / "out.bin"
        sdk.files.download(file=file, destination=path)
        assert path.read_bytes() == data
        with pytest.raises(errors.ClientError) as missing:
            sdk.files.download(file="files/none")
        assert missing.value.code == 403
    assert gemini.counters()["operations"]["download"]["by_status"] == {
        "302": 3,
        "200": 2,
        "403": 1,
    }


def test_uploads_and_registered_files_cannot_be_downloaded(client: httpx2.Client) -> None:
    uploaded = client.post("/upload/v1/files", content=b"x").json()["file"]
    [registered] = register(client, "gs://b/o").json()["files"]
    for file in (uploaded, registered):
        assert "downloadUri" not in file
        reply = client.get(f"/v1/{file['name']}:download?alt=media", follow_redirects=True)
        assert refusal(reply) == (400, "INVALID_ARGUMENT")
        assert "only generated files" in reply.json()["error"]["message"]


def test_even_a_missing_file_is_redirected_and_then_forbidden(client: httpx2.Client) -> None:
    first = client.get("/v1/files/none:download?alt=media")
    assert first.status_code == 302
    assert refusal(client.get(first.headers["location"])) == (403, "PERMISSION_DENIED")


def test_others_cannot_download(client: httpx2.Client, gemini: LocalGemini) -> None:
    path = f"/download/v1/{make_generated(client)['name']}:download?alt=media"
    other = client.get(path, headers={"x-goog-api-key": "other"})
    assert refusal(other) == (403, "PERMISSION_DENIED")
    for prefix in ("", "/download"):
        nobody = httpx2.get(f"{gemini.url}{prefix}/v1/files/x:download")
        assert refusal(nobody) == (403, "PERMISSION_DENIED")
    in_query = httpx2.get(f"{gemini.url}{path[9:]}&key=a-key", follow_redirects=True)
    assert in_query.content == b"results"


def test_without_alt_media_there_are_no_bytes(client: httpx2.Client) -> None:
    name = make_generated(client)["name"]
    assert client.get(f"/v1/{name}:download", follow_redirects=True).json() == {}


def test_generated_bytes_stay_until_the_file_is_gone(
    client: httpx2.Client, gemini: LocalGemini, folder: Path
) -> None:
    name = make_generated(client)["name"]
    [file] = gemini.files()
    assert (file["source"], Path(file["path"]).read_bytes()) == ("GENERATED", b"results")
    assert gemini.counters()["bytes_stored"] == 7
    client.delete(f"/v1/{name}")
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_a_large_generated_file_is_streamed_both_ways(client: httpx2.Client) -> None:
    block = bytes(range(256)) * 4096
    reply = client.post("/_emulator/generated", content=(block for _ in range(16)))
    hashed = hashlib.sha256()
    url = reply.json()["downloadUri"]
    with client.stream("GET", url, follow_redirects=True) as download:
        for piece in download.iter_bytes():
            hashed.update(piece)
    assert hashed.hexdigest() == hashlib.sha256(block * 16).hexdigest()


@pytest.mark.parametrize(
    ("query", "http_status"),
    [
        ({"name": "files/Batch"}, 400),
        ({"name": "files/" + "a" * 64}, 400),
        ({"name": "batch-1"}, 400),
        ({"name": BATCH_NAME}, 409),
        ({"mime_type": "nonsense"}, 400),
        ({"display_name": "x" * 513}, 400),
    ],
)
def test_a_generated_file_is_checked_too(
    client: httpx2.Client, gemini: LocalGemini, query: dict[str, str], http_status: int
) -> None:
    make_generated(client, name=BATCH_NAME)
    assert client.post("/_emulator/generated", params=query).status_code == http_status
    assert len(gemini.files()) == 1
    for headers in ({}, {"x-goog-api-key": "wrong"}):
        nobody = httpx2.post(f"{gemini.url}/_emulator/generated", headers=headers)
        assert nobody.status_code in (400, 403)


def test_a_generated_file_meets_no_upload_faults(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    gemini.order_fault("upload", "file_failed")
    assert make_generated(client, mime_type="video/mp4")["state"] == "ACTIVE"
    assert gemini.faults()[0]["seen"] == 0
    assert gemini.counters()["operations"]["upload"]["requests"] == 0


def test_download_faults_strike_the_redirect_or_the_bytes(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    name = make_generated(client, display_name="out.jsonl")["name"]
    gemini.order_fault("download", "internal", nth=2, match="out.jsonl")
    url = f"/v1/{name}:download?alt=media"
    assert client.get(url, follow_redirects=True).status_code == 500
    assert client.get(url, follow_redirects=True).content == b"results"
