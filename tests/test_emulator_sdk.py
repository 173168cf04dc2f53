"""What the official SDK experiences."""

import asyncio
import base64
import hashlib
import io
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import errors, types
from google.genai.client import AsyncClient

from provider_uploads.emulator import EmulatorConfig, LocalGemini

CHUNK = 8 * 1024**2

# What the SDK does with aiohttp, aiohttp finds fault with.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),
]


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(processing_s=0.05)) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


def client_of(gemini: LocalGemini, api_version: str | None = None) -> genai.Client:
    options = types.HttpOptions(base_url=gemini.url, api_version=api_version, timeout=10_000)
    return genai.Client(vertexai=False, api_key="a-key", http_options=options)


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[genai.Client]:
    with client_of(gemini) as sdk:
        yield sdk


def upload(
    client: genai.Client, data: bytes, mime_type: str = "text/plain", name: str | None = None
) -> types.File:
    config = types.UploadFileConfig(mime_type=mime_type, display_name="a file", name=name)
    return client.files.upload(file=io.BytesIO(data), config=config)


@pytest.mark.parametrize("api_version", [None, "v1", "v1beta", "v1alpha"])
def test_upload_get_list_delete(gemini: LocalGemini, api_version: str | None) -> None:
    with client_of(gemini, api_version) as client:
        made = upload(client, b"hello", name="my-file")
        assert (made.name, made.display_name, made.size_bytes) == ("files/my-file", "a file", 5)
        assert (made.state, made.source) == (types.FileState.ACTIVE, types.FileSource.UPLOADED)
        assert client.files.get(name="my-file") == made
        assert [file.name for file in client.files.list()] == ["files/my-file"]
        client.files.delete(name="files/my-file")
        with pytest.raises(errors.ClientError) as gone:
            client.files.get(name="my-file")
        assert (gone.value.code, gone.value.status) == (403, "PERMISSION_DENIED")


def test_path(client: genai.Client, gemini: LocalGemini, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    assert client.files.upload(file=path).mime_type == "text/plain"


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_chunk_borders(client: genai.Client, gemini: LocalGemini, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    made = upload(client, data)
    assert made.size_bytes == (size or None)
    assert made.sha256_hash is not None
    digest = hashlib.sha256(data).hexdigest()
    assert base64.b64decode(made.sha256_hash).decode() == digest
    assert gemini.files()[0]["sha256"] == digest
    chunks = max(1, -(-size // CHUNK))
    assert gemini.counters()["operations"]["upload"]["requests"] == chunks


def test_video_is_processed_first(client: genai.Client) -> None:
    made = upload(client, b"video", "video/mp4")
    assert made.state is types.FileState.PROCESSING
    assert made.name is not None
    end = time.monotonic() + 5
    while (now := client.files.get(name=made.name)).state is types.FileState.PROCESSING:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert now.state is types.FileState.ACTIVE
    assert now.video_metadata == {"videoDuration": "1s"}
    assert made.update_time is not None
    assert now.update_time is not None
    assert now.update_time > made.update_time


def test_failed_file_has_an_error(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "file_failed")
    made = upload(client, b"text")
    assert made.state is types.FileState.FAILED
    assert made.error is not None
    assert made.error.code == 13
    assert made.error.details


def test_pager_walks_all_pages(client: genai.Client) -> None:
    for number in range(12):
        upload(client, b"x", name=f"n{number}")
    names = [file.name for file in client.files.list(config={"page_size": 5})]
    assert names == [f"files/n{number}" for number in range(11, -1, -1)]


def test_taken_name_is_a_client_error_at_once(client: genai.Client, gemini: LocalGemini) -> None:
    upload(client, b"x", name="mine")
    with pytest.raises(errors.ClientError) as taken:
        upload(client, b"y", name="mine")
    assert (taken.value.code, taken.value.status) == (409, None)
    assert taken.value.message == "mine already exists."
    assert gemini.counters()["operations"]["upload"]["requests"] == 2


@pytest.mark.parametrize(
    ("name", "mime_type"), [("Not Good", "text/plain"), (None, "text/plain; charset=utf-8")]
)
def test_bad_metadata_is_a_client_error_at_once(
    client: genai.Client, gemini: LocalGemini, name: str | None, mime_type: str
) -> None:
    with pytest.raises(errors.ClientError) as refused:
        upload(client, b"x", mime_type, name)
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
    assert gemini.counters()["operations"]["upload"]["requests"] == 1


def test_a_chunk_that_failed_in_passing_is_sent_again(
    client: genai.Client, gemini: LocalGemini
) -> None:
    gemini.order_fault("upload", "unavailable", nth=2)
    data = b"ab" * CHUNK
    made = upload(client, data)
    assert made.size_bytes == len(data)
    assert gemini.files()[0]["sha256"] == hashlib.sha256(data).hexdigest()
    uploads = gemini.counters()["operations"]["upload"]
    assert uploads == {"requests": 3, "by_status": {"200": 2, "503": 1}}
    assert gemini.counters()["bytes_received"] == len(data) + CHUNK


def test_rate_limit_carries_when_to_come_back(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("start", "rate_limited", retry_delay_s=27)
    with pytest.raises(errors.ClientError) as limited:
        upload(client, b"x")
    assert (limited.value.code, limited.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert limited.value.details["error"]["details"][2]["retryDelay"] == "27s"


def test_outage_has_an_empty_message(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("get", "unavailable")
    with pytest.raises(errors.ServerError) as outage:
        client.files.get(name="any")
    assert outage.value.code == 503
    assert outage.value.status == "Service Unavailable"
    assert not outage.value.message


def test_reset_reaches_the_caller_as_it_is(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "reset", after_bytes=1_000_000)
    with pytest.raises(httpx2.TransportError):
        upload(client, b"x" * CHUNK)
    assert gemini.sessions()[0]["received_bytes"] == 1_000_000


def test_keys(gemini: LocalGemini) -> None:
    config = EmulatorConfig(api_keys=frozenset({"another"}))
    with LocalGemini(config) as strict, client_of(strict) as client:
        with pytest.raises(errors.ClientError) as refused:
            client.files.get(name="x")
        details = refused.value.details["error"]["details"]
        assert (refused.value.code, details[0]["reason"]) == (400, "API_KEY_INVALID")


# --- async, over each HTTP client it may use -----------------------------------------------------


@pytest.fixture(params=["httpx2", "aiohttp"])
def http_client_args(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What makes the SDK take one or the other: aiohttp if it is there and nobody objects."""
    if request.param == "aiohttp":
        pytest.importorskip("aiohttp")
        return {}
    return {"async_client_args": {"transport": httpx2.AsyncHTTPTransport()}}


Walk = Callable[[AsyncClient], Coroutine[Any, Any, None]]


@pytest.fixture
def walk_async(http_client_args: dict[str, Any]) -> Callable[..., None]:
    """Run a walk with an async client of the given emulator."""

    def run(url: str, walk: Walk, **options: Any) -> None:
        http_options = types.HttpOptions(
            base_url=url, timeout=10_000, **http_client_args, **options
        )

        async def with_client() -> None:
            made = genai.Client(vertexai=False, api_key="a-key", http_options=http_options)
            async with made.aio as client:
                await walk(client)
            made.close()

        asyncio.run(with_client())

    return run


async def upload_async(
    client: AsyncClient, data: bytes, mime_type: str = "text/plain", name: str | None = None
) -> types.File:
    config = types.UploadFileConfig(mime_type=mime_type, display_name="a file", name=name)
    return await client.files.upload(file=io.BytesIO(data), config=config)


@pytest.mark.parametrize("size", [0, CHUNK, CHUNK + 5])
def test_async_upload(gemini: LocalGemini, walk_async: Callable[..., None], size: int) -> None:
    data = b"x" * size

    async def walk(client: AsyncClient) -> None:
        made = await upload_async(client, data)
        assert made.name is not None
        assert (await client.files.get(name=made.name)).size_bytes == (size or None)

    walk_async(gemini.url, walk)
    assert gemini.files()[0]["sha256"] == hashlib.sha256(data).hexdigest()


def test_async_get_list_delete_generate_download(
    gemini: LocalGemini, walk_async: Callable[..., None]
) -> None:
    generated = gemini.add_generated(b"results", key="a-key", mime_type="application/jsonl")

    async def walk(client: AsyncClient) -> None:
        made = await upload_async(client, b"hello", name="x1")
        pager = await client.files.list(config={"page_size": 1})
        assert [file.name async for file in pager] == ["files/x1", generated["name"]]
        answer = await client.models.generate_content(
            model="gemini-2.5-flash", contents=["Well?", made]
        )
        assert answer.text is not None
        assert 'files/x1, called "a file"' in answer.text
        assert await client.files.download(file=generated["name"]) == b"results"
        await client.files.delete(name="x1")
        with pytest.raises(errors.ClientError) as gone:
            await client.files.get(name="x1")
        assert gone.value.code == 403

    walk_async(gemini.url, walk)


def test_async_errors(gemini: LocalGemini, walk_async: Callable[..., None]) -> None:
    async def walk(client: AsyncClient) -> None:
        await upload_async(client, b"x", name="mine")
        with pytest.raises(errors.ClientError) as taken:
            await upload_async(client, b"y", name="mine")
        assert taken.value.code == 409
        with pytest.raises(errors.ClientError) as refused:
            await upload_async(client, b"y", "text/plain; charset=utf-8")
        assert refused.value.code == 400

    walk_async(gemini.url, walk)
    assert gemini.counters()["operations"]["upload"]["requests"] == 3


def test_async_chunk_is_sent_again(gemini: LocalGemini, walk_async: Callable[..., None]) -> None:
    gemini.order_fault("upload", "internal")

    async def walk(client: AsyncClient) -> None:
        assert (await upload_async(client, b"hello")).size_bytes == 5

    walk_async(gemini.url, walk)
    uploads = gemini.counters()["operations"]["upload"]
    assert uploads["by_status"] == {"500": 1, "200": 1}


def test_async_upload_through_the_gateway(
    gemini: LocalGemini, walk_async: Callable[..., None]
) -> None:
    async def walk(client: AsyncClient) -> None:
        made = await upload_async(client, b"x" * (CHUNK + 5))
        assert made.name is not None
        # The header is on no chunk; the session knows the provider.
        assert made.name.startswith("file-")
        assert (await client.files.get(name=made.name)).size_bytes == CHUNK
        await client.files.delete(name=made.name)

    headers = {"x-model-provider": "openai"}
    walk_async(f"{gemini.url}/genai", walk, api_version="v1beta", headers=headers)


def test_a_version_may_be_empty(gemini: LocalGemini) -> None:
    with client_of(gemini, "") as client:
        assert upload(client, b"hello", name="x1").name == "files/x1"
        assert client.files.get(name="x1").size_bytes == 5
