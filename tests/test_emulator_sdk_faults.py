"""What the official SDK makes of each fault, and what the server holds afterwards."""

import asyncio
import hashlib
import io
import json
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
    with LocalGemini(EmulatorConfig(processing_s=0, keep_bytes=True)) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


def client_of(gemini: LocalGemini, timeout_ms: int = 10_000) -> genai.Client:
    options = types.HttpOptions(base_url=gemini.url, timeout=timeout_ms)
    return genai.Client(vertexai=False, api_key="a-key", http_options=options)


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[genai.Client]:
    with client_of(gemini) as sdk:
        yield sdk


def upload(client: genai.Client, data: bytes, name: str | None = None) -> types.File:
    config = types.UploadFileConfig(mime_type="text/plain", name=name)
    return client.files.upload(file=io.BytesIO(data), config=config)


def data_of(chunks: int) -> bytes:
    """Whole chunks, each of another letter."""
    return b"".join(bytes([97 + number]) * CHUNK for number in range(chunks))


def stored(gemini: LocalGemini) -> bytes:
    [file] = gemini.files()
    return Path(file["path"]).read_bytes()


# --- sync ----------------------------------------------------------------------------------------


def test_a_bare_429(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("start", "rate_limited_bare")
    with pytest.raises(errors.ClientError) as limited:
        upload(client, b"x")
    assert (limited.value.code, limited.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert "details" not in limited.value.details["error"]
    assert gemini.sessions() == []


def test_a_quota_of_the_day(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("start", "rate_limited_day")
    with pytest.raises(errors.ClientError) as limited:
        upload(client, b"x")
    _, quota, retry = limited.value.details["error"]["details"]
    assert "PerDay" in quota["violations"][0]["quotaId"]
    assert retry["retryDelay"] == "1s"


def test_a_lost_finalize(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "lost_finalize")
    with pytest.raises(httpx2.TransportError):
        upload(client, b"hello", name="lost")
    # Nobody told the client, but the file is there, and its name is taken.
    assert client.files.get(name="lost").size_bytes == 5
    with pytest.raises(errors.ClientError) as taken:
        upload(client, b"hello", name="lost")
    assert taken.value.code == 409
    assert client.files.get(name="lost").state == types.FileState.ACTIVE


def test_a_lost_answer_to_a_chunk(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "lost_answer")
    with pytest.raises(httpx2.TransportError):
        upload(client, data_of(2))
    assert gemini.sessions()[0]["received_bytes"] == CHUNK
    assert gemini.files() == []


def test_an_early_final_passes_for_success(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "early_final", after_bytes=CHUNK)
    data = data_of(2)
    made = upload(client, data)
    assert (made.size_bytes, made.state) == (CHUNK, types.FileState.ACTIVE)
    assert stored(gemini) == data[:CHUNK]


def test_an_active_error_leaves_a_hole_nobody_sees(
    client: genai.Client, gemini: LocalGemini
) -> None:
    gemini.order_fault("upload", "active_error", nth=2)
    data = data_of(3)
    made = upload(client, data)
    assert made.size_bytes == len(data)
    assert stored(gemini) == data[:CHUNK] + bytes(CHUNK) + data[2 * CHUNK :]
    assert gemini.files()[0]["sha256"] != hashlib.sha256(data).hexdigest()


def test_an_active_error_at_the_end(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "active_error", nth=2)
    with pytest.raises(ValueError, match="not finalized"):
        upload(client, data_of(2))
    assert gemini.files() == []
    assert gemini.sessions()[0]["received_bytes"] == CHUNK


def test_an_answer_without_its_file(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "no_file")
    with pytest.raises(KeyError, match="file"):
        upload(client, b"hello")
    assert stored(gemini) == b"hello"


def test_bad_json_at_finalize(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "bad_json")
    with pytest.raises(errors.UnknownApiResponseError):
        upload(client, b"hello")
    assert stored(gemini) == b"hello"


def test_bad_json_at_get_and_list(client: genai.Client, gemini: LocalGemini) -> None:
    upload(client, b"hello", name="whole")
    gemini.order_fault("get", "bad_json")
    gemini.order_fault("list", "bad_json")
    with pytest.raises(json.JSONDecodeError):
        client.files.get(name="whole")
    with pytest.raises(json.JSONDecodeError):
        client.files.list()
    assert client.files.get(name="whole").size_bytes == 5


def test_a_name_taken_by_nothing(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "name_taken")
    for _ in range(2):
        with pytest.raises(errors.ClientError) as taken:
            upload(client, b"hello", name="mine")
        assert taken.value.code == 409
    with pytest.raises(errors.ClientError) as unreadable:
        client.files.get(name="mine")
    assert unreadable.value.code == 403
    assert list(client.files.list()) == []


def test_a_stall_outlasts_the_patience(gemini: LocalGemini) -> None:
    gemini.order_fault("start", "stall", stall_s=60)
    gemini.order_fault("upload", "stall", stall_s=60)
    with client_of(gemini, timeout_ms=1000) as hasty:
        with pytest.raises(httpx2.ReadTimeout):
            upload(hasty, b"hello")
        assert gemini.sessions() == []
        with pytest.raises(httpx2.TimeoutException):
            upload(hasty, b"hello")
        assert [session["received_bytes"] for session in gemini.sessions()] == [0]
        assert upload(hasty, b"hello").size_bytes == 5


def test_a_late_answer_outlasts_the_patience(gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "late_answer", stall_s=60)
    with client_of(gemini, timeout_ms=1000) as hasty:
        with pytest.raises(httpx2.ReadTimeout):
            upload(hasty, b"hello", name="late")
        assert hasty.files.get(name="late").size_bytes == 5


def test_a_file_that_fails_or_never_gets_ready(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("upload", "file_failed")
    gemini.order_fault("upload", "file_stuck", nth=2)
    failed, stuck = upload(client, b"a"), upload(client, b"b")
    assert failed.state == types.FileState.FAILED
    assert failed.error is not None
    gemini.advance_clock(24 * 3600)
    assert stuck.name is not None
    assert client.files.get(name=stuck.name).state == types.FileState.PROCESSING


def test_get_and_list_are_out_for_minutes(client: genai.Client, gemini: LocalGemini) -> None:
    gemini.order_outage(300)
    upload(client, b"hello", name="there")  # as in the outages the public has seen
    for _ in range(3):
        with pytest.raises(errors.ServerError) as out:
            client.files.get(name="there")
        assert (out.value.code, out.value.status) == (500, "INTERNAL")
        with pytest.raises(errors.ServerError):
            client.files.list()
    gemini.advance_clock(301)
    assert client.files.get(name="there").state == types.FileState.ACTIVE
    assert [file.name for file in client.files.list()] == ["files/there"]


def test_a_start_that_fails_is_retried_if_asked_for(gemini: LocalGemini) -> None:
    gemini.order_fault("start", "unavailable", count=2)
    retry = types.HttpRetryOptions(attempts=3, initial_delay=0.01, max_delay=0.02, jitter=0)
    options = types.HttpOptions(base_url=gemini.url, retry_options=retry)
    with genai.Client(vertexai=False, api_key="a-key", http_options=options) as patient:
        assert upload(patient, b"hello").size_bytes == 5
    assert gemini.counters()["operations"]["start"]["by_status"] == {"503": 2, "200": 1}


def test_persistence_gets_files_through_a_bad_provider(gemini: LocalGemini) -> None:
    """One reply in five is faulty, in every way: trying again until the hash is right helps."""
    gemini.order_mix(0.2, 17, stall_s=0.02)
    wanted = {hashlib.sha256(data).hexdigest(): data for data in (b"1" * 5000, b"2" * 5000)}
    with client_of(gemini) as client:
        for data in wanted.values():
            for _ in range(100):
                try:
                    made = upload(client, data)
                except (errors.APIError, httpx2.TransportError, KeyError, ValueError):
                    continue
                whole = made.size_bytes == len(data)
                if whole and made.state == types.FileState.ACTIVE:
                    break
            else:
                pytest.fail("a hundred tries were not enough")
    assert wanted.keys() <= {file["sha256"] for file in gemini.files()}


# --- async, over each HTTP client it may use -----------------------------------------------------


@pytest.fixture(params=["httpx2", "aiohttp"])
def http_client_args(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What makes the SDK take one or the other: aiohttp if it is there and nobody objects."""
    if request.param == "aiohttp":
        pytest.importorskip("aiohttp")
        return {}
    return {"async_client_args": {"transport": httpx2.AsyncHTTPTransport()}}


Walk = Callable[[AsyncClient], Coroutine[Any, Any, None]]
Walked = Callable[[Walk], None]


@pytest.fixture
def walked(gemini: LocalGemini, http_client_args: dict[str, Any]) -> Walked:
    """Run a walk with an async client."""

    def run(walk: Walk) -> None:
        async def open_and_walk() -> None:
            options = types.HttpOptions(base_url=gemini.url, timeout=5_000, **http_client_args)
            client = genai.Client(vertexai=False, api_key="a-key", http_options=options)
            async with client.aio as aio:
                await walk(aio)

        asyncio.run(open_and_walk())

    return run


async def upload_async(client: AsyncClient, data: bytes, name: str | None = None) -> types.File:
    config = types.UploadFileConfig(mime_type="text/plain", name=name)
    return await client.files.upload(file=io.BytesIO(data), config=config)


def transport_errors() -> tuple[type[Exception], ...]:
    aiohttp = pytest.importorskip("aiohttp")
    return (httpx2.TransportError, aiohttp.ClientError, asyncio.TimeoutError)


def test_async_lost_finalize(gemini: LocalGemini, walked: Walked) -> None:
    gemini.order_fault("upload", "lost_finalize")

    async def walk(client: AsyncClient) -> None:
        with pytest.raises(transport_errors()):
            await upload_async(client, b"hello", name="lost")
        assert (await client.files.get(name="lost")).size_bytes == 5

    walked(walk)


def test_async_early_final_and_hole(gemini: LocalGemini, walked: Walked) -> None:
    gemini.order_fault("upload", "early_final", after_bytes=CHUNK)
    gemini.order_fault("upload", "active_error", nth=3)
    data = data_of(3)

    async def walk(client: AsyncClient) -> None:
        assert (await upload_async(client, data)).size_bytes == CHUNK
        assert (await upload_async(client, data)).size_bytes == len(data)

    walked(walk)
    cut, holed = (Path(file["path"]).read_bytes() for file in gemini.files())
    assert cut == data[:CHUNK]
    assert holed == data[:CHUNK] + bytes(CHUNK) + data[2 * CHUNK :]


def test_async_stall(gemini: LocalGemini, http_client_args: dict[str, Any]) -> None:
    gemini.order_fault("get", "stall", stall_s=60)

    async def walk() -> None:
        options = types.HttpOptions(base_url=gemini.url, timeout=1000, **http_client_args)
        client = genai.Client(vertexai=False, api_key="a-key", http_options=options)
        async with client.aio as aio:
            with pytest.raises(transport_errors()):
                await aio.files.get(name="x")
            with pytest.raises(errors.ClientError) as missing:
                await aio.files.get(name="x")
            assert missing.value.code == 403

    asyncio.run(walk())
