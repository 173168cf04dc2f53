"""Batches of the local Gemini: their calls, their states over time, their limits, their files."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import errors, types

from provider_uploads.emulator import BatchConfig, EmulatorConfig, LocalGemini, Operation
from tests.batch_requests import REQUEST, create, inline

KEY = "a-key"
MODEL = "gemini-3-flash-preview"
PENDING_S, RUNNING_S = 10, 20


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(batches=BatchConfig(pending_s=10, running_s=20))) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


def http(gemini: LocalGemini, key: str = KEY) -> httpx2.Client:
    return httpx2.Client(base_url=gemini.url, headers={"x-goog-api-key": key}, timeout=10)


@pytest.fixture
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with http(gemini) as made:
        yield made


@pytest.fixture
def sdk(gemini: LocalGemini) -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=gemini.url, timeout=10_000)
    with genai.Client(vertexai=False, api_key=KEY, http_options=options) as made:
        yield made


def wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until_s, "it did not come about"
        time.sleep(0.01)


def line(key: str, text: str = "hello", **request: Any) -> dict[str, Any]:
    contents = [{"role": "user", "parts": [{"text": text}]}]
    return {"key": key, "request": {"contents": contents, **request}}


def jsonl(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def upload(client: httpx2.Client, data: bytes, mime_type: str = "application/jsonl") -> str:
    reply = client.post("/upload/v1beta/files", headers={"content-type": mime_type}, content=data)
    name: str = reply.json()["file"]["name"]
    return name


def from_file(client: httpx2.Client, name: str, **batch: Any) -> httpx2.Response:
    return create(client, {"batch": {"inputConfig": {"fileName": name}, **batch}})


def output_of(client: httpx2.Client, name: str) -> list[dict[str, Any]]:
    operation = client.get(f"/v1beta/{name}").json()
    file = operation["response"]["responsesFile"]
    download = client.get(f"/v1beta/{file}:download?alt=media", follow_redirects=True)
    return [json.loads(one) for one in download.text.splitlines()]


# --- with the SDK ---------------------------------------------------------------------------------


def test_from_a_file_to_its_answers(gemini: LocalGemini, sdk: genai.Client) -> None:
    data = jsonl(*(line(f"r{number}", f"question {number}") for number in range(3)))
    config = types.UploadFileConfig(mime_type="jsonl", display_name="in.jsonl")
    file = sdk.files.upload(file=io.BytesIO(data), config=config)
    job = sdk.batches.create(
        model=MODEL,
        src=file.name or "",
        config=types.CreateBatchJobConfig(display_name="nightly"),
    )
    name = job.name or ""
    assert (job.state, job.display_name) == ("JOB_STATE_PENDING", "nightly")
    assert job.model == f"models/{MODEL}"
    gemini.advance_clock(PENDING_S)
    assert sdk.batches.get(name=name).state == "JOB_STATE_RUNNING"
    gemini.advance_clock(RUNNING_S)
    done = sdk.batches.get(name=name)
    assert (done.state, done.done) == ("JOB_STATE_SUCCEEDED", True)
    assert done.dest is not None
    assert done.dest.file_name == f"files/{name.replace('batches/', 'batch-')}"
    written = sdk.files.download(file=done.dest.file_name)
    answers = [json.loads(one) for one in written.decode().splitlines()]
    assert [answer["key"] for answer in answers] == ["r0", "r1", "r2"]
    for number, answer in enumerate(answers):
        response = types.GenerateContentResponse.model_validate(answer["response"])
        assert f"question {number}" in (response.text or "")
    sdk.batches.delete(name=name)
    with pytest.raises(errors.ClientError, match="404"):
        sdk.batches.get(name=name)


def test_inline_to_its_answers(gemini: LocalGemini, sdk: genai.Client) -> None:
    source: list[Any] = [
        types.InlinedRequest(
            contents="hello",
            metadata={"key": "1"},
            config=types.GenerateContentConfig(system_instruction="be brief", temperature=0),
        ),
        {"contents": [{"parts": [{"text": "bye"}]}], "config": {"response_modalities": ["TEXT"]}},
    ]
    job = sdk.batches.create(model=MODEL, src=source)
    gemini.advance_clock(PENDING_S + RUNNING_S)
    done = sdk.batches.get(name=job.name or "")
    assert done.dest is not None
    first, second = done.dest.inlined_responses or []
    assert first.metadata == {"key": "1"}
    assert first.response is not None
    assert "be brief" in (first.response.text or "")
    # The same question in generateContent has the same answer.
    assert second.response is not None
    assert second.response.text == sdk.models.generate_content(model=MODEL, contents="bye").text


@asynccontextmanager
async def async_sdk(gemini: LocalGemini, **options: Any) -> AsyncIterator[Any]:
    http_options = types.HttpOptions(base_url=gemini.url, timeout=10_000, **options)
    async with genai.Client(vertexai=False, api_key=KEY, http_options=http_options).aio as made:
        yield made


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
@pytest.mark.parametrize(
    "options", [{}, {"async_client_args": {"transport": httpx2.AsyncHTTPTransport()}}]
)
def test_the_same_asynchronously(gemini: LocalGemini, options: dict[str, Any]) -> None:
    async def walk() -> None:
        async with async_sdk(gemini, **options) as sdk:
            config = types.UploadFileConfig(mime_type="application/json")
            file = await sdk.files.upload(file=io.BytesIO(jsonl(line("a"))), config=config)
            job = await sdk.batches.create(model=MODEL, src=file.name)
            gemini.advance_clock(PENDING_S + RUNNING_S)
            done = await sdk.batches.get(name=job.name)
            written = await sdk.files.download(file=done.dest.file_name)
            assert json.loads(written)["key"] == "a"
            other = await sdk.batches.create(model=MODEL, src=file.name)
            await sdk.batches.cancel(name=other.name)
            states = {found.name: found.state async for found in await sdk.batches.list()}
            assert states == {job.name: "JOB_STATE_SUCCEEDED", other.name: "JOB_STATE_CANCELLED"}
            await sdk.batches.delete(name=job.name)

    asyncio.run(walk())
    assert len(gemini.batches.jobs()) == 1


def test_the_pager_of_the_sdk_sees_every_job_once(sdk: genai.Client) -> None:
    source: Any = [REQUEST]
    made = [sdk.batches.create(model=MODEL, src=source).name for _ in range(5)]
    listed = sdk.batches.list(config=types.ListBatchJobsConfig(page_size=2))
    assert [job.name for job in listed] == made[::-1]


# --- on the wire ----------------------------------------------------------------------------------


def test_the_operation_over_time(gemini: LocalGemini, client: httpx2.Client) -> None:
    file = upload(client, jsonl(line("a"), line("b"), {"key": "c", "request": {"contents": []}}))
    made = from_file(client, file, displayName="nightly", priority="7").json()
    name = made["name"]
    assert len(name.removeprefix("batches/")) == 36
    metadata = made["metadata"]
    assert metadata["@type"].endswith(".GenerateContentBatch")
    assert metadata["inputConfig"] == {"fileName": file}
    assert metadata["batchStats"] == {"requestCount": "3", "pendingRequestCount": "3"}
    assert (metadata["displayName"], metadata["priority"]) == ("nightly", "7")
    assert metadata["state"] == "BATCH_STATE_PENDING"
    assert made.keys() == {"name", "metadata"}
    assert "endTime" not in metadata

    gemini.advance_clock(PENDING_S + RUNNING_S / 2)
    running = client.get(f"/v1beta/{name}").json()
    assert running["metadata"]["state"] == "BATCH_STATE_RUNNING"
    assert running["metadata"]["batchStats"] == {
        "requestCount": "3",
        "pendingRequestCount": "2",
        "successfulRequestCount": "1",
    }
    assert client.get(f"/v1beta/files/batch-{name[8:]}").status_code == 403  # not there yet

    gemini.advance_clock(RUNNING_S / 2)
    done = client.get(f"/v1beta/{name}").json()
    assert done["done"] is True
    assert done["metadata"]["batchStats"] == {
        "requestCount": "3",
        "successfulRequestCount": "2",
        "failedRequestCount": "1",
    }
    output = {"responsesFile": f"files/batch-{name[8:]}"}
    assert done["metadata"]["output"] == output
    assert done["response"]["responsesFile"] == output["responsesFile"]
    assert done["metadata"]["endTime"] > done["metadata"]["createTime"]
    failed = output_of(client, name)[2]
    assert (failed["key"], failed["error"]["code"]) == ("c", 3)


@pytest.mark.parametrize("version", ["/v1", "/v1beta", "/v1alpha", ""])
def test_every_version_of_the_api(client: httpx2.Client, version: str) -> None:
    path = f"{version}/models/models/gemini-x:batchGenerateContent"
    name = client.post(path, json=inline()).json()["name"]
    assert client.get(f"{version}/{name}").status_code == 200
    assert len(client.get(f"{version}/batches").json()["operations"]) == 1
    assert client.post(f"{version}/{name}:cancel").json() == {}
    assert client.delete(f"{version}/{name}").json() == {}
    assert client.get(f"{version}/batches").json() == {}


def test_snake_case_is_understood(gemini: LocalGemini, client: httpx2.Client) -> None:
    request = {"contents": REQUEST["contents"], "generation_config": {"top_k": 1}}
    file = upload(client, jsonl({"key": "a", "request": request}))
    batch = {"display_name": "mine", "input_config": {"file_name": file}}
    made = create(client, {"batch": batch}).json()
    assert made["metadata"]["displayName"] == "mine"
    gemini.advance_clock(60)
    assert len(output_of(client, made["name"])) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "batch"),
        ({"batch": 1}, "batch"),
        ({"batch": {}}, "input_config"),
        ({"batch": {"inputConfig": {}}}, "requests must be given"),
        ({"batch": {"inputConfig": {"requests": {"requests": []}}}}, "at least one"),
        ({"batch": {"inputConfig": {"requests": {"requests": [{}]}}}}, "requests[0].request"),
        ({"batch": {"inputConfig": {"fileName": "x"}}}, "files/<id>"),
        (inline({"contents": [], "config": {}}), "no such field: 'config'"),
        (inline(displayName="x" * 513), "display_name"),
        (inline(priority="high"), "priority"),
        (inline(webhookConfig={"uris": "https://x"}), "webhook_config"),
    ],
)
def test_what_makes_no_sense_is_refused(client: httpx2.Client, body: Any, said: str) -> None:
    refused = create(client, body)
    assert refused.status_code == 400
    assert said in refused.json()["error"]["message"]


def test_who_may_see_what(gemini: LocalGemini, client: httpx2.Client) -> None:
    name = create(client).json()["name"]
    file = upload(client, jsonl(line("a")))
    with http(gemini, "another-key") as other:
        assert other.get(f"/v1beta/{name}").status_code == 404
        assert other.post(f"/v1beta/{name}:cancel").status_code == 404
        assert other.delete(f"/v1beta/{name}").status_code == 404
        assert other.get("/v1beta/batches").json() == {}
        assert from_file(other, file).status_code == 403
    assert httpx2.get(f"{gemini.url}/v1beta/{name}").status_code == 403
    assert client.post("/v1beta/models/gpt:batchGenerateContent", json=inline()).status_code == 404


def test_pages(client: httpx2.Client) -> None:
    names = [create(client).json()["name"] for _ in range(12)]
    first = client.get("/v1beta/batches").json()
    assert [operation["name"] for operation in first["operations"]] == names[:1:-1]
    rest = client.get(f"/v1beta/batches?pageToken={first['nextPageToken']}").json()
    assert [operation["name"] for operation in rest["operations"]] == names[1::-1]
    assert "nextPageToken" not in rest
    assert len(client.get("/v1beta/batches?pageSize=1000").json()["operations"]) == 12
    for wrong in ("pageSize=-1", "pageToken=x", "filter=state"):
        assert client.get(f"/v1beta/batches?{wrong}").status_code == 400


# --- ends -----------------------------------------------------------------------------------------


def test_cancelled_takes_its_time(client: httpx2.Client) -> None:
    config = BatchConfig(pending_s=10, running_s=20, cancelling_s=5)
    with LocalGemini(EmulatorConfig(batches=config)) as local, http(local) as there:
        name = from_file(there, upload(there, jsonl(line("a")))).json()["name"]
        local.advance_clock(12)
        there.get(f"/v1beta/{name}")
        assert there.post(f"/v1beta/{name}:cancel").json() == {}
        assert there.get(f"/v1beta/{name}").json()["metadata"]["state"] == "BATCH_STATE_RUNNING"
        local.advance_clock(5)
        done = there.get(f"/v1beta/{name}").json()
        assert done["metadata"]["state"] == "BATCH_STATE_CANCELLED"
        assert (done["done"], done["error"]["code"]) == (True, 1)
        assert "response" not in done
        assert there.get(f"/v1beta/files/batch-{name[8:]}").status_code == 403
        late = there.post(f"/v1beta/{name}:cancel")
        assert (late.status_code, late.json()["error"]["status"]) == (400, "FAILED_PRECONDITION")


@pytest.mark.parametrize("stuck", ["pending", "running"])
def test_stuck_jobs_expire_after_48_hours_without_results(
    gemini: LocalGemini, client: httpx2.Client, stuck: str
) -> None:
    gemini.batches.order(stuck=stuck)
    name = from_file(client, upload(client, jsonl(line("a")))).json()["name"]
    gemini.advance_clock(47 * 3600)
    waiting = client.get(f"/v1beta/{name}").json()
    assert waiting["metadata"]["state"] == f"BATCH_STATE_{stuck.upper()}"
    gemini.advance_clock(3600)
    expired = client.get(f"/v1beta/{name}").json()
    assert expired["metadata"]["state"] == "BATCH_STATE_EXPIRED"
    assert (expired["done"], "response" in expired) == (True, False)
    assert "output" not in expired["metadata"]
    assert gemini.files() == []  # its input has expired too


def test_a_deleted_job_goes_on_until_it_ends(gemini: LocalGemini, client: httpx2.Client) -> None:
    name = from_file(client, upload(client, jsonl(line("a")))).json()["name"]
    assert client.delete(f"/v1beta/{name}").json() == {}
    assert client.get(f"/v1beta/{name}").status_code == 404
    assert client.get("/v1beta/batches").json() == {}
    [job] = gemini.batches.jobs()
    assert (job["deleted"], job["phase"]) == (True, "pending")
    gemini.advance_clock(PENDING_S + RUNNING_S)
    assert gemini.batches.jobs() == []
    assert f"files/batch-{name[8:]}" in {file["name"] for file in gemini.files()}


def test_a_job_ends_though_nobody_asks(client: httpx2.Client) -> None:
    config = EmulatorConfig(batches=BatchConfig(pending_s=0.1, running_s=0.1))
    with LocalGemini(config) as local, http(local) as there:
        from_file(there, upload(there, jsonl(line("a"))))
        wait_until(lambda: len(local.files()) == 2)


# --- its files ------------------------------------------------------------------------------------


def test_an_input_that_is_deleted_before_the_start_is_missing(
    gemini: LocalGemini, client: httpx2.Client
) -> None:
    file = upload(client, jsonl(line("a")))
    early, late = from_file(client, file).json()["name"], upload(client, jsonl(line("b")))
    client.delete(f"/v1beta/{file}")
    started = from_file(client, late).json()["name"]
    gemini.advance_clock(PENDING_S)
    client.delete(f"/v1beta/{late}")  # it has been read by now, though nobody looked
    gemini.advance_clock(RUNNING_S)
    failed = client.get(f"/v1beta/{early}").json()
    assert failed["metadata"]["state"] == "BATCH_STATE_FAILED"
    assert (failed["error"]["code"], file in failed["error"]["message"]) == (5, True)
    assert output_of(client, started)[0]["key"] == "b"


def test_what_was_read_in_time_does_not_expire(gemini: LocalGemini, client: httpx2.Client) -> None:
    """One leap of the clock over start, end and expiry of the input changes nothing."""
    media = upload(client, b"a picture", "image/png")
    uri = f"{gemini.url}/v1beta/{media}"
    parts = [{"fileData": {"fileUri": uri, "mimeType": "image/png"}}]
    data = jsonl({"key": "a", "request": {"contents": [{"parts": parts}]}})
    gemini.advance_clock(47 * 3600)
    name = from_file(client, upload(client, data)).json()["name"]
    assert gemini.batches.jobs()[0]["phase"] == "pending"
    gemini.advance_clock(24 * 3600)
    done = client.get(f"/v1beta/{name}").json()
    assert done["metadata"]["batchStats"] == {"requestCount": "1", "successfulRequestCount": "1"}
    assert media not in {file["name"] for file in gemini.files()}


def test_lines_whose_files_are_not_there_fail_alone(
    gemini: LocalGemini, client: httpx2.Client
) -> None:
    gemini.order_fault("upload", "file_stuck", match="slow")
    headers = {"content-type": "video/mp4", "x-goog-upload-file-name": "slow.mp4"}
    slow = client.post("/upload/v1beta/files", headers=headers, content=b"v").json()["file"]
    lines = [line("ok")]
    for key, name in (("gone", "files/none"), ("slow", slow["name"])):
        part = {"fileData": {"fileUri": f"{gemini.url}/v1beta/{name}", "mimeType": "video/mp4"}}
        lines.append({"key": key, "request": {"contents": [{"parts": [part]}]}})
    name = from_file(client, upload(client, jsonl(*lines))).json()["name"]
    gemini.advance_clock(60)
    ok, gone, stuck = output_of(client, name)
    assert "response" in ok
    assert (gone["key"], gone["error"]["code"]) == ("gone", 7)
    assert (stuck["key"], stuck["error"]["code"]) == ("slow", 9)


BAD_INPUTS = [
    (b'{"key": "a", "request": {"contents": []}}\n{"key": ', "line 2: invalid JSON, near column 9"),
    (b'{"key": "a", "request": {"contents": [], "config": {}}}', "42: no such field: 'config'"),
    (b'{"key": "a", "request": {"contents": [], "thinkingConfig": {}}}', "'thinkingConfig'"),
    (b'{"custom_id": "a"}', "no such field: 'custom_id'"),
    (b'{"key": 1, "request": {}}', "key must be a string"),
    (b'{"key": "a"}', "request must be an object"),
    (b"hello", "line 1"),
    (b"{}\n" * 20, "line 10"),
    (b"", "line 1"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "said"), BAD_INPUTS)
def test_an_input_that_cannot_be_read(
    gemini: LocalGemini, client: httpx2.Client, data: bytes, said: str
) -> None:
    name = from_file(client, upload(client, data)).json()["name"]
    gemini.advance_clock(PENDING_S)
    failed = client.get(f"/v1beta/{name}").json()
    assert failed["metadata"]["state"] == "BATCH_STATE_FAILED"
    assert failed["error"]["code"] == 3
    assert said in failed["error"]["message"]
    assert "response" not in failed


def test_an_input_may_be_checked_at_once(client: httpx2.Client) -> None:
    config = EmulatorConfig(batches=BatchConfig(input_checked_at_create=True))
    with LocalGemini(config) as local, http(local) as there:
        refused = from_file(there, upload(there, BAD_INPUTS[1][0]))
        assert (refused.status_code, local.batches.jobs()) == (400, [])
        assert "no such field: 'config'" in refused.json()["error"]["message"]
        assert from_file(there, upload(there, jsonl(line("a")))).status_code == 200


def test_flat_settings_are_let_pass(gemini: LocalGemini, client: httpx2.Client) -> None:
    data = jsonl(line("a", responseMimeType="application/json", max_output_tokens=5))
    name = from_file(client, upload(client, data)).json()["name"]
    gemini.advance_clock(60)
    [answer] = output_of(client, name)
    text = answer["response"]["candidates"][0]["content"]["parts"][0]["text"]
    assert json.loads(text)["given"]  # it has been read as a setting


# --- limits ---------------------------------------------------------------------------------------


def test_only_so_many_jobs_at_a_time(client: httpx2.Client) -> None:
    config = BatchConfig(pending_s=10, running_s=20, max_concurrent_jobs=2)
    with LocalGemini(EmulatorConfig(batches=config)) as local, http(local) as there:
        first, _ = create(there).json()["name"], create(there)
        refused = create(there)
        assert refused.status_code == 429
        assert refused.json()["error"]["status"] == "RESOURCE_EXHAUSTED"
        there.delete(f"/v1beta/{first}")  # makes no room: it goes on
        assert create(there).status_code == 429
        with http(local, "another-key") as other:
            assert create(other).status_code == 200
        local.advance_clock(30)
        assert create(there).status_code == 200


def test_a_hundred_jobs_are_the_limit(gemini: LocalGemini, client: httpx2.Client) -> None:
    assert [create(client).status_code for _ in range(101)] == [200] * 100 + [429]


def test_sizes(client: httpx2.Client) -> None:
    config = BatchConfig(max_input_bytes=100, max_inline_bytes=1000)
    with LocalGemini(EmulatorConfig(batches=config)) as local, http(local) as there:
        small, large = upload(there, jsonl(line("a"))), upload(there, jsonl(line("a", "x" * 100)))
        assert from_file(there, small).status_code == 200
        refused = from_file(there, large)
        assert (refused.status_code, "bytes" in refused.json()["error"]["message"]) == (400, True)
        body = inline({"contents": [{"parts": [{"text": "x" * 1000}]}]})
        assert create(there, body).status_code == 400


def test_quotas_count_for_batches_too() -> None:
    with (
        LocalGemini(EmulatorConfig(requests_per_minute={Operation.CREATE_BATCH: 1})) as local,
        http(local) as there,
    ):
        assert [create(there).status_code for _ in range(2)] == [200, 429]
        details = create(there).json()["error"]["details"]
        assert details[1]["violations"][0]["quotaId"].startswith("CreateBatchRequestsPerMinute")


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"pending_s": -1}, {"running_s": float("nan")}, {"max_concurrent_jobs": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            BatchConfig(**wrong)


# --- faults ---------------------------------------------------------------------------------------


def test_a_create_whose_answer_is_lost_has_made_a_job(
    gemini: LocalGemini, client: httpx2.Client
) -> None:
    gemini.order_fault("create_batch", "lost_answer", match="nightly")
    create(client, inline(displayName="daily"))
    with pytest.raises(httpx2.TransportError):
        create(client, inline(displayName="nightly"))
    listed = client.get("/v1beta/batches").json()["operations"]
    assert [one["metadata"]["displayName"] for one in listed] == ["nightly", "daily"]
    gemini.order_fault("get_batch", "unavailable", match=listed[0]["name"])
    assert client.get(f"/v1beta/{listed[1]['name']}").status_code == 200
    assert client.get(f"/v1beta/{listed[0]['name']}").status_code == 503


def test_a_large_input_keeps_nobody_waiting(gemini: LocalGemini, client: httpx2.Client) -> None:
    data = jsonl(*(line(str(number)) for number in range(5000)))
    name = from_file(client, upload(client, data)).json()["name"]
    gemini.advance_clock(PENDING_S + RUNNING_S)
    assert client.get(f"/v1beta/{name}").json()["metadata"]["state"] == "BATCH_STATE_RUNNING"
    wait_until(lambda: "done" in client.get(f"/v1beta/{name}").json())
    assert [answer["key"] for answer in output_of(client, name)] == [str(n) for n in range(5000)]
