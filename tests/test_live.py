"""The roads that count, at the real service: ``make test-live`` with GEMINI_API_KEY set.

In the ordinary suite the same tests run against the local Gemini, so that they are known to work
on the day somebody has a key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provider_uploads import Files, ProviderFile, UploadQueue, generate, upload_and_wait_active
from provider_uploads.errors import FileGoneError, InvalidCredentialsError
from provider_uploads.local.samples import make_samples
from provider_uploads.local.stack import Stack, StackOptions
from provider_uploads.protocol import file_name
from provider_uploads.providers import open_provider
from provider_uploads.questions import DEFAULT_MODEL
from provider_uploads.schemas import UploadRequest
from provider_uploads.settings import settings
from provider_uploads.sources.open import open_source

MIB = 1024**2

# Uploading and thinking at the other end of the world takes longer than the suite allows.
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Service:
    """Where these tests run."""

    live: bool
    samples: Path
    redis_url: str


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, live_key: str | None) -> Iterator[Service]:
    """A stack on Google's service with ``--live``, otherwise on the local Gemini."""
    folder = tmp_path_factory.mktemp("live").resolve()
    make_samples(folder, video=False)
    (folder / "large.txt").write_text("0123456789abcde\n" * (9 * MIB // 16))
    key = live_key or "local"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMINI_API_KEY", key)
        settings.cache_clear()
        options = StackOptions(
            provider="gemini" if live_key else "local", redis_port=0, roots=(folder,)
        )
        with Stack(options) as stack:
            patch.setenv("PROVIDER_UPLOADS_BASE_URL", stack.base_url)
            settings.cache_clear()
            yield Service(live_key is not None, folder, stack.redis_url)


@pytest.fixture
def files(service: Service) -> Iterator[Files]:
    """The key's files; whatever a test of ours leaves is deleted."""
    with Files() as made:
        before = {file.name for file in made.list()}
        yield made
        for file in [*made.list()]:
            if file.name not in before and file.name.startswith("files/pu-"):
                made.delete(file.name)


def test_one_file_without_a_queue(service: Service, files: Files) -> None:
    path = service.samples / "report.pdf"
    result = upload_and_wait_active(path)
    assert result.state == "ACTIVE"
    assert result.id.startswith("files/pu-")  # the name is the one that we chose
    assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    file = files.get(result.id)
    assert (file.size_bytes, file.mime_type) == (path.stat().st_size, "application/pdf")
    assert file.expires_at == result.expires_at
    assert result.id in {file.name for file in files.list(page_size=2)}
    answer = generate("Which kind of document is this? One word.", [result], model=model())
    assert answer.text
    assert answer.total_tokens > 0
    assert files.delete(result.id)
    with pytest.raises(FileGoneError):
        files.get(result.id)
    with pytest.raises(FileGoneError):
        generate("And now?", [result], model=model())
    assert not files.delete(result.id)


@pytest.mark.usefixtures("files")
def test_many_files_and_a_question_by_the_workers(service: Service) -> None:
    paths = sorted(path for path in service.samples.iterdir() if path.name != "large.txt")
    with UploadQueue(service.redis_url) as queue:
        tickets = queue.submit_many(paths)
        results = [queue.result(ticket, timeout_s=300) for ticket in tickets]
        assert {result.state for result in results} == {"ACTIVE"}
        asked = queue.ask("List the names of the files.", tickets=tickets, model=model())
        answer = queue.answer(asked, timeout_s=300)
    assert answer.files == len(paths)
    assert answer.text


@pytest.mark.usefixtures("files")
def test_a_transfer_that_stopped_goes_on_where_the_service_stands(service: Service) -> None:
    request = UploadRequest(
        upload_id=os.urandom(16).hex(),
        source=str(service.samples / "large.txt"),
        display_name="large.txt",
        mime_type="text/plain",
        size_bytes=9 * MIB,
    )
    name = file_name(request.upload_id, 0)

    def stop(sent_bytes: int) -> None:
        if sent_bytes > 5 * MIB:
            raise InterruptedError

    with open_provider() as gemini, open_source(request.source) as source:
        session_url = gemini.start(name, request, source.size_bytes)
        with pytest.raises(InterruptedError):
            gemini.send(session_url, source, name=name, on_progress=stop)
        file: ProviderFile = gemini.send(session_url, source, name=name, resume=True)
        assert (file.name, file.size_bytes) == (name, 9 * MIB)
        # Finished, it gives the same answer again.
        assert isinstance(gemini.query(session_url, name), ProviderFile)


def test_a_key_nobody_knows(service: Service) -> None:
    if not service.live:
        pytest.skip("the demo's local Gemini takes any key")
    with Files("AIza-not-a-key") as files, pytest.raises(InvalidCredentialsError):
        next(files.list())


def model() -> str:
    return os.environ.get("PROVIDER_UPLOADS_TEST_MODEL", DEFAULT_MODEL)
