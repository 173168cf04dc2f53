"""The provider through google-genai: names, keys, poll_policy, and life without the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.emulator.config import GOOGLE_URI
from provider_uploads.errors import (
    FileGoneError,
    InvalidCredentialsError,
    MissingCredentialsError,
    ProviderRefusedError,
    ProviderUnavailableError,
    ProviderUploadsError,
    RateLimitedError,
)
from provider_uploads.providers import open_provider
from provider_uploads.providers.base import Provider
from provider_uploads.providers.gemini import Gemini
from provider_uploads.requests import request_for
from provider_uploads.schemas import ProviderFile
from provider_uploads.settings import settings
from provider_uploads.sources.open import open_source
from tests.conftest import KEY, profile_at
from tests.test_resumable import NAME, SECRET, Say, Wire, final, refused, resource

OTHER_KEY = "another-key-only-tests-know"


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return EmulatorConfig(processing_s=3600, api_keys=frozenset({KEY, OTHER_KEY}))


@pytest.fixture
def client_at() -> Iterator[Callable[..., Gemini]]:
    made: list[Gemini] = []

    def make(base_url: str, key: str = KEY, timeout_s: float = 5.0) -> Gemini:
        made.append(Gemini(profile_at(base_url, key), timeout_s=timeout_s))
        return made[-1]

    yield make
    for client in made:
        client.close()


def upload(client: Provider, path: Path, name: str = NAME) -> ProviderFile:
    with open_source(path) as source:
        request = request_for(path, mime_type="video/mp4")
        session_url = client.start(name, request, source.size_bytes)
        return client.send(session_url, source, name=name)


class TestFiles:
    def test_get_says_what_upload_said(
        self,
        gemini: LocalGemini,
        client_at: Callable[..., Gemini],
        make_file: Callable[..., Path],
    ) -> None:
        client = client_at(gemini.url)
        sent = upload(client, make_file("Fluß 映画.mp4", 1234))
        assert client.get(NAME) == sent
        assert (sent.state, sent.size_bytes, sent.name) == ("PROCESSING", 1234, NAME)
        assert sent.uri == f"{GOOGLE_URI}/v1beta/{NAME}"
        assert sent.expires_at is not None

    def test_a_failed_file_says_why(
        self,
        gemini: LocalGemini,
        client_at: Callable[..., Gemini],
        make_file: Callable[..., Path],
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_FAILED)
        client = client_at(gemini.url)
        upload(client, make_file("notes.txt"))
        with Wire(get=said(state="FAILED", error={"code": 3, "message": "no frames"})) as wire:
            file = client_at(wire.url).get(NAME)
        assert (file.state, file.error) == ("FAILED", {"code": 3, "message": "no frames"})

    def test_delete_and_gone(
        self,
        gemini: LocalGemini,
        client_at: Callable[..., Gemini],
        make_file: Callable[..., Path],
    ) -> None:
        client = client_at(gemini.url)
        upload(client, make_file())
        assert client.delete(NAME) is True
        assert client.delete(NAME) is False
        assert gemini.files() == []
        with pytest.raises(FileGoneError, match="Upload it again"):
            client.get(NAME)

    def test_another_key_s_file_is_not_there(
        self,
        gemini: LocalGemini,
        client_at: Callable[..., Gemini],
        make_file: Callable[..., Path],
    ) -> None:
        upload(client_at(gemini.url), make_file())
        stranger = client_at(gemini.url, OTHER_KEY)
        with pytest.raises(FileGoneError):
            stranger.get(NAME)
        assert stranger.delete(NAME) is False
        assert len(gemini.files()) == 1

    def test_a_wrong_key(
        self,
        gemini: LocalGemini,
        client_at: Callable[..., Gemini],
        make_file: Callable[..., Path],
    ) -> None:
        client = client_at(gemini.url, "wr0ng")
        path = make_file()
        for call in (
            lambda: client.get(NAME),
            lambda: client.delete(NAME),
            lambda: upload(client, path),
        ):
            with pytest.raises(InvalidCredentialsError, match="Check GEMINI_API_KEY") as caught:
                call()
            assert "wr0ng" not in f"{caught.value} {caught.value.args}"

    @pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
    def test_under_each_version(
        self, gemini: LocalGemini, make_file: Callable[..., Path], version: str
    ) -> None:
        with Gemini(profile_at(f"{gemini.url}/", api_version=version)) as client:
            upload(client, make_file())
            assert client.get(NAME).name == NAME
            assert client.delete(NAME) is True

    def test_one_client_for_many_threads(
        self,
        gemini: LocalGemini,
        client_at: Callable[..., Gemini],
        make_file: Callable[..., Path],
    ) -> None:
        client, path = client_at(gemini.url), make_file()
        names = [f"files/pu-{number}" for number in range(16)]
        threads = [threading.Thread(target=upload, args=(client, path, name)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(file["name"] for file in gemini.files()) == sorted(names)


def test_closing_closes_every_connection(
    gemini: LocalGemini, make_file: Callable[..., Path]
) -> None:
    """Its own, and the SDK's, which before google-genai 2.18 are others."""
    port = httpx2.URL(gemini.url).port

    def connected() -> int:
        ours = psutil.Process().net_connections("tcp")
        return sum(getattr(one.raddr, "port", None) == port for one in ours)  # () while it listens

    with Gemini(profile_at(gemini.url)) as client:
        upload(client, make_file())
        client.get(NAME)
        assert connected() >= 1
    assert connected() == 0


def said(code: int = 200, **changes: object) -> Say:
    return Say(
        code, {"Content-Type": "application/json"}, json.dumps(resource(b"", **changes)).encode()
    )


@pytest.fixture(scope="module")
def wired() -> Iterator[tuple[Wire, Gemini]]:
    """A scripted server and its client, for tests that only change the answer."""
    with Wire() as wire, Gemini(profile_at(wire.url), timeout_s=5) as client:
        yield wire, client


class TestOnTheWire:
    def test_the_key_is_in_a_header_never_in_the_url(
        self, client_at: Callable[..., Gemini]
    ) -> None:
        with Wire(get=said(), delete=Say(body=b"{}")) as wire:
            client = client_at(wire.url)
            client.get(NAME)
            client.delete(NAME)
            for got in wire.got:
                assert got.path == f"/v1beta/{NAME}"
                assert got.headers["x-goog-api-key"] == KEY

    @pytest.mark.parametrize("base", ["/proxy", "/proxy/", "/a/b"])
    def test_behind_a_prefix(self, make_file: Callable[..., Path], base: str) -> None:
        path = make_file()
        with (
            Wire(upload=final(path.read_bytes()), get=said(), delete=Say(body=b"{}")) as wire,
            Gemini(profile_at(wire.url + base, api_version="v1")) as client,
        ):
            upload(client, path)
            client.get(NAME)
            client.delete(NAME)
            prefix = base.rstrip("/")
            assert [got.path for got in wire.got] == [
                f"{prefix}/upload/v1/files",
                wire.session_url.removeprefix(wire.url),
                f"{prefix}/v1/{NAME}",
                f"{prefix}/v1/{NAME}",
            ]

    @pytest.mark.parametrize(
        ("say", "error"),
        [
            (refused(403, None), FileGoneError),
            (refused(404, None), ProviderRefusedError),
            (refused(400, None), ProviderRefusedError),
            (refused(429, None), RateLimitedError),
            (refused(503, None), ProviderUnavailableError),
            (Say(503), ProviderUnavailableError),
            (Say(502, body=b"<html>bad gateway</html>"), ProviderUnavailableError),
            (Say(502, body=b"\xff\xfe\xfa"), ProviderUnavailableError),
            (Say(hang_up=True), ProviderUnavailableError),
            (Say(body=b"<html>a proxy's greeting</html>"), ProviderUnavailableError),
            (Say(body=b"[]"), ProviderUnavailableError),
            (Say(body=b"null"), ProviderUnavailableError),
            (Say(body=b'"text"'), ProviderUnavailableError),
            (Say(body=b'{"name": "files/x", "sizeBytes": "many"}'), ProviderUnavailableError),
            (Say(body=b'{"name": "files/x", "sha256Hash": 5}'), ProviderUnavailableError),
            (Say(body=b'{"name": "files/x", "expirationTime": "soon"}'), ProviderUnavailableError),
            (Say(body=b"{}"), ProviderUnavailableError),
            (Say(), ProviderUnavailableError),
        ],
    )
    def test_bad_answers(
        self, wired: tuple[Wire, Gemini], say: Say, error: type[ProviderUploadsError]
    ) -> None:
        """A poll takes a TransientError for a poll that saw nothing; all else ends the upload."""
        wire, client = wired
        wire.says(get=say)
        with pytest.raises(error) as caught:
            client.get(NAME)
        assert type(caught.value) is error
        assert SECRET not in str(caught.value)

    def test_the_wait_that_was_asked_for(self, client_at: Callable[..., Gemini]) -> None:
        with (
            Wire(get=Say(429, {"Retry-After": "7"})) as wire,
            pytest.raises(RateLimitedError) as caught,
        ):
            client_at(wire.url).get(NAME)
        assert caught.value.retry_after_s == 7.0

    @pytest.mark.filterwarnings("ignore:WEIRD is not a valid FileState:UserWarning")
    def test_a_state_nobody_knows_yet(self, client_at: Callable[..., Gemini]) -> None:
        with Wire(get=said(state="WEIRD")) as wire:
            assert client_at(wire.url).get(NAME).state == "WEIRD"

    @pytest.mark.parametrize("call", ["get", "delete"])
    def test_a_provider_that_never_answers(
        self, client_at: Callable[..., Gemini], call: str
    ) -> None:
        """Without a timeout a poll holds its slot for ever, and the deadline never comes."""
        ended: list[BaseException] = []
        with Wire(get=Say(stall=True), delete=Say(stall=True)) as wire:
            client = client_at(wire.url, timeout_s=0.2)

            def ask() -> None:
                try:
                    getattr(client, call)(NAME)
                except BaseException as error:
                    ended.append(error)

            asking = threading.Thread(target=ask, daemon=True)
            begun = time.monotonic()
            asking.start()
            asking.join(60)
            assert ended, f"still waiting after {time.monotonic() - begun:.1f} s"
        assert isinstance(ended[0], ProviderUnavailableError)

    def test_nobody_there(self, client_at: Callable[..., Gemini]) -> None:
        with Wire() as wire:
            url = wire.url
        with pytest.raises(ProviderUnavailableError, match="ConnectError"):
            client_at(url).get(NAME)


class TestFromSettings:
    def test_all_of_them_count(
        self, gemini: LocalGemini, monkeypatch: pytest.MonkeyPatch, make_file: Callable[..., Path]
    ) -> None:
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        monkeypatch.setenv("PROVIDER_UPLOADS_BASE_URL", gemini.url)
        monkeypatch.setenv("PROVIDER_UPLOADS_API_VERSION", "v1")
        with open_provider() as client:
            upload(client, make_file())
            assert client.get(NAME).name == NAME
        assert gemini.counters()["operations"]["get"]["requests"] == 1

    def test_without_a_key(self) -> None:
        with pytest.raises(MissingCredentialsError, match="Set GEMINI_API_KEY"):
            open_provider()

    def test_variables_of_the_sdk_do_not_lead_elsewhere(
        self, gemini: LocalGemini, monkeypatch: pytest.MonkeyPatch, make_file: Callable[..., Path]
    ) -> None:
        """A developer's Vertex set-up, or a key for another project, must not be picked up."""
        monkeypatch.setenv("PROVIDER_UPLOADS_API_KEY", KEY)
        monkeypatch.setenv("PROVIDER_UPLOADS_BASE_URL", gemini.url)
        monkeypatch.setenv("GOOGLE_API_KEY", "wr0ng")
        monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "theirs")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", "v9")
        settings.cache_clear()
        with open_provider() as client:
            upload(client, make_file())
            assert client.get(NAME).name == NAME


class TestWithoutThePackage:
    """An empty package named ``google`` in front hides the real one."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
        shadow = tmp_path / "shadow"
        (shadow / "google").mkdir(parents=True)
        (shadow / "google" / "__init__.py").touch()

        def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, *arguments],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(shadow), **env},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )

        return run

    def test_the_provider_names_the_remedy(
        self, run: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        done = run(
            "-c",
            """if True:
            from provider_uploads.errors import MissingDependencyError
            try:
                import provider_uploads.providers.gemini
            except MissingDependencyError as error:
                print(error)
            """,
        )
        assert done.stdout == (
            "google-genai is not installed. Run: pip install 'provider-uploads[google]'\n"
        ), done.stderr

    def test_a_client_does_not_need_it(
        self,
        run: Callable[..., subprocess.CompletedProcess[str]],
        redis_url: str,
        make_file: Callable[..., Path],
    ) -> None:
        done = run(
            "-c",
            f"""if True:
            from provider_uploads import UploadQueue
            with UploadQueue({redis_url!r}) as queue:
                print(queue.status(queue.submit({str(make_file())!r})).stage)
            """,
        )
        assert done.stdout == "QUEUED\n", done.stderr

    def test_the_command_line_does_not_need_it(
        self,
        run: Callable[..., subprocess.CompletedProcess[str]],
        redis_url: str,
        make_file: Callable[..., Path],
    ) -> None:
        env = {"PROVIDER_UPLOADS_REDIS_URL": redis_url}
        done = run("-m", "provider_uploads", "upload", "--json", str(make_file()), **env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["stage"] == "QUEUED"
