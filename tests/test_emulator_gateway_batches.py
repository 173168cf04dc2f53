"""Batches through the gateway: the guide's workflows with the bare SDK, and what each shows."""

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import types

from provider_uploads.emulator import BatchConfig, EmulatorConfig, LocalGemini
from tests.batch_requests import inline

INLINE: list[Any] = [
    {
        "contents": [{"parts": [{"text": text}], "role": "user"}],
        "config": {"response_modalities": ["TEXT"]},
    }
    for text in ("What is 15 * 7?", "What is the largest ocean?")
]
TERMINAL = ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "ended")


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(batches=BatchConfig(pending_s=10, running_s=20))) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


def sdk(gemini: LocalGemini, provider: str | None, **more: Any) -> genai.Client:
    """As in the guide, but for base URL and api_version."""
    options = types.HttpOptions(
        base_url=f"{gemini.url}/genai",
        api_version="v1beta",
        headers=None if provider is None else {"x-model-provider": provider},
        timeout=10_000,
        **more,
    )
    return genai.Client(vertexai=False, api_key="a-key", http_options=options)


Raw = Callable[[LocalGemini, str], httpx2.Client]


@pytest.fixture
def raw() -> Iterator[Raw]:
    with ExitStack() as clients:

        def client(gemini: LocalGemini, provider: str) -> httpx2.Client:
            headers = {"x-goog-api-key": "a-key", "x-model-provider": provider}
            url = f"{gemini.url}/genai/v1beta"
            return clients.enter_context(httpx2.Client(base_url=url, headers=headers, timeout=10))

        yield client


def polled(gemini: LocalGemini, client: genai.Client, name: str) -> types.BatchJob:
    """What the guide's loop ends with; time passes on the emulator's clock."""
    for _ in range(20):
        job = client.batches.get(name=name)
        if job.state in TERMINAL:
            return job
        gemini.advance_clock(5)
    raise AssertionError("the job did not end")


def test_the_gemini_workflow_of_the_guide(gemini: LocalGemini, tmp_path: Path) -> None:
    client = sdk(gemini, "gemini")
    lines = [
        {
            "key": f"request_{number}",
            "request": {"contents": [{"parts": [{"text": f"{number}?"}], "role": "user"}]},
        }
        for number in (1, 2, 3)
    ]
    path = tmp_path / "in.json"
    path.write_text("\n".join(json.dumps(line) for line in lines))

    uploaded = client.files.upload(
        file=path, config=types.UploadFileConfig(display_name="batch_e2e_gemini")
    )
    job = client.batches.create(model="gemini-1.5-flash", src=uploaded.name or "")
    assert job.state == "JOB_STATE_RUNNING"  # the gateway knows no other that comes before
    done = polled(gemini, client, job.name or "")
    assert done.state == "JOB_STATE_SUCCEEDED"
    assert done.dest is not None
    assert done.dest.file_name == f"files/batch-{(job.name or '').removeprefix('batches/')}"
    listed = client.batches.list(config=types.ListBatchJobsConfig(page_size=20))
    assert [found.name for found in listed] == [job.name]
    client.files.delete(name=uploaded.name or "")
    client.batches.delete(name=job.name or "")
    assert list(client.batches.list()) == []


@pytest.mark.parametrize(
    ("provider", "model", "begin"),
    [
        ("openai", "gpt-4o-mini", "batches/batch_"),
        ("anthropic", "claude-3-sonnet-20240229", "batches/msgbatch_"),
        (None, "gemini-1.5-flash", "batches/"),
    ],
)
def test_the_inline_workflows_of_the_guide(
    gemini: LocalGemini, provider: str | None, model: str, begin: str
) -> None:
    client = sdk(gemini, provider)
    job = client.batches.create(model=model, src=INLINE)
    assert (job.name or "").startswith(begin)
    assert polled(gemini, client, job.name or "").state == "JOB_STATE_SUCCEEDED"
    [listed] = client.batches.list(config=types.ListBatchJobsConfig(page_size=10))
    assert listed.name == job.name
    client.batches.delete(name=job.name or "")
    assert list(client.batches.list()) == []
    assert gemini.batches.jobs() == []


def test_the_same_asynchronously(gemini: LocalGemini) -> None:
    async def cancel_and_delete() -> None:
        transport = {"transport": httpx2.AsyncHTTPTransport()}
        async with sdk(gemini, "openai", async_client_args=transport).aio as client:
            job = await client.batches.create(model="gpt-4o-mini", src=INLINE)
            name = job.name or ""
            await client.batches.cancel(name=name)
            assert (await client.batches.get(name=name)).state == "JOB_STATE_CANCELLED"
            assert [found.name async for found in await client.batches.list()] == [name]
            await client.batches.delete(name=name)

    asyncio.run(cancel_and_delete())
    assert gemini.batches.jobs() == []


def openai_line(number: int, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"question {number}"}]
    return {
        "custom_id": f"request-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt-4o-mini", "messages": messages, "max_tokens": 100, **body},
    }


def test_openai_takes_files_in_its_own_format(gemini: LocalGemini, raw: Raw) -> None:
    client = sdk(gemini, "openai")
    data = "\n".join(json.dumps(openai_line(n)) for n in (1, 2)).encode()
    uploaded = client.files.upload(
        file=io.BytesIO(data), config=types.UploadFileConfig(mime_type="application/jsonl")
    )
    assert (uploaded.name or "").startswith("file-")
    with pytest.raises(ValueError, match="Unsupported source"):  # the SDK, before any request
        client.batches.create(model="gpt-4o-mini", src=uploaded.name or "")
    job = client.batches.create(
        model="gpt-4o-mini", src=types.BatchJobSource(file_name=uploaded.name)
    )
    done = polled(gemini, client, job.name or "")
    assert done.dest is not None
    assert (done.dest.file_name or "").startswith("file-")
    names = {file.name for file in client.files.list()}
    assert names == {uploaded.name, done.dest.file_name}
    # There is no way to read it here, whatever the provider.
    path = f"/files/{done.dest.file_name}:download"
    assert raw(gemini, "openai").get(path).status_code == 404


def test_a_line_openai_cannot_read_fails_the_job(gemini: LocalGemini) -> None:
    client = sdk(gemini, "openai")
    line = json.dumps({"key": "1", "request": {"contents": []}}).encode()
    config = types.UploadFileConfig(mime_type="application/jsonl")
    uploaded = client.files.upload(file=io.BytesIO(line), config=config)
    job = client.batches.create(model="gpt-4o-mini", src={"file_name": uploaded.name})
    assert polled(gemini, client, job.name or "").state == "JOB_STATE_FAILED"
    [shown] = gemini.batches.jobs()
    assert "line 1" in shown["error"]["message"]
    assert "custom_id" in shown["error"]["message"]


def test_anthropic_takes_no_files(gemini: LocalGemini, raw: Raw) -> None:
    body = {"batch": {"inputConfig": {"fileName": "files/x"}}}
    path = "/models/claude-3-sonnet-20240229:batchGenerateContent"
    refused = raw(gemini, "anthropic").post(path, json=body)
    assert refused.status_code == 400
    assert "requests array" in refused.json()["error"]["message"]


@pytest.mark.parametrize("provider", ["bedrock", "nobody"])
def test_other_providers_do_no_batches_here(gemini: LocalGemini, provider: str, raw: Raw) -> None:
    client = raw(gemini, provider)
    create = client.post("/models/anthropic.claude-v2:batchGenerateContent", json=inline())
    replies = [
        create,
        client.get("/batches"),
        client.get("/batches/x"),
        client.delete("/batches/x"),
    ]
    for reply in replies:
        assert reply.status_code == 400
        assert f"not supported by {provider}" in reply.json()["error"]["message"]


def test_what_the_gateway_keeps_of_a_job(gemini: LocalGemini, raw: Raw) -> None:
    client = raw(gemini, "gemini")
    body = inline(displayName="mine")
    created = client.post("/models/gemini-x:batchGenerateContent", json=body).json()
    assert created["metadata"].keys() == {
        "@type",
        "name",
        "createTime",
        "updateTime",
        "state",
        "batchStats",
    }
    assert created["metadata"]["@type"].endswith("v1beta.BatchPredictionJob")
    gemini.advance_clock(60)
    done = client.get(f"/{created['name']}").json()
    assert done["done"] is True
    assert done["metadata"]["updateTime"] == created["metadata"]["createTime"]
    assert "response" not in done  # answers given inline do not get through
    [job] = gemini.batches.jobs()
    assert job["display_name"] != "mine"


@pytest.mark.parametrize(
    ("provider", "state", "shown", "own"),
    [
        ("openai", "BATCH_STATE_SUCCEEDED", "BATCH_STATE_SUCCEEDED", "completed"),
        ("openai", "BATCH_STATE_FAILED", "BATCH_STATE_FAILED", "failed"),
        ("openai", "BATCH_STATE_ODD", "BATCH_STATE_UNSPECIFIED", "BATCH_STATE_ODD"),
        ("anthropic", "BATCH_STATE_FAILED", "BATCH_STATE_SUCCEEDED", "ended"),
    ],
)
def test_states_by_provider(
    gemini: LocalGemini, provider: str, state: str, shown: str, own: str, raw: Raw
) -> None:
    for own_states, expected in ((False, shown), (True, own)):
        config = BatchConfig(
            pending_s=1, running_s=1, gateway_own_states=own_states, gateway_bare_names=own_states
        )
        with LocalGemini(EmulatorConfig(batches=config)) as local:
            local.batches.order(state=state)
            client = raw(local, provider)
            job = client.post("/models/some-model:batchGenerateContent", json=inline()).json()
            assert job["name"].startswith("batches/") is not own_states
            assert job["metadata"]["state"] == (
                "validating" if own_states else "BATCH_STATE_RUNNING"
            )
            local.advance_clock(2)
            batch_id = job["name"].removeprefix("batches/")
            assert client.get(f"/batches/{batch_id}").json()["metadata"]["state"] == expected


def test_a_job_being_cancelled_says_so(gemini: LocalGemini, raw: Raw) -> None:
    config = BatchConfig(pending_s=1, running_s=60, cancelling_s=5)
    with LocalGemini(EmulatorConfig(batches=config)) as local:
        client = raw(local, "openai")
        name = client.post("/models/gpt:batchGenerateContent", json=inline()).json()["name"]
        assert client.post(f"/{name}:cancel").json() == {}
        assert client.get(f"/{name}").json()["metadata"]["state"] == "BATCH_STATE_CANCELLING"
        local.advance_clock(5)
        assert client.get(f"/{name}").json()["metadata"]["state"] == "BATCH_STATE_CANCELLED"


def test_providers_do_not_see_each_others_jobs(gemini: LocalGemini, raw: Raw) -> None:
    path = "/models/gemini-x:batchGenerateContent"
    name = raw(gemini, "openai").post(path, json=inline()).json()["name"]
    assert raw(gemini, "anthropic").get(f"/{name}").status_code == 404
    assert raw(gemini, "gemini").get("/batches").json() == {"operations": []}
    # Gemini's own are the same behind the gateway and beside it.
    name = raw(gemini, "gemini").post(path, json=inline()).json()["name"]
    key = {"x-goog-api-key": "a-key"}
    assert httpx2.get(f"{gemini.url}/v1beta/{name}", headers=key).json()["name"] == name


def test_faults_strike_here_too(gemini: LocalGemini, raw: Raw) -> None:
    gemini.order_fault("create_batch", "internal", match="gpt")
    client = raw(gemini, "openai")
    path = "/models/gpt-4o-mini:batchGenerateContent"
    assert [client.post(path, json=inline()).status_code for _ in range(2)] == [500, 200]
    assert gemini.counters()["operations"]["create_batch"]["by_status"] == {"500": 1, "200": 1}
