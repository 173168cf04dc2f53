"""Uploads in one request: raw and multipart."""

import hashlib
import json
from collections.abc import Callable, Iterator
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider_uploads.emulator import EmulatorConfig, LocalGemini
from provider_uploads.emulator.multipart import MultipartParser, Part

KEY = {"x-goog-api-key": "a-key"}
VERSIONS = ["/v1", "/v1beta", "/v1alpha", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulator")


@pytest.fixture(scope="module")
def gemini(folder: Path) -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(processing_s=60, data_dir=folder)) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, headers=KEY, timeout=10) as http_client:
        yield http_client


def raw(client: httpx2.Client, content: Any, **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/upload/v1beta/files", headers=named, content=content)


def related(
    media: bytes = b"hello",
    file: Any = None,
    *,
    boundary: bytes = b"xyz",
    newline: bytes = b"\r\n",
    media_headers: bytes = b"Content-Type: text/plain",
) -> bytes:
    """A body as the protocol wants it."""
    lines = [
        b"--" + boundary,
        b"Content-Type: application/json; charset=UTF-8",
        b"",
        json.dumps({"file": file or {}}).encode(),
        b"--" + boundary,
        *([media_headers] if media_headers else []),
        b"",
        media,
        b"--" + boundary + b"--",
        b"",
    ]
    return newline.join(lines)


def multipart(
    client: httpx2.Client,
    content: Any,
    content_type: str = "multipart/related; boundary=xyz",
    path: str = "/upload/v1beta/files",
) -> httpx2.Response:
    headers = {"X-Goog-Upload-Protocol": "multipart", "Content-Type": content_type}
    return client.post(path, headers=headers, content=content)


def refused(reply: httpx2.Response, complaint: str) -> None:
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["status"] == "INVALID_ARGUMENT"
    assert complaint in error["message"]


def left_on_disk(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# --- raw -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_bytes_alone_make_a_file_without_metadata(client: httpx2.Client, version: str) -> None:
    reply = client.post(
        f"/upload{version}/files", headers={"Content-Type": "text/plain"}, content=b"hello"
    )
    assert reply.status_code == 200
    assert reply.headers["x-goog-upload-status"] == "final"
    file = reply.json()["file"]
    assert (file["mimeType"], file["sizeBytes"], file["state"]) == ("text/plain", "5", "ACTIVE")
    assert (file["source"], len(file["name"])) == ("UPLOADED", len("files/") + 12)
    assert "displayName" not in file
    assert client.get(f"{version}/{file['name']}").json() == file


def test_raw_can_be_said_and_a_file_name_is_shown(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    headers = {"X_Goog_Upload_Protocol": "raw", "X_Goog_Upload_File_Name": "notes.txt"}
    assert raw(client, b"hello", **headers).json()["file"]["displayName"] == "notes.txt"
    assert client.post("/upload/v1/files?uploadType=media", content=b"x").status_code == 200
    assert gemini.counters()["operations"]["upload"]["by_status"] == {"200": 2}


def test_a_file_name_may_be_utf8(client: httpx2.Client) -> None:
    headers = [(b"X-Goog-Upload-File-Name", "früh.txt".encode())]
    file = client.post("/upload/v1/files", headers=headers, content=b"x").json()["file"]
    assert file["displayName"] == "früh.txt"
    assert file["mimeType"] == "application/octet-stream"


def test_what_is_uploaded_raw_is_processed_like_all_else(client: httpx2.Client) -> None:
    assert raw(client, b"x", Content_Type="video/mp4").json()["file"]["state"] == "PROCESSING"


def test_an_empty_body_is_an_empty_file(client: httpx2.Client) -> None:
    assert raw(client, b"", Content_Type="text/plain").json()["file"].get("sizeBytes") is None


def test_a_type_with_parameters_is_refused(client: httpx2.Client, folder: Path) -> None:
    refused(raw(client, b"x", Content_Type="text/plain; charset=utf-8"), "Unsupported MIME type")
    assert left_on_disk(folder) == []


def test_raw_needs_a_key(gemini: LocalGemini) -> None:
    assert httpx2.post(f"{gemini.url}/upload/v1/files", content=b"x").status_code == 403


def test_too_much_is_refused_whether_or_not_its_length_is_known(tmp_path: Path) -> None:
    config = EmulatorConfig(max_file_bytes=1000, data_dir=tmp_path)
    with (
        LocalGemini(config) as gemini,
        httpx2.Client(base_url=gemini.url, headers=KEY) as client,
    ):
        refused(raw(client, b"x" * 1001), "larger than the 1000 bytes")
        refused(raw(client, iter([b"x" * 600, b"x" * 600])), "larger than the 1000 bytes")
        refused(multipart(client, related(b"x" * 1001)), "larger than the 1000 bytes")
        assert multipart(client, related(b"x" * 1000)).status_code == 200
        assert (len(gemini.files()), gemini.sessions()) == (1, [])
        assert left_on_disk(tmp_path) == []


def test_faults_strike_uploads_in_one_request(
    client: httpx2.Client, gemini: LocalGemini, folder: Path
) -> None:
    gemini.order_fault("upload", "unavailable", match="notes")
    gemini.order_fault("upload", "reset", after_bytes=300_000)
    gemini.order_fault("upload", "file_failed")
    body = related(b"x", {"displayName": "notes"})
    assert multipart(client, body).status_code == 503
    with pytest.raises(httpx2.TransportError):
        raw(client, b"x" * 1_000_000)
    assert (gemini.files(), gemini.sessions(), left_on_disk(folder)) == ([], [], [])
    assert raw(client, b"x").json()["file"]["state"] == "FAILED"


# --- multipart -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_json_part_and_a_media_part_make_a_file(
    client: httpx2.Client, gemini: LocalGemini, version: str
) -> None:
    body = related(b"hello", {"name": "files/x1", "display_name": "greeting"})
    reply = multipart(client, body, path=f"/upload{version}/files")
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-goog-upload-status"] == "final"
    file = reply.json()["file"]
    assert (file["name"], file["displayName"]) == ("files/x1", "greeting")
    assert (file["mimeType"], file["sizeBytes"]) == ("text/plain", "5")
    assert gemini.files()[0]["sha256"] == hashlib.sha256(b"hello").hexdigest()


def test_the_json_part_goes_before_the_media_parts_type(client: httpx2.Client) -> None:
    file = {"mimeType": "application/json", "displayName": "d", "sizeBytes": "5"}
    made = multipart(client, related(b"hello", file)).json()["file"]
    assert (made["mimeType"], made["displayName"]) == ("application/json", "d")


def test_a_part_may_have_no_headers(client: httpx2.Client) -> None:
    made = multipart(client, related(b"hello", {"mime_type": "text/plain"}, media_headers=b""))
    assert made.json()["file"]["mimeType"] == "text/plain"
    made = multipart(client, b'--xyz\r\n\r\n{"file":{}}\r\n--xyz\r\n\r\nabc\r\n--xyz--')
    assert made.json()["file"]["sizeBytes"] == "3"


def test_as_googles_older_client_writes_it(client: httpx2.Client, gemini: LocalGemini) -> None:
    # uploadType in the query, bare line feeds, a quoted boundary.
    message = MIMEMultipart("related")
    message.attach(MIMEApplication(b'{"file": {"displayName": "d"}}', "json", _noop))
    message.attach(MIMEApplication(b"\x00\r\n\xff", "octet-stream", _noop))
    content = message.as_bytes()
    content = content[content.index(b"\n\n") + 2 :]
    reply = client.post(
        "/upload/v1beta/files?alt=json&uploadType=multipart",
        headers={"Content-Type": f'multipart/related; boundary="{message.get_boundary()}"'},
        content=content,
    )
    assert reply.status_code == 200, reply.text
    assert gemini.files()[0]["display_name"] == "d"


def _noop(message: Any) -> None:
    """No transfer encoding: the bytes as they are."""


@pytest.mark.parametrize("newline", [b"\r\n", b"\n"])
@pytest.mark.parametrize(
    "media",
    [b"", b"\r\n", b"--xyz", b"\r\n--xy", b"\n--xyzz\n", b"a\r\n\r\n--\r\n", b"x" * 300_000],
)
def test_whatever_is_in_the_media_arrives(
    client: httpx2.Client, gemini: LocalGemini, newline: bytes, media: bytes
) -> None:
    reply = multipart(client, b"preamble\r\n" + related(media, newline=newline) + b"epilogue")
    assert reply.status_code == 200, reply.text
    assert gemini.files()[0]["sha256"] == hashlib.sha256(media).hexdigest()


def test_a_body_without_a_known_length(client: httpx2.Client, gemini: LocalGemini) -> None:
    body = related(bytes(range(256)) * 4)
    pieces = (body[at : at + 1] for at in range(len(body)))
    assert multipart(client, pieces).json()["file"]["sizeBytes"] == "1024"


@pytest.mark.parametrize(
    ("content_type", "change", "complaint"),
    [
        ("multipart/related", None, "boundary"),
        ("multipart/form-data; boundary=xyz", None, "multipart/related"),
        ("text/plain", None, "multipart/related"),
        ("", None, "multipart/related"),
        (f"multipart/related; boundary={'x' * 71}", None, "boundary"),
        ("multipart/related; boundary=abc", None, "ends before its closing boundary"),
        (None, lambda body: b"", "ends before its closing boundary"),
        (None, lambda body: body[:-8], "ends before its closing boundary"),
        (None, lambda body: body[:60], "ends before its closing boundary"),
        (None, lambda body: b"x" * 70_000, "nowhere to be found"),
        (None, lambda body: body.replace(b'{"file"', b'{"file'), "Expected a closing quote"),
        (None, lambda body: body.replace(b'{"file": {}}', b"[]"), "must be a message"),
        (None, lambda body: body.replace(b"application/json", b"text/xml"), "application/json"),
        (None, lambda body: body.replace(b"text/plain", b"t/p\r\nnot a header"), "a header"),
        (None, lambda body: body.replace(b"text/plain", b"x" * 17_000), "too long"),
        (None, lambda body: body.replace(b"hello", b"a\r\n--xyz\r\n\r\nb"), "no other"),
        (None, lambda body: body.split(b"\r\n--xyz\r\n")[0] + b"\r\n--xyz--", "a media part"),
        (
            None,
            lambda body: body.replace(b"/plain", b"/plain\r\nContent-Transfer-Encoding: base64"),
            "must be binary",
        ),
        (None, lambda body: body.replace(b'{"file"', b" " * 1_100_000 + b'{"file"'), "too large"),
        (
            None,
            lambda body: body.replace(b"{}}", b'{"sizeBytes": 6}}'),
            "was to have 6 bytes, 5 have arrived",
        ),
        (
            None,
            lambda body: body.replace(b"{}}", b'{"name": "files/-x"}}'),
            "CreateFileRequest.file.name",
        ),
    ],
)
def test_a_malformed_body_is_refused(
    client: httpx2.Client,
    gemini: LocalGemini,
    folder: Path,
    content_type: str | None,
    change: Callable[[bytes], bytes] | None,
    complaint: str,
) -> None:
    body = related() if change is None else change(related())
    if content_type is None:
        content_type = "multipart/related; boundary=xyz"
    refused(multipart(client, body, content_type), complaint)
    assert (gemini.files(), gemini.sessions(), left_on_disk(folder)) == ([], [], [])


def test_a_refusal_takes_the_rest_of_the_body(client: httpx2.Client) -> None:
    refused(multipart(client, b"x" * 8_000_000), "nowhere to be found")
    assert client.get("/v1/files").status_code == 200


@settings(max_examples=200, deadline=None)
@given(
    media=st.lists(
        st.sampled_from([b"\r", b"\n", b"-", b"--xyz", b"\r\n--xyz ", b"a"]), max_size=12
    ).map(b"".join),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    newline=st.sampled_from([b"\r\n", b"\n"]),
)
def test_however_it_is_cut_the_parts_are_the_same(
    media: bytes, cuts: list[int], newline: bytes
) -> None:
    delimiter = newline + b"--xyz"
    if delimiter in newline + media + newline:
        media = media.replace(b"--xyz", b"")
    body = related(media, newline=newline)
    parser, found = MultipartParser(b"xyz"), [b"", b""]
    parts, at, turn = 0, 0, 0
    while at < len(body):
        size = cuts[turn % len(cuts)]
        for event in parser.feed(body[at : at + size]):
            if isinstance(event, Part):
                parts += 1
            else:
                found[parts - 1] += event
        at, turn = at + size, turn + 1
    parser.end()
    assert (parts, found) == (2, [b'{"file": {}}', media])
