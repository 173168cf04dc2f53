"""The ancestors' guide and the quickstart, call for call: only imports, paths and URLs changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import google.auth
import pytest
from google import genai
from google.genai.types import HttpOptions, UploadFileConfig

from provider_uploads import (
    Answer,
    UploadFailedError,
    UploadInactiveError,
    generate,
    preupload_and_wait_active,
    upload_and_wait_active,
)
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from tests.conftest import KEY
from tests.google_cloud import key_file

MODEL = "gemini-3-flash-preview"
# A service account gets no token without one; the quickstart's user has them already.
SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return EmulatorConfig(processing_s=0.1, api_keys=frozenset({KEY}), gateway_finalizes_first=True)


@pytest.fixture(autouse=True)
def here(
    gemini: LocalGemini,
    make_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder with the documents' files, and the local Gemini where they say Google's."""
    for name in ("sample.mp3", "sample.mp4", "image.jpg", "contrib.md", "file.pdf"):
        folder = make_file(name).parent
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", gemini.url)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@pytest.fixture
def client() -> Iterator[genai.Client]:
    with genai.Client(api_key=KEY) as made:
        yield made


class TestProviderUploadsGuide:
    def test_preupload(self) -> None:
        uri = preupload_and_wait_active("./sample.mp3", timeout_s=60.0)
        assert uri

    def test_upload(self) -> None:
        res = upload_and_wait_active("./sample.mp3", timeout_s=90.0, cleanup_on_timeout=True)
        print(res.provider, res.id, res.uri, res.state)
        assert res.state == "ACTIVE"

    def test_its_errors(self, gemini: LocalGemini) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_FAILED)
        with pytest.raises(UploadFailedError) as failed:
            preupload_and_wait_active("./sample.mp4", poll_s=0.05)
        assert failed.value.state == "FAILED"
        assert failed.value.details
        gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_STUCK)
        with pytest.raises(UploadInactiveError):
            preupload_and_wait_active("./sample.mp4", timeout_s=0.2, poll_s=0.05)


class TestQuickstart:
    def test_one_image(self, client: genai.Client) -> None:
        sample_file = client.files.upload(file="image.jpg")
        response = client.models.generate_content(
            model=MODEL, contents=["Describe the image with a creative description.", sample_file]
        )
        assert "image/jpeg" in (response.text or "")

    def test_a_display_name_and_a_type(self, client: genai.Client) -> None:
        md_file = client.files.upload(
            file="contrib.md",
            config={"display_name": "CONTRIBUTING.md", "mime_type": "text/markdown"},
        )
        assert md_file.name
        found = client.files.get(name=md_file.name)
        assert (found.display_name, found.mime_type) == ("CONTRIBUTING.md", "text/markdown")
        client.files.delete(name=md_file.name)
        assert not [*client.files.list()]

    def test_the_files_of_a_repository(self, client: genai.Client, tmp_path: Path) -> None:
        """Its loop with the SDK, and the same in two calls of ours."""
        for number in range(102):
            path = tmp_path / "repo" / f"part_{number}" / "code.py"
            path.parent.mkdir(parents=True)
            path.write_text(f"answer = {number}\n")
        test = tmp_path / "repo" / "tests" / "test_code.py"
        test.parent.mkdir()
        test.write_text("assert True\n")
        found = sorted(p for p in (tmp_path / "repo").rglob("*.py") if "test" not in p.name)

        contents: list[object] = ["Describe what this code does."]
        for path in found:
            uploaded = client.files.upload(file=path, config={"display_name": str(path)})
            contents += [f"<<<File: {path}>>>", uploaded]
        response = client.models.generate_content(model=MODEL, contents=contents)

        results = [upload_and_wait_active(path) for path in found]
        answer: Answer = generate("Describe what this code does.", results, model=MODEL)
        assert answer.files == len(found) == 102
        theirs = (response.text or "").splitlines()
        assert len(theirs) == len(answer.text.splitlines()) == 2 + 2 * 102
        assert sum("<<<File: " in line for line in theirs) == 102

    def test_files_of_a_bucket(
        self, client: genai.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with key_file(tmp_path) as path:
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
            credentials, _project_id = google.auth.default(scopes=[SCOPE])
            registered = client.files.register_files(
                auth=credentials, uris=["gs://bucket/file.pdf"]
            ).files
        assert registered
        response = client.models.generate_content(
            model=MODEL, contents=["Summarize this file.", registered[0]]
        )
        assert "file.pdf" in (response.text or "")


@pytest.mark.parametrize("provider", ["gemini", "openai"])
class TestGatewayGuide:
    @pytest.fixture
    def client(self, gemini: LocalGemini, provider: str) -> Iterator[genai.Client]:
        options = HttpOptions(
            base_url=f"{gemini.url}/genai",
            api_version="v1beta",
            headers={"x-model-provider": provider},
        )
        with genai.Client(api_key=KEY, http_options=options) as made:
            yield made

    def test_its_file_calls(self, client: genai.Client, tmp_path: Path) -> None:
        path = tmp_path / "requests.jsonl"
        path.write_text('{"key": "request_1", "request": {"contents": []}}\n')
        uploaded = client.files.upload(
            file=path,
            config=UploadFileConfig(display_name="requests.jsonl", mime_type="application/jsonl"),
        )
        assert uploaded.name
        listed = client.files.list(config={"page_size": 50})
        assert [file.name for file in listed] == [uploaded.name]
        assert client.files.get(name=uploaded.name).display_name == "requests.jsonl"
        client.files.delete(name=uploaded.name)
        assert not [*client.files.list(config={"page_size": 50})]
