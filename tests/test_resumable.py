"""The X-Goog-Upload protocol: what the server really gets, and what its answers lead to."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import (
    InvalidCredentialsError,
    NameTakenError,
    ProviderRefusedError,
    ProviderUnavailableError,
    ProviderUploadsError,
    RateLimitedError,
    SessionLostError,
    SourceChangedError,
    SourceUnreadableError,
    TransientError,
    VerificationError,
)
from provider_uploads.providers.resumable import Sender, SessionState
from provider_uploads.providers.verification import BLOCK_BYTES, verify
from provider_uploads.providers.wire import read_file, read_sha256
from provider_uploads.sources.base import Source, Version
from provider_uploads.sources.open import open_source
from tests.conftest import KEY
from tests.nodes import free_port, wait_until

MIB = 1024 * 1024
NAME = "files/pu-0123456789abcdef0123456789abcdef-0"
#: A part of the session URL that nobody but the sender may ever see.
SECRET = "s3cret-upload-id"


# -- a server that says what a test tells it to ----------------------------------------------------


@dataclass
class Got:
    """A request as it came off the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    body_bytes: int

    @property
    def command(self) -> str:
        """The first upload command, or the HTTP method: what a script answers to."""
        said = self.headers.get("x-goog-upload-command", "")
        return said.split(",")[0].strip() or self.method.lower()


@dataclass
class Say:
    """An answer; ``{url}`` in a header is the server's own address."""

    code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    #: Hang up instead, once the request was read.
    hang_up: bool = False
    #: Never answer.
    stall: bool = False
    #: SessionState when this much of the body has arrived, and read the rest only then.
    after_bytes: int | None = None


class Wire:
    """A scripted HTTP server: ``Wire(upload=[Say(503), final(data)])``.

    The answers to a command are given in turn, the last one again and again. Bodies are counted,
    and kept unless ``keep=False``.
    """

    def __init__(self, *, keep: bool = True, **script: Say | list[Say]) -> None:
        self.got: list[Got] = []
        self._keep = keep
        self._script = {
            command: list(says) if isinstance(says, list) else [says]
            for command, says in script.items()
        }
        self._script.setdefault("start", [started()])
        self._lock = threading.Lock()
        self._over = threading.Event()
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                wire._answer(self)

            do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 - http.server's names

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None: ...

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def says(self, **script: Say) -> None:
        """Forget the script and what came; say this from now on."""
        with self._lock:
            self._script = {command: [say] for command, say in script.items()}
            self.got.clear()

    @property
    def session_url(self) -> str:
        return f"{self.url}/session?upload_id={SECRET}&upload_protocol=resumable"

    def commands(self) -> list[str]:
        return [got.command for got in self.got]

    def of(self, command: str) -> list[Got]:
        return [got for got in self.got if got.command == command]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        got = Got(handler.command, handler.path, headers, b"", 0)
        with self._lock:
            self.got.append(got)
            says = self._script[got.command]
            say = says.pop(0) if len(says) > 1 else says[0]
        length = int(headers.get("content-length", 0))
        if say.after_bytes is not None:
            self._take(handler, got, min(say.after_bytes, length))
            self._say(handler, say)
            self._take(handler, got, length)
            return
        self._take(handler, got, length)
        if say.stall:
            self._over.wait(30)
        if say.stall or say.hang_up:
            handler.close_connection = True
            return
        self._say(handler, say)

    def _take(self, handler: BaseHTTPRequestHandler, got: Got, until: int) -> None:
        kept = [got.body]
        while got.body_bytes < until:
            block = handler.rfile.read1(min(65536, until - got.body_bytes))
            if not block:
                break
            got.body_bytes += len(block)
            if self._keep:
                kept.append(block)
        got.body = b"".join(kept)

    def _say(self, handler: BaseHTTPRequestHandler, say: Say) -> None:
        handler.send_response(say.code)
        for name, value in say.headers.items():
            handler.send_header(name, value.replace("{url}", self.url))
        handler.send_header("Content-Length", str(len(say.body)))
        handler.end_headers()
        handler.wfile.write(say.body)
        handler.wfile.flush()


def started() -> Say:
    url = f"{{url}}/session?upload_id={SECRET}&upload_protocol=resumable"
    return Say(headers={"X-Goog-Upload-Status": "active", "X-Goog-Upload-URL": url})


def active(received_bytes: int | str) -> Say:
    return Say(
        headers={
            "X-Goog-Upload-Status": "active",
            "X-Goog-Upload-Size-Received": str(received_bytes),
        }
    )


def resource(data: bytes, **changes: Any) -> dict[str, Any]:
    """Return the File resource of ``data``; a change to None leaves the field out."""
    digest = hashlib.sha256(data).hexdigest()
    fields = {
        "name": NAME,
        "mimeType": "video/mp4",
        "sizeBytes": str(len(data)),
        "createTime": "2026-01-01T00:00:00.123456Z",
        "expirationTime": "2026-01-03T00:00:00.123456789Z",
        "sha256Hash": base64.b64encode(digest.encode()).decode(),
        "uri": f"https://example.com/v1beta/{NAME}",
        "state": "ACTIVE",
        **changes,
    }
    return {key: value for key, value in fields.items() if value is not None}


def final(data: bytes, *, after_bytes: int | None = None, **changes: Any) -> Say:
    body = json.dumps({"file": resource(data, **changes)}).encode()
    return Say(headers={"X-Goog-Upload-Status": "final"}, body=body, after_bytes=after_bytes)


def refused(code: int, status: str | None, message: str = "") -> Say:
    headers = {} if status is None else {"X-Goog-Upload-Status": status}
    return Say(code, headers, json.dumps({"error": {"code": code, "message": message}}).encode())


# -- what the tests share --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=5) as client:
        yield client


@pytest.fixture
def sender_at(http: httpx2.Client) -> Callable[[str], Sender]:
    def make(base_url: str) -> Sender:
        return Sender(http, base_url=base_url, api_version="v1beta", api_key=KEY)

    return make


@pytest.fixture
def source(make_file: Callable[..., Path]) -> Iterator[Source]:
    with open_source(make_file("clip.mp4", 1000)) as opened:
        yield opened


def content(source: Source) -> bytes:
    return Path(source.path).read_bytes()


def start(sender: Sender, source: Source, display_name: str = "clip.mp4") -> str:
    return sender.start(
        name=NAME,
        display_name=display_name,
        mime_type="video/mp4",
        size_bytes=source.size_bytes,
    )


class Reached(Exception):  # noqa: N818 - nothing went wrong
    """What a progress callback raises."""


def stop_at(limit_bytes: int) -> Callable[[int], None]:
    def watch(sent_bytes: int) -> None:
        if sent_bytes >= limit_bytes:
            raise Reached

    return watch


# -- the tests -------------------------------------------------------------------------------------


class TestOnTheWire:
    def test_start(self, sender_at: Callable[[str], Sender], source: Source) -> None:
        with Wire() as wire:
            assert start(sender_at(wire.url), source, "Ein Fluß 🏞 - 映画.mp4") == wire.session_url
            (got,) = wire.got
        assert (got.method, got.path) == ("POST", "/upload/v1beta/files")
        ours = {k: v for k, v in got.headers.items() if k.startswith("x-goog")}
        assert ours == {
            "x-goog-api-key": KEY,
            "x-goog-upload-protocol": "resumable",
            "x-goog-upload-command": "start",
            "x-goog-upload-header-content-length": "1000",
            "x-goog-upload-header-content-type": "video/mp4",
        }
        assert got.headers["content-type"] == "application/json"
        assert json.loads(got.body) == {
            "file": {
                "name": NAME,
                "displayName": "Ein Fluß 🏞 - 映画.mp4",
                "mimeType": "video/mp4",
                "sizeBytes": "1000",
            }
        }

    @pytest.mark.parametrize(
        ("base", "version", "path"),
        [
            ("", "v1beta", "/upload/v1beta/files"),
            ("/", "v1", "/upload/v1/files"),
            ("/genai", "v1beta", "/genai/upload/v1beta/files"),
            ("/genai/", "", "/genai/upload/files"),
        ],
    )
    def test_where_it_starts(
        self, http: httpx2.Client, source: Source, base: str, version: str, path: str
    ) -> None:
        with Wire() as wire:
            start(Sender(http, base_url=wire.url + base, api_version=version, api_key=KEY), source)
            assert wire.got[0].path == path

    def test_the_bytes_are_one_request_of_known_length(
        self, sender_at: Callable[[str], Sender], make_file: Callable[..., Path]
    ) -> None:
        path = make_file("clip.mp4", 3 * BLOCK_BYTES + 17)
        data = path.read_bytes()
        with Wire(upload=final(data)) as wire, open_source(path) as source:
            sender = sender_at(wire.url)
            session_url = start(sender, source)
            told: list[int] = []
            sender.send(session_url, source, name=NAME, on_progress=told.append)
            (got,) = wire.of("upload")
        assert got.headers["content-length"] == str(len(data))
        assert "transfer-encoding" not in got.headers
        assert got.headers["x-goog-upload-command"] == "upload, finalize"
        assert got.headers["x-goog-upload-offset"] == "0"
        assert got.body == data
        assert "x-goog-api-key" not in got.headers  # the session URL is the credential
        assert told == [BLOCK_BYTES, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES, len(data)]

    def test_query_and_cancel(self, sender_at: Callable[[str], Sender]) -> None:
        cancelled = Say(headers={"X-Goog-Upload-Status": "cancelled"})
        with Wire(query=active(77), cancel=cancelled) as wire:
            sender = sender_at(wire.url)
            assert sender.query(wire.session_url, NAME) == SessionState(77)
            sender.cancel(wire.session_url)
            assert wire.commands() == ["query", "cancel"]
            for got in wire.got:
                assert got.path == wire.session_url.removeprefix(wire.url)
                assert got.headers["x-goog-upload-command"] == got.command
                assert got.headers["content-length"] == "0"
                assert "x-goog-api-key" not in got.headers

    @pytest.mark.parametrize("code", [200, 400, 404, 410, 500])
    def test_cancel_does_not_mind_a_session_that_is_over(
        self, sender_at: Callable[[str], Sender], code: int
    ) -> None:
        with Wire(cancel=refused(code, "final")) as wire:
            sender_at(wire.url).cancel(wire.session_url)
            assert wire.commands() == ["cancel"]

    @pytest.mark.parametrize(
        ("code", "error"), [(429, RateLimitedError), (503, ProviderUnavailableError)]
    )
    def test_cancel_that_was_not_heard_is_to_be_tried_again(
        self, sender_at: Callable[[str], Sender], code: int, error: type[Exception]
    ) -> None:
        with Wire(cancel=refused(code, None)) as wire, pytest.raises(error):
            sender_at(wire.url).cancel(wire.session_url)

    def test_an_empty_file(
        self, sender_at: Callable[[str], Sender], make_file: Callable[..., Path]
    ) -> None:
        path = make_file("empty.txt", 0)
        with Wire(upload=final(b"")) as wire, open_source(path) as source:
            sender = sender_at(wire.url)
            file = sender.send(start(sender, source), source, name=NAME)
            (got,) = wire.of("upload")
        assert (got.headers["content-length"], got.headers["x-goog-upload-offset"]) == ("0", "0")
        assert "transfer-encoding" not in got.headers
        assert file.sha256 == hashlib.sha256(b"").hexdigest()

    def test_what_a_file_says_of_itself(
        self, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        error = {"code": 3, "message": "no frames"}
        more: dict[str, Any] = {"source": "UPLOADED", "videoMetadata": {"videoDuration": "5s"}}
        said = final(content(source), displayName="Ein Fluß", state="FAILED", error=error, **more)
        with Wire(upload=said) as wire:
            file = sender_at(wire.url).send(wire.session_url, source, name=NAME)
        assert file.model_dump(mode="json") == {
            "name": NAME,
            "uri": f"https://example.com/v1beta/{NAME}",
            "state": "FAILED",
            "mime_type": "video/mp4",
            "size_bytes": 1000,
            "display_name": "Ein Fluß",
            "sha256": hashlib.sha256(content(source)).hexdigest(),
            "created_at": "2026-01-01T00:00:00.123456Z",
            "expires_at": "2026-01-03T00:00:00.123456Z",
            "source": "UPLOADED",
            "video": {"videoDuration": "5s"},
            "error": error,
            "provider": "google",
        }


class TestResume:
    SIZE = 2 * BLOCK_BYTES + 100

    @pytest.mark.parametrize(
        "offset", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, SIZE - 1, SIZE]
    )
    def test_from_where_the_server_stands(
        self, sender_at: Callable[[str], Sender], make_file: Callable[..., Path], offset: int
    ) -> None:
        path = make_file("clip.mp4", self.SIZE)
        data = path.read_bytes()
        with Wire(query=active(offset), upload=final(data)) as wire, open_source(path) as source:
            told: list[int] = []
            file = sender_at(wire.url).send(
                wire.session_url, source, name=NAME, resume=True, on_progress=told.append
            )
            assert wire.commands() == ["query", "upload"]
            got = wire.got[1]
        assert got.headers["x-goog-upload-offset"] == str(offset)
        assert got.headers["content-length"] == str(self.SIZE - offset)
        assert got.body == data[offset:]
        assert file.sha256 == hashlib.sha256(data).hexdigest()
        assert told[-1:] == [self.SIZE]

    def test_a_finished_file_whose_answer_was_lost(
        self, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        lost, found = Say(hang_up=True), final(content(source))
        with Wire(upload=lost, query=found) as wire:
            sender = sender_at(wire.url)
            with pytest.raises(ProviderUnavailableError, match="RemoteProtocolError"):
                sender.send(wire.session_url, source, name=NAME)
            file = sender.send(wire.session_url, source, name=NAME, resume=True)
            assert wire.commands() == ["upload", "query"]
        assert file.size_bytes == 1000

    def test_a_finished_file_is_compared_with_the_source_as_it_is_now(
        self, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        with Wire(query=final(b"x" * 1000)) as wire, pytest.raises(VerificationError) as caught:
            sender_at(wire.url).send(wire.session_url, source, name=NAME, resume=True)
        assert caught.value.what == "sha256"

    def test_a_source_rewritten_since_the_first_attempt(
        self, sender_at: Callable[[str], Sender], make_file: Callable[..., Path]
    ) -> None:
        """The provider holds the old first half: no hash of the second half alone hides that."""
        path = make_file("clip.mp4", 1000)
        old = path.read_bytes()
        new = bytes(reversed(old))
        path.write_bytes(new)
        mixed = old[:500] + new[500:]
        with (
            Wire(query=active(500), upload=final(mixed)) as wire,
            open_source(path) as source,
            pytest.raises(VerificationError),
        ):
            sender_at(wire.url).send(wire.session_url, source, name=NAME, resume=True)


class TestDoubt:
    def test_active_after_the_last_byte_is_asked_once_more(
        self, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        with Wire(upload=active(1000), query=final(content(source))) as wire:
            file = sender_at(wire.url).send(wire.session_url, source, name=NAME)
            assert wire.commands() == ["upload", "query"]
        assert file.name == NAME

    def test_active_for_ever_is_no_success(
        self, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        with (
            Wire(upload=active(1000), query=active(1000)) as wire,
            pytest.raises(ProviderUnavailableError, match="not finalized"),
        ):
            sender_at(wire.url).send(wire.session_url, source, name=NAME)

    def test_active_on_an_error_is_no_success(
        self, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        """google-genai takes this for success and leaves a hole."""
        with (
            Wire(upload=refused(503, "active")) as wire,
            pytest.raises(ProviderUnavailableError) as caught,
        ):
            sender_at(wire.url).send(wire.session_url, source, name=NAME)
        assert caught.value.http_status == 503

    @pytest.mark.parametrize("code", [400, 412, 416])
    def test_offsets_that_disagree_are_a_reason_to_come_back(
        self, sender_at: Callable[[str], Sender], source: Source, code: int
    ) -> None:
        with (
            Wire(upload=refused(code, "final"), query=active(512)) as wire,
            pytest.raises(ProviderUnavailableError, match="offsets disagree"),
        ):
            sender_at(wire.url).send(wire.session_url, source, name=NAME)

    @pytest.mark.parametrize("received", [0, 1000])
    def test_a_refusal_with_offsets_that_agree_is_one(
        self, sender_at: Callable[[str], Sender], source: Source, received: int
    ) -> None:
        with (
            Wire(upload=refused(400, "final", "bad type"), query=active(received)) as wire,
            pytest.raises(ProviderRefusedError, match="bad type"),
        ):
            sender_at(wire.url).send(wire.session_url, source, name=NAME)

    def test_a_refusal_by_a_session_that_has_ended_is_one(
        self, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        with (
            Wire(upload=refused(400, "final", "bad type"), query=refused(404, None)) as wire,
            pytest.raises(ProviderRefusedError, match="bad type"),
        ):
            sender_at(wire.url).send(wire.session_url, source, name=NAME)

    def test_a_refused_upload_that_turns_out_to_be_finished(
        self, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        with Wire(upload=refused(400, "final"), query=final(content(source))) as wire:
            assert sender_at(wire.url).send(wire.session_url, source, name=NAME).name == NAME


class TestVerification:
    def test_an_early_final_is_a_truncation(
        self, sender_at: Callable[[str], Sender], make_file: Callable[..., Path]
    ) -> None:
        path = make_file("clip.mp4", 4 * BLOCK_BYTES)
        said = final(path.read_bytes()[:65536], after_bytes=65536)
        with (
            Wire(upload=said) as wire,
            open_source(path) as source,
            pytest.raises(VerificationError) as caught,
        ):
            sender_at(wire.url).send(wire.session_url, source, name=NAME)
        assert caught.value.args == (NAME, "size", str(4 * BLOCK_BYTES), "65536")

    @pytest.mark.parametrize("raw", [False, True], ids=["base64 of hex", "base64 of raw"])
    def test_a_hole(self, sender_at: Callable[[str], Sender], source: Source, raw: bool) -> None:
        data = content(source)
        holed = data[:400] + bytes(200) + data[600:]
        digest = hashlib.sha256(holed)
        sent = digest.digest() if raw else digest.hexdigest().encode()
        said = final(data, sha256Hash=base64.b64encode(sent).decode())
        with Wire(upload=said) as wire, pytest.raises(VerificationError) as caught:
            sender_at(wire.url).send(wire.session_url, source, name=NAME)
        assert caught.value.args == (
            NAME,
            "sha256",
            hashlib.sha256(data).hexdigest(),
            digest.hexdigest(),
        )

    def test_a_hash_that_is_not_given(
        self, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        with Wire(upload=final(content(source), sha256Hash=None)) as wire:
            file = sender_at(wire.url).send(wire.session_url, source, name=NAME)
        assert file.sha256 == hashlib.sha256(content(source)).hexdigest()  # ours then

    @pytest.mark.parametrize("size", [None, "0", "999"])
    def test_a_size_that_is_wrong_or_missing(
        self, sender_at: Callable[[str], Sender], source: Source, size: str | None
    ) -> None:
        with (
            Wire(upload=final(content(source), sizeBytes=size)) as wire,
            pytest.raises(VerificationError, match="size is"),
        ):
            sender_at(wire.url).send(wire.session_url, source, name=NAME)

    def test_verify_reads_the_whole_source(self, source: Source) -> None:
        file = read_file("get", resource(content(source)))
        source.stream.seek(500)
        assert verify(file, source) == file
        other = read_file("get", resource(b"x" * 1000))
        with pytest.raises(VerificationError):
            verify(other, source)


class TestAnswers:
    @pytest.mark.parametrize(
        ("say", "error"),
        [
            (refused(404, None), SessionLostError),
            (refused(410, None), SessionLostError),
            (Say(headers={"X-Goog-Upload-Status": "cancelled"}), SessionLostError),
            (refused(409, "final"), NameTakenError),
            (refused(401, "final"), InvalidCredentialsError),
            (refused(429, None), RateLimitedError),
            (refused(500, None), ProviderUnavailableError),
            (refused(503, "final"), ProviderUnavailableError),
            (refused(503, "active"), ProviderUnavailableError),
            (refused(403, "active"), ProviderUnavailableError),
            (refused(400, "active"), ProviderUnavailableError),
            (Say(), ProviderUnavailableError),
            (Say(headers={"X-Goog-Upload-Status": "new"}), ProviderUnavailableError),
            (Say(headers={"X-Goog-Upload-Status": "final"}), ProviderUnavailableError),
            (Say(headers={"X-Goog-Upload-Status": "final"}, body=b"{"), ProviderUnavailableError),
            (Say(headers={"X-Goog-Upload-Status": "final"}, body=b"[]"), ProviderUnavailableError),
            (Say(headers={"X-Goog-Upload-Status": "final"}, body=b"{}"), ProviderUnavailableError),
            (
                Say(headers={"X-Goog-Upload-Status": "final"}, body=b'{"file":{}}'),
                ProviderUnavailableError,
            ),
            (Say(headers={"Content-Encoding": "gzip"}, body=b"no"), ProviderUnavailableError),
            (Say(302, {"Location": "{url}/elsewhere"}), ProviderRefusedError),
            (Say(hang_up=True), ProviderUnavailableError),
        ],
        ids=lambda value: value.__name__ if isinstance(value, type) else None,
    )
    def test_of_a_session(
        self,
        sender_at: Callable[[str], Sender],
        source: Source,
        say: Say,
        error: type[ProviderUploadsError],
    ) -> None:
        with Wire(upload=say, query=say) as wire:
            sender = sender_at(wire.url)
            for ask in (
                lambda: sender.query(wire.session_url, NAME),
                lambda: sender.send(wire.session_url, source, name=NAME),
            ):
                with pytest.raises(error) as caught:
                    ask()
                assert type(caught.value) is error
        if error is NameTakenError:
            assert caught.value.args == (NAME,)

    @pytest.mark.parametrize("received", ["-1", "1e3", "0x10", "", "many"])
    def test_a_received_size_that_is_no_number(
        self, sender_at: Callable[[str], Sender], received: str
    ) -> None:
        with Wire(query=active(received)) as wire, pytest.raises(ProviderUnavailableError):
            sender_at(wire.url).query(wire.session_url, NAME)

    @pytest.mark.parametrize(
        ("say", "error"),
        [
            (Say(), ProviderUnavailableError),
            (Say(headers={"X-Goog-Upload-URL": ""}), ProviderUnavailableError),
            (refused(503, None), ProviderUnavailableError),
            (refused(429, None), RateLimitedError),
            (refused(400, None), ProviderRefusedError),
            (refused(403, None), ProviderRefusedError),
            (Say(hang_up=True), ProviderUnavailableError),
        ],
    )
    def test_of_start(
        self,
        sender_at: Callable[[str], Sender],
        source: Source,
        say: Say,
        error: type[ProviderUploadsError],
    ) -> None:
        with Wire(start=say) as wire, pytest.raises(error) as caught:
            start(sender_at(wire.url), source)
        assert type(caught.value) is error

    def test_a_conflict_at_start_names_the_file(
        self, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        with Wire(start=refused(409, None)) as wire, pytest.raises(NameTakenError) as caught:
            start(sender_at(wire.url), source)
        assert caught.value.args == (NAME,)

    @pytest.mark.parametrize(
        ("field_name", "value"),
        [
            ("sizeBytes", "many"),
            ("sizeBytes", [1]),
            ("sizeBytes", float("inf")),
            ("sha256Hash", 5),
            ("expirationTime", "soon"),
            ("expirationTime", 5),
            ("state", 5),
            ("error", "text"),
            ("name", 5),
        ],
    )
    def test_a_malformed_file_is_the_provider_s_fault(
        self, sender_at: Callable[[str], Sender], source: Source, field_name: str, value: Any
    ) -> None:
        said = final(content(source), **{field_name: value})
        with Wire(upload=said) as wire, pytest.raises(ProviderUnavailableError):
            sender_at(wire.url).send(wire.session_url, source, name=NAME)

    def test_a_server_that_says_nothing(self, source: Source) -> None:
        with (
            Wire(upload=Say(stall=True)) as wire,
            httpx2.Client(timeout=0.2) as http,
            pytest.raises(ProviderUnavailableError, match="ReadTimeout"),
        ):
            Sender(http, base_url=wire.url, api_version="v1", api_key=KEY).send(
                wire.session_url, source, name=NAME
            )

    @pytest.mark.parametrize(
        "session_url",
        [
            f"not a url {SECRET}",
            f"ftp://127.0.0.1/{SECRET}",
            f"http://127.0.0.1:99999/{SECRET}",
            f"http://[::1/{SECRET}",
            f"http:///{SECRET}",
            f"http://{'a' * 64}.example/{SECRET}",
            f"http://127.0.0.1:{free_port()}/{SECRET}",
        ],
        ids=range(7),
    )
    def test_a_session_url_that_leads_nowhere(
        self, sender_at: Callable[[str], Sender], source: Source, session_url: str
    ) -> None:
        with pytest.raises(ProviderUnavailableError) as caught:
            sender_at("").send(session_url, source, name=NAME)
        assert SECRET not in revealed(caught.value)


class TestChangingSources:
    @pytest.mark.parametrize("left", [0, 1, 2 * BLOCK_BYTES])
    def test_shrinks(
        self, sender_at: Callable[[str], Sender], make_file: Callable[..., Path], left: int
    ) -> None:
        path = make_file("clip.mp4", 8 * BLOCK_BYTES)

        def shrink(sent_bytes: int) -> None:
            with path.open("r+b") as out:
                out.truncate(left)

        with (
            Wire(upload=final(path.read_bytes())) as wire,
            open_source(path) as source,
            pytest.raises(SourceChangedError) as caught,
        ):
            sender_at(wire.url).send(wire.session_url, source, name=NAME, on_progress=shrink)
        assert caught.value.expected_bytes == 8 * BLOCK_BYTES
        assert caught.value.found_bytes < 8 * BLOCK_BYTES

    def test_grows(
        self, sender_at: Callable[[str], Sender], make_file: Callable[..., Path]
    ) -> None:
        """A file that is still being written: what was sent is only its beginning."""
        path = make_file("clip.mp4", 4 * BLOCK_BYTES)

        def grow(sent_bytes: int) -> None:
            with path.open("ab") as out:
                out.write(b"more")

        with (
            Wire(upload=final(path.read_bytes())) as wire,
            open_source(path) as source,
            pytest.raises(SourceChangedError),
        ):
            sender_at(wire.url).send(wire.session_url, source, name=NAME, on_progress=grow)

    def test_shrunk_before_it_goes_on(
        self, sender_at: Callable[[str], Sender], make_file: Callable[..., Path]
    ) -> None:
        path = make_file("clip.mp4", 4 * BLOCK_BYTES)
        with Wire(query=active(3 * BLOCK_BYTES)) as wire, open_source(path) as source:
            with path.open("r+b") as out:
                out.truncate(100)
            with pytest.raises(SourceChangedError):
                sender_at(wire.url).send(wire.session_url, source, name=NAME, resume=True)
            assert wire.commands() == ["query"]

    def test_cannot_be_read_any_more(self, sender_at: Callable[[str], Sender]) -> None:
        """``/proc/self/mem`` is a file whose first page nobody may read."""
        version = Version(1000, 0)
        with (
            Path("/proc/self/mem").open("rb", buffering=0) as stream,
            Wire(upload=active(0)) as wire,
            pytest.raises(SourceUnreadableError, match="Input/output error"),
        ):
            sender_at(wire.url).send(
                wire.session_url,
                Source("/proc/self/mem", stream, version, lambda: version),
                name=NAME,
            )


class TestAgainstTheLocalGemini:
    def test_progress_that_raises_stops_and_the_session_keeps_what_arrived(
        self,
        gemini: LocalGemini,
        sender_at: Callable[[str], Sender],
        make_file: Callable[..., Path],
    ) -> None:
        path = make_file("clip.mp4", 16 * MIB)
        with open_source(path) as source:
            sender = sender_at(gemini.url)
            session_url = start(sender, source)
            with pytest.raises(Reached):
                sender.send(session_url, source, name=NAME, on_progress=stop_at(MIB))

            def hung_up() -> bool:
                return "disconnected" in gemini.counters()["operations"]["upload"]["by_status"]

            wait_until(hung_up, "the provider sees that the sender is gone")
            (session,) = gemini.sessions()
            # Not all that was handed to the connection: a closed socket may drop what it held.
            assert session["received_bytes"] <= MIB
            answer = sender.query(session_url, NAME)
            assert answer == SessionState(session["received_bytes"])
            file = sender.send(session_url, source, name=NAME, resume=True)
        (stored,) = gemini.files()
        assert stored["sha256"] == file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        uploads = gemini.counters()["bytes_received"]
        assert uploads == 16 * MIB  # nothing was sent twice

    def test_a_cancelled_session_is_lost(
        self, gemini: LocalGemini, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        sender = sender_at(gemini.url)
        session_url = start(sender, source)
        sender.cancel(session_url)
        assert gemini.sessions() == []
        with pytest.raises(SessionLostError):
            sender.send(session_url, source, name=NAME)
        with pytest.raises(SessionLostError):
            sender.send(session_url, source, name=NAME, resume=True)

    @pytest.mark.parametrize(
        "display_name", ["Ein Fluß 🏞", "映画.mp4", 'a"b\\c\n\t.txt', "x" * 512, "", "[red]x[/]"]
    )
    def test_display_names(
        self,
        gemini: LocalGemini,
        sender_at: Callable[[str], Sender],
        source: Source,
        display_name: str,
    ) -> None:
        sender = sender_at(gemini.url)
        file = sender.send(start(sender, source, display_name), source, name=NAME)
        assert file.display_name == (display_name or None)

    def test_a_taken_name(
        self, gemini: LocalGemini, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        sender = sender_at(gemini.url)
        sender.send(start(sender, source), source, name=NAME)
        with pytest.raises(NameTakenError, match=NAME):
            sender.send(start(sender, source), source, name=NAME)
        assert len(gemini.files()) == 1


def revealed(error: BaseException) -> str:
    """Everything that an error shows of itself and of what is printed as its cause."""
    shown: list[str] = []
    at: BaseException | None = error
    while at is not None:
        shown += [str(at), repr(at), repr(at.args), repr(vars(at))]
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return "\n".join(shown)


class TestTheCallersOwnErrors:
    @pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), BrokenPipeError("stdout")])
    def test_they_are_not_the_provider_s(
        self, sender_at: Callable[[str], Sender], source: Source, error: Exception
    ) -> None:
        def fail(sent_bytes: int) -> None:
            raise error

        with Wire(upload=final(content(source))) as wire, pytest.raises(type(error)) as caught:
            sender_at(wire.url).send(wire.session_url, source, name=NAME, on_progress=fail)
        assert caught.value is error

    def test_a_403_for_a_session_is_no_missing_file(
        self, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        for resume in (False, True):
            say = refused(403, None)
            with Wire(upload=say, query=say) as wire, pytest.raises(ProviderRefusedError) as caught:
                sender_at(wire.url).send(wire.session_url, source, name=NAME, resume=resume)
            assert type(caught.value) is ProviderRefusedError


class TestSecrets:
    @pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 409, 410, 429, 500, 503])
    def test_no_error_tells_the_session_url_even_if_the_server_does(
        self, sender_at: Callable[[str], Sender], source: Source, code: int
    ) -> None:
        """Google's front end and many proxies quote the URL in their error pages."""
        path = f"/session?upload_id={SECRET}&upload_protocol=resumable"
        pages = [
            f"<html><p>The requested URL <code>{path}</code> was not found on this server.",
            f"<html>while trying to retrieve the URL: http://127.0.0.1{path}",
            json.dumps({"error": {"message": f"no {path}", "status": "X"}}),
        ]
        for page in pages:
            say = Say(code, {"X-Goog-Upload-Status": "final"}, page.encode())
            with Wire(upload=say, query=say) as wire:
                sender = sender_at(wire.url)
                for resume in (False, True):
                    with pytest.raises(ProviderUploadsError) as caught:
                        sender.send(wire.session_url, source, name=NAME, resume=resume)
                    assert SECRET not in revealed(caught.value)
                    assert KEY not in revealed(caught.value)

    def test_no_connection_error_tells_it(
        self, sender_at: Callable[[str], Sender], source: Source
    ) -> None:
        for say in (Say(hang_up=True), Say(headers={"Content-Encoding": "gzip"}, body=b"no")):
            with Wire(upload=say) as wire, pytest.raises(TransientError) as caught:
                sender_at(wire.url).send(wire.session_url, source, name=NAME)
            assert SECRET not in revealed(caught.value)


class TestMemory:
    def test_a_large_file_is_never_held(
        self, sender_at: Callable[[str], Sender], make_file: Callable[..., Path]
    ) -> None:
        path = make_file("huge.mp4", 0)
        size = 64 * MIB
        with path.open("r+b") as out:
            out.truncate(size)  # sparse: zeros, and no room on disk
        said = final(b"", sizeBytes=str(size), sha256Hash=None)
        with Wire(upload=said, keep=False) as wire, open_source(path) as source:
            sender = sender_at(wire.url)
            tracemalloc.start()
            try:
                sender.send(wire.session_url, source, name=NAME)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert wire.got[0].body_bytes == size
        assert peak < 8 * MIB


# -- random files, cut anywhere --------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(processing_s=0)) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("random")


_NEAR = [0, 1, BLOCK_BYTES, 2 * BLOCK_BYTES]
sizes = st.one_of(
    st.sampled_from([max(near + step, 0) for near in _NEAR for step in (-1, 0, 1)]),
    st.integers(0, 3 * BLOCK_BYTES),
)
cuts = st.lists(
    st.one_of(st.sampled_from([*_NEAR, BLOCK_BYTES - 1]), st.integers(0, 600_000)), max_size=4
)


@settings(max_examples=25, deadline=None)
@given(size=sizes, cut_after=cuts, seed=st.integers(0, 2**32))
@example(size=0, cut_after=[0, 1], seed=0)
@example(size=2 * BLOCK_BYTES, cut_after=[2 * BLOCK_BYTES, 0], seed=1)
def test_whatever_is_cut_the_copy_is_whole_or_absent(
    one_gemini: LocalGemini, folder: Path, size: int, cut_after: list[int], seed: int
) -> None:
    one_gemini.reset()
    data = random.Random(seed).randbytes(size)
    path = folder / "file.bin"
    path.write_bytes(data)
    with httpx2.Client(timeout=5) as http, open_source(path) as source:
        sender = Sender(http, base_url=one_gemini.url, api_version="v1beta", api_key=KEY)
        session_url = start(sender, source)
        for number, cut in enumerate(cut_after):
            assert one_gemini.files() == []
            one_gemini.order_fault(Operation.UPLOAD, FaultKind.RESET, after_bytes=cut)
            with pytest.raises(ProviderUnavailableError):
                sender.send(session_url, source, name=NAME, resume=number > 0)
        file = sender.send(session_url, source, name=NAME, resume=bool(cut_after))
    (stored,) = one_gemini.files()
    assert stored["sha256"] == file.sha256 == hashlib.sha256(data).hexdigest()
    assert stored["size_bytes"] == file.size_bytes == size


@given(st.binary(min_size=32, max_size=32), st.booleans(), st.booleans(), st.booleans())
def test_read_sha256_understands_both_encodings(
    digest: bytes, hex_text: bool, url_safe: bool, padded: bool
) -> None:
    raw = digest.hex().encode() if hex_text else digest
    encoded = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(raw).decode()
    assert read_sha256(encoded if padded else encoded.rstrip("=")) == digest.hex()


@given(st.one_of(st.text(max_size=100), st.binary(max_size=70).map(base64.b64encode).map(str)))
def test_read_sha256_never_raises(encoded: str) -> None:
    found = read_sha256(encoded)
    assert found is None or len(bytes.fromhex(found)) == 32


@pytest.mark.parametrize(
    "encoded",
    [
        None,
        "",
        "é",
        "AAAA",
        "not base64!",
        hashlib.sha256(b"").hexdigest(),  # bare hex is not what anybody documents
        base64.b64encode(hashlib.sha1(b"").hexdigest().encode()).decode(),
        base64.b64encode(b"g" * 64).decode(),
        base64.b64encode(bytes(33)).decode(),
    ],
)
def test_read_sha256_takes_anything_else_for_not_given(encoded: str | None) -> None:
    assert read_sha256(encoded) is None
