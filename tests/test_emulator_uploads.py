"""The resumable protocol, spoken by hand."""

import base64
import hashlib
import http.client
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider_uploads.emulator import EmulatorConfig, LocalGemini

KEY = {"x-goog-api-key": "a-key"}
GIB = 1024**3


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    config = EmulatorConfig(processing_s=0, chunk_granularity_bytes=1)
    with LocalGemini(config) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, timeout=10) as http_client:
        yield http_client


def start(
    client: httpx2.Client,
    size: int | str | None = None,
    mime_type: str | None = "text/plain",
    path: str = "/upload/v1beta/files",
    headers: dict[str, str] | None = None,
    **file: Any,
) -> httpx2.Response:
    sent = {
        **KEY,
        "X-Goog-Upload-Protocol": "resumable",
        "X-Goog-Upload-Command": "start",
        **(headers or {}),
    }
    if size is not None:
        sent["X-Goog-Upload-Header-Content-Length"] = str(size)
    if mime_type is not None:
        sent["X-Goog-Upload-Header-Content-Type"] = mime_type
    return client.post(path, headers=sent, json={"file": file})


def session_url(client: httpx2.Client, size: int | None = None, **file: Any) -> str:
    reply = start(client, size, **file)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-goog-upload-url"]


def send(
    client: httpx2.Client,
    url: str,
    command: str,
    content: Any = None,
    offset: int | None = None,
) -> httpx2.Response:
    headers = {"X-Goog-Upload-Command": command}
    if offset is not None:
        headers["X-Goog-Upload-Offset"] = str(offset)
    return client.post(url, headers=headers, content=content)


def upload_status(reply: httpx2.Response) -> str | None:
    return reply.headers.get("x-goog-upload-status")


def received(reply: httpx2.Response) -> int:
    return int(reply.headers["x-goog-upload-size-received"])


def eventually(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
    return found


def send_part_and_vanish(gemini: LocalGemini, url: str, declared: int, part: bytes) -> None:
    """A client that dies in the middle of its request."""
    connection, _ = open_request(gemini, url, declared)
    with connection:
        connection.sendall(part)


def open_request(
    gemini: LocalGemini, url: str, length: int, offset: int = 0
) -> tuple[socket.socket, str]:
    where = urlsplit(url)
    connection = socket.create_connection((where.hostname or "", where.port or 0))
    head = (
        f"POST {where.path}?{where.query} HTTP/1.1\r\nHost: {where.netloc}\r\n"
        f"X-Goog-Upload-Command: upload, finalize\r\nX-Goog-Upload-Offset: {offset}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    connection.sendall(head.encode())
    return connection, where.netloc


# --- start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["/v1", "/v1beta", "/v1alpha", ""])
def test_start_answers_a_session_url_under_every_version(
    client: httpx2.Client, gemini: LocalGemini, version: str
) -> None:
    reply = start(client, 3, path=f"/upload{version}/files")
    url = reply.headers["x-goog-upload-url"]
    assert reply.status_code == 200
    assert upload_status(reply) == "active"
    assert url.startswith(f"{gemini.url}/upload{version}/files?upload_id=")
    assert "upload_protocol=resumable" in url
    assert reply.headers["x-goog-upload-control-url"] == url
    assert reply.headers["x-goog-upload-chunk-granularity"] == "1"
    assert send(client, url, "upload, finalize", b"abc", 0).status_code == 200


def test_header_is_spelled_so_that_aiohttp_finds_it(gemini: LocalGemini) -> None:
    where = urlsplit(gemini.url)
    connection = http.client.HTTPConnection(where.netloc)
    headers = {**KEY, "X-Goog-Upload-Command": "start"}
    connection.request("POST", "/upload/v1/files", b"{}", headers)
    names = [name for name, _ in connection.getresponse().getheaders()]
    connection.close()
    assert "X-Goog-Upload-URL" in names


def test_session_url_is_where_the_client_reached_us(client: httpx2.Client) -> None:
    headers = {"Host": "files.example:8080", "X-Forwarded-Proto": "https"}
    url = start(client, headers=headers).headers["x-goog-upload-url"]
    assert url.startswith("https://files.example:8080/upload/v1beta/files?")


def test_snake_case_and_numbers_as_python_sends_them(client: httpx2.Client) -> None:
    url = session_url(
        client, mime_type=None, display_name="d", name="files/n", size_bytes=2
    )  # no headers
    file = send(client, url, "upload, finalize", b"ab", 0).json()["file"]
    assert (file["name"], file["displayName"], file["sizeBytes"]) == ("files/n", "d", "2")


def test_camel_case_and_strings_as_javascript_sends_them(client: httpx2.Client) -> None:
    reply = start(
        client, mime_type=None, displayName="d", mimeType="audio/mp3", sizeBytes="2", name="files/n"
    )
    url = reply.headers["x-goog-upload-url"]
    file = send(client, url, "upload, finalize", b"ab", 0).json()["file"]
    assert (file["displayName"], file["mimeType"]) == ("d", "audio/mp3")
    assert send(client, url, "query").json()["file"]["sizeBytes"] == "2"


def test_start_without_body_is_enough(client: httpx2.Client) -> None:
    reply = client.post("/upload/v1/files", headers={**KEY, "X-Goog-Upload-Command": "start"})
    url = reply.headers["x-goog-upload-url"]
    file = send(client, url, "upload, finalize", b"ab", 0).json()["file"]
    assert file["mimeType"] == "application/octet-stream"
    assert "displayName" not in file


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"file": 1}', b'{"file": {"name": 1}}', b'{"file":{"sizeBytes":-1}}']
)
def test_start_with_nonsense_is_refused(client: httpx2.Client, content: bytes) -> None:
    headers = {**KEY, "X-Goog-Upload-Command": "start"}
    reply = client.post("/upload/v1/files", headers=headers, content=content)
    assert reply.status_code == 400
    assert reply.json()["error"]["status"] == "INVALID_ARGUMENT"


def test_start_validates_neither_name_nor_type(client: httpx2.Client) -> None:
    assert start(client, name="files/NOT allowed", mime_type="nonsense").status_code == 200


def test_more_than_two_gigabytes_are_refused_at_start(client: httpx2.Client) -> None:
    assert start(client, 2 * GIB).status_code == 200
    reply = start(client, 2 * GIB + 1)
    assert reply.status_code == 400
    assert reply.json()["error"]["status"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("command", ["", "bogus", "start, upload", "query"])
def test_unknown_command_is_refused(client: httpx2.Client, command: str) -> None:
    headers = {**KEY, "X-Goog-Upload-Command": command}
    assert client.post("/upload/v1/files", headers=headers).status_code == 400


@pytest.mark.parametrize("protocol", ["resumable", "bogus"])
def test_bytes_without_a_command_are_refused_in_an_answer(
    client: httpx2.Client, protocol: str
) -> None:
    headers = {**KEY, "X-Goog-Upload-Protocol": protocol}
    reply = client.post("/upload/v1/files", headers=headers, content=b"x" * 8_000_000)
    assert reply.status_code == 400
    assert "X-Goog-Upload-Command" in reply.json()["error"]["message"]


def test_a_chunk_may_carry_a_key_as_javascript_and_go_send_it(client: httpx2.Client) -> None:
    headers = {**KEY, "X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
    url = session_url(client, 3)
    assert client.post(url, headers=headers, content=b"abc").status_code == 200


def test_a_file_name_in_utf8_is_no_trouble_at_start(client: httpx2.Client) -> None:
    name = [(b"X-Goog-Upload-File-Name", "früh.txt".encode())]
    headers = [(k.encode(), v.encode()) for k, v in KEY.items()]
    command = [(b"X-Goog-Upload-Command", b"start")]
    reply = client.post("/upload/v1/files", headers=[*headers, *command, *name])
    assert upload_status(reply) == "active"


# --- chunks and finalize -------------------------------------------------------------------------


def test_chunks_then_finalize(client: httpx2.Client, gemini: LocalGemini) -> None:
    url = session_url(client, 6)
    first = send(client, url, "upload", b"abc", 0)
    assert (first.status_code, upload_status(first)) == (200, "active")
    last = send(client, url, "upload, finalize", b"def", 3)
    assert (last.status_code, upload_status(last)) == (200, "final")
    assert gemini.files()[0]["sha256"] == hashlib.sha256(b"abcdef").hexdigest()


def test_commands_may_be_separated_by_spaces(client: httpx2.Client) -> None:
    assert upload_status(send(client, session_url(client), "upload finalize", b"a", 0)) == "final"


def test_finalize_alone_has_no_bytes(client: httpx2.Client) -> None:
    url = session_url(client, 3)
    send(client, url, "upload", b"abc", 0)
    reply = send(client, url, "finalize")
    assert (upload_status(reply), reply.json()["file"]["sizeBytes"]) == ("final", "3")
    assert send(client, session_url(client), "finalize", b"x").status_code == 400


def test_trailing_empty_finalize_as_go_sends_it(client: httpx2.Client) -> None:
    url = session_url(client, 3)
    send(client, url, "upload", b"abc", 0)
    assert upload_status(send(client, url, "upload, finalize", b"", 3)) == "final"


def test_empty_file(client: httpx2.Client) -> None:
    reply = send(client, session_url(client, 0), "upload, finalize", b"", 0)
    assert "sizeBytes" not in reply.json()["file"]  # as the service: zero is left out


def test_unknown_length_may_be_streamed(client: httpx2.Client, gemini: LocalGemini) -> None:
    reply = send(client, session_url(client), "upload, finalize", iter([b"ab", b"c"]), 0)
    assert reply.request.headers["transfer-encoding"] == "chunked"
    assert reply.json()["file"]["sizeBytes"] == "3"


@pytest.mark.parametrize("offset", [0, 2, 4])
def test_wrong_offset_is_refused_and_takes_nothing(client: httpx2.Client, offset: int) -> None:
    url = session_url(client, 6)
    send(client, url, "upload", b"abc", 0)
    reply = send(client, url, "upload", b"xyz", offset)
    assert reply.status_code == 400
    # google-genai takes this for success, and finds out when its last chunk is refused as well.
    assert (upload_status(reply), received(reply)) == ("active", 3)
    assert upload_status(send(client, url, "upload, finalize", b"def", 3)) == "final"


@pytest.mark.parametrize("headers", [{}, {"X-Goog-Upload-Offset": "x"}])
def test_offset_is_required(client: httpx2.Client, headers: dict[str, str]) -> None:
    headers = {"X-Goog-Upload-Command": "upload", **headers}
    assert client.post(session_url(client), headers=headers, content=b"a").status_code == 400


def test_chunks_keep_to_the_granularity() -> None:
    with LocalGemini() as gemini, httpx2.Client(base_url=gemini.url) as client:
        reply = start(client)
        granularity = int(reply.headers["x-goog-upload-chunk-granularity"])
        assert (8 * 1024**2) % granularity == 0
        url = reply.headers["x-goog-upload-url"]
        refused = send(client, url, "upload", b"a" * (granularity + 1), 0)
        assert (refused.status_code, upload_status(refused), received(refused)) == (
            400,
            "active",
            0,
        )
        assert send(client, url, "upload", b"a" * granularity, 0).status_code == 200
        assert upload_status(send(client, url, "upload, finalize", b"a", granularity)) == "final"


def test_other_bytes_of_equal_length_are_not_called_stored(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    """Two clients with one session: the second is refused, the first may ask again."""
    url = session_url(client, 9)
    send(client, url, "upload", b"abc", 0)
    first = send(client, url, "upload, finalize", b"defghi", 3)
    for other, offset in ((b"XYZXYZ", 3), (b"XYZdefghi", 0), (b"ghi", 6), (b"defgh", 3)):
        reply = send(client, url, "upload, finalize", other, offset)
        assert (reply.status_code, upload_status(reply), received(reply)) == (400, "final", 9)
        assert "were not stored" in reply.json()["error"]["message"]
    for same, offset in ((b"defghi", 3), (b"abcdefghi", 0)):
        assert send(client, url, "upload, finalize", same, offset).json() == first.json()
    assert gemini.files()[0]["sha256"] == hashlib.sha256(b"abcdefghi").hexdigest()


def test_two_clients_at_once_on_one_session(client: httpx2.Client, gemini: LocalGemini) -> None:
    url = session_url(client, 300_000)
    contents = [bytes([n]) * 300_000 for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        replies = list(
            pool.map(
                lambda data: httpx2.post(
                    url,
                    headers={
                        "X-Goog-Upload-Command": "upload, finalize",
                        "X-Goog-Upload-Offset": "0",
                    },
                    content=data,
                    timeout=20,
                ),
                contents,
            )
        )
    stored = [data for data, reply in zip(contents, replies, strict=True) if reply.is_success]
    assert [hashlib.sha256(data).hexdigest() for data in stored] == [gemini.files()[0]["sha256"]]


def test_finalize_too_early_is_refused_and_can_be_continued(client: httpx2.Client) -> None:
    url = session_url(client, 4)
    reply = send(client, url, "upload, finalize", b"abc", 0)
    assert (reply.status_code, received(reply)) == (400, 3)
    assert upload_status(send(client, url, "query")) == "active"
    assert send(client, url, "upload, finalize", b"d", 3).json()["file"]["sizeBytes"] == "4"


def test_more_than_declared_is_refused(client: httpx2.Client) -> None:
    url = session_url(client, 3)
    assert send(client, url, "upload, finalize", b"abcd", 0).status_code == 400
    streamed = send(client, url, "upload, finalize", iter([b"ab", b"cd"]), 0)
    assert streamed.status_code == 400
    assert received(streamed) <= 3


def test_more_than_allowed_is_refused_while_streaming() -> None:
    config = EmulatorConfig(max_file_bytes=1000)
    with LocalGemini(config) as gemini, httpx2.Client(base_url=gemini.url) as client:
        assert start(client, 1001).status_code == 400
        url = session_url(client)
        reply = send(client, url, "upload, finalize", iter([b"x" * 600, b"x" * 600]), 0)
        assert reply.status_code == 400
        assert reply.json()["error"]["status"] == "INVALID_ARGUMENT"
        assert send(client, url, "upload, finalize", b"x" * 1001, 0).status_code == 400
        assert gemini.files() == []


def test_repeated_finalize_answers_the_stored_file(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    url = session_url(client, 3)
    first = send(client, url, "upload, finalize", b"abc", 0)
    again = send(client, url, "upload, finalize", b"abc", 0)
    assert again.status_code == 200
    assert again.json() == first.json()
    assert upload_status(again) == "final"
    assert send(client, url, "finalize").json() == first.json()
    assert gemini.counters()["files_made"] == 1


def test_other_uploads_to_a_finished_session_are_refused(client: httpx2.Client) -> None:
    url = session_url(client, 3)
    send(client, url, "upload, finalize", b"abc", 0)
    assert send(client, url, "upload", b"d", 3).status_code == 400
    assert send(client, url, "upload, finalize", b"d", 3).status_code == 400
    assert send(client, url, "cancel").status_code == 400


# --- query and cancel ----------------------------------------------------------------------------


def test_query_says_how_much_has_arrived(client: httpx2.Client) -> None:
    url = session_url(client, 6)
    assert received(send(client, url, "query")) == 0
    send(client, url, "upload", b"abc", 0)
    reply = send(client, url, "query")
    assert (reply.status_code, upload_status(reply), received(reply)) == (200, "active", 3)


def test_query_of_a_finished_session_answers_the_file_again(client: httpx2.Client) -> None:
    url = session_url(client, 3)
    final = send(client, url, "upload, finalize", b"abc", 0)
    reply = send(client, url, "query")
    assert (reply.status_code, upload_status(reply)) == (200, "final")
    assert reply.json() == final.json()


def test_cancelled_session_is_gone(client: httpx2.Client, gemini: LocalGemini) -> None:
    url = session_url(client, 6)
    send(client, url, "upload", b"abc", 0)
    reply = send(client, url, "cancel")
    assert (reply.status_code, upload_status(reply)) == (200, "cancelled")
    for command in ("query", "cancel", "upload", "upload, finalize"):
        assert send(client, url, command, offset=3).status_code == 410
    assert gemini.sessions() == []


@pytest.mark.parametrize("command", ["upload", "upload, finalize", "query", "cancel"])
def test_unknown_session_is_not_found(client: httpx2.Client, command: str) -> None:
    reply = send(client, "/upload/v1/files?upload_id=nobody", command, b"", 0)
    assert reply.status_code == 404
    assert upload_status(reply) is None


# --- what is refused at finalize -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["files/Big", "files/a b", "files/-a", "files/a-", "files/" + "a" * 41, "a", "x/a"]
)
def test_bad_name_is_refused_at_finalize(client: httpx2.Client, name: str) -> None:
    reply = send(client, session_url(client, name=name), "upload, finalize", b"a", 0)
    assert (reply.status_code, upload_status(reply)) == (400, "final")
    error = reply.json()["error"]
    assert error["status"] == "INVALID_ARGUMENT"
    assert error["message"].startswith("CreateFileRequest.file.name")


@pytest.mark.parametrize("file_id", ["a", "0", "a-b", "a" * 40, "a--b"])
def test_good_name_is_used(client: httpx2.Client, file_id: str) -> None:
    url = session_url(client, name=f"files/{file_id}")
    reply = send(client, url, "upload, finalize", b"a", 0)
    assert reply.json()["file"]["name"] == f"files/{file_id}"


@pytest.mark.parametrize("name", [None, "", "files/"])
def test_without_name_one_is_made(client: httpx2.Client, name: str | None) -> None:
    url = session_url(client, name=name)
    made = send(client, url, "upload, finalize", b"a", 0).json()["file"]["name"]
    file_id = made.removeprefix("files/")
    assert len(file_id) == 12
    assert set(file_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789")


def test_taken_name_is_refused_at_finalize_even_of_another_key(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    send(client, session_url(client, name="files/mine"), "upload, finalize", b"a", 0)
    other = start(client, headers={"x-goog-api-key": "other"}, name="files/mine")
    url = other.headers["x-goog-upload-url"]
    reply = send(client, url, "upload, finalize", b"b", 0)
    assert (reply.status_code, upload_status(reply)) == (409, "final")
    assert reply.json() == {"error": {"message": "mine already exists.", "code": 409}}
    again = send(client, url, "query")
    assert (again.status_code, again.json()) == (409, reply.json())
    assert len(gemini.files()) == 1


@pytest.mark.parametrize(
    ("mime_type", "http_status"),
    [
        ("text/plain", 200),
        ("application/vnd.api+json", 200),
        ("jsonl", 200),
        ("text/plain; charset=utf-8", 400),
        ("text", 400),
        ("text/", 400),
        ("a/b/c", 400),
    ],
)
def test_mime_type_is_looked_at_at_finalize(
    client: httpx2.Client, mime_type: str, http_status: int
) -> None:
    url = session_url(client, mime_type=mime_type)
    reply = send(client, url, "upload, finalize", b"a", 0)
    assert (reply.status_code, upload_status(reply)) == (http_status, "final")


def test_display_name_has_up_to_512_characters(client: httpx2.Client) -> None:
    for length, http_status in ((512, 200), (513, 400)):
        url = session_url(client, display_name="ä" * length)
        assert send(client, url, "upload, finalize", b"a", 0).status_code == http_status


# --- broken connections --------------------------------------------------------------------------


def test_what_arrived_before_a_disconnect_stays(client: httpx2.Client, gemini: LocalGemini) -> None:
    data = bytes(range(256)) * 4096
    url = session_url(client, len(data))
    send_part_and_vanish(gemini, url, len(data), data[:700_000])
    reply = send(client, url, "query")
    assert received(reply) == 700_000
    assert gemini.counters()["operations"]["upload"]["by_status"] == {"disconnected": 1}
    reply = send(client, url, "upload, finalize", data[700_000:], 700_000)
    hashed = base64.b64decode(reply.json()["file"]["sha256Hash"]).decode()
    assert hashed == hashlib.sha256(data).hexdigest()


def test_query_waits_for_a_request_that_still_moves(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    url = session_url(client, 4000)
    connection, _ = open_request(gemini, url, 4000)
    with connection, ThreadPoolExecutor(1) as pool:
        connection.sendall(b"x" * 1000)
        eventually(lambda: gemini.sessions()[0]["received_bytes"] == 1000)
        query = pool.submit(send, client, url, "query")
        for _ in range(3):
            time.sleep(0.05)  # a slow sender, not a wait for something
            connection.sendall(b"x" * 1000)
        assert upload_status(query.result()) == "final"


def test_query_cuts_off_a_request_that_fell_silent(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    url = session_url(client, 4000)
    connection, _ = open_request(gemini, url, 4000)
    with connection:
        connection.sendall(b"x" * 1000)
        eventually(lambda: gemini.sessions()[0]["received_bytes"] == 1000)
        assert received(send(client, url, "query")) == 1000
        # From now on nothing can be added behind the offset that was named.
        with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe
            eventually(lambda: connection.sendall(b"x" * 1000))
    assert upload_status(send(client, url, "upload, finalize", b"x" * 3000, 1000)) == "final"


def test_cancel_cuts_off_a_request_at_once(client: httpx2.Client, gemini: LocalGemini) -> None:
    url = session_url(client, 4000)
    connection, _ = open_request(gemini, url, 4000)
    with connection:
        connection.sendall(b"x" * 1000)
        eventually(lambda: gemini.sessions()[0]["received_bytes"] == 1000)
        before_s = time.monotonic()
        assert send(client, url, "cancel").status_code == 200
        assert time.monotonic() - before_s < 0.9
    assert send(client, url, "query").status_code == 410


@settings(max_examples=20, deadline=None)
@given(
    data=st.binary(max_size=5000),
    steps=st.lists(st.tuples(st.integers(0, 2000), st.booleans()), max_size=5),
)
def test_however_it_is_cut_the_file_is_what_was_sent(
    client: httpx2.Client, gemini: LocalGemini, data: bytes, steps: list[tuple[int, bool]]
) -> None:
    url = session_url(client, len(data))
    sent = 0
    for size, dies in steps:
        rest = len(data) - sent
        if dies and rest:
            connection, _ = open_request(gemini, url, rest, sent)
            with connection:
                connection.sendall(data[sent : sent + min(size, rest - 1)])
        elif not dies:
            piece = data[sent : sent + size]
            assert upload_status(send(client, url, "upload", piece, sent)) == "active"
        sent = received(send(client, url, "query"))
    reply = send(client, url, "upload, finalize", data[sent:], sent)
    hashed = base64.b64decode(reply.json()["file"]["sha256Hash"]).decode()
    assert hashed == hashlib.sha256(data).hexdigest()
