"""What becomes of batches on order: ends, states nobody knows, failed lines, odd outputs."""

import json
import warnings
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import types
from pydantic import ValidationError

from provider_uploads.emulator import (
    BatchConfig,
    EmulatorConfig,
    EmulatorError,
    InvalidFaultError,
    LocalGemini,
)
from tests.batch_requests import create, inline

KEY = {"x-goog-api-key": "a-key"}


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(batches=BatchConfig(pending_s=10, running_s=20))) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, headers=KEY, timeout=10) as made:
        yield made


@pytest.fixture
def sdk(gemini: LocalGemini) -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=gemini.url, api_version="v1beta", timeout=10_000)
    with genai.Client(vertexai=False, api_key="a-key", http_options=options) as made:
        yield made


def of_file(client: httpx2.Client, keys: str, **batch: Any) -> str:
    """A job with one line for each letter."""
    request = {"contents": [{"parts": [{"text": "hello"}]}]}
    lines = [json.dumps({"key": key, "request": request}) for key in keys]
    file = client.post(
        "/upload/v1beta/files",
        headers={"content-type": "application/jsonl"},
        content="\n".join(lines).encode(),
    ).json()["file"]["name"]
    name: str = create(client, {"batch": {"inputConfig": {"fileName": file}, **batch}}).json()[
        "name"
    ]
    return name


def get(client: httpx2.Client, name: str) -> dict[str, Any]:
    operation: dict[str, Any] = client.get(f"/v1beta/{name}").json()
    return operation


def output_of(client: httpx2.Client, name: str) -> list[dict[str, Any]]:
    file = get(client, name)["response"]["responsesFile"]
    download = client.get(f"/v1beta/{file}:download?alt=media", follow_redirects=True)
    return [json.loads(one) for one in download.text.splitlines()]


def test_a_failed_job_says_why_only_on_the_wire(
    gemini: LocalGemini, client: httpx2.Client, sdk: genai.Client
) -> None:
    error = {"code": 8, "message": "Too many tokens are enqueued.", "details": [{"@type": "x"}]}
    gemini.batches.order(state="BATCH_STATE_FAILED", error=error, match="nightly")
    daily, nightly = of_file(client, "ab"), of_file(client, "ab", displayName="nightly")
    gemini.advance_clock(30)
    failed = get(client, nightly)
    assert (failed["error"], failed["done"]) == (error, True)
    assert "response" not in failed
    assert failed["metadata"]["batchStats"] == {"requestCount": "2", "pendingRequestCount": "2"}
    seen = sdk.batches.get(name=nightly)
    assert (seen.state, seen.error) == ("JOB_STATE_FAILED", None)
    assert get(client, daily)["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert {job["name"]: job["error"] for job in gemini.batches.jobs()} == {
        daily: None,
        nightly: error,
    }


@pytest.mark.parametrize("state", ["BATCH_STATE_PARTIALLY_SUCCEEDED", "JOB_STATE_PAUSED", "ended"])
def test_states_the_service_may_add_one_day(
    gemini: LocalGemini, client: httpx2.Client, sdk: genai.Client, state: str
) -> None:
    gemini.batches.order(state=state, running_state="BATCH_STATE_CANCELLING")
    name = of_file(client, "a")
    gemini.advance_clock(10)
    assert get(client, name)["metadata"]["state"] == "BATCH_STATE_CANCELLING"
    gemini.advance_clock(20)
    assert get(client, name)["metadata"]["state"] == state
    assert len(output_of(client, name)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK makes up a member for it
        assert sdk.batches.get(name=name).state == state


def test_failed_lines_in_a_job_that_succeeded(gemini: LocalGemini, client: httpx2.Client) -> None:
    gemini.batches.order(failed_keys=["b"], line_error={"code": 4, "message": "too slow"})
    name = of_file(client, "abc")
    gemini.advance_clock(30)
    assert get(client, name)["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert get(client, name)["metadata"]["batchStats"] == {
        "requestCount": "3",
        "successfulRequestCount": "2",
        "failedRequestCount": "1",
    }
    answers = output_of(client, name)
    assert ["error" in answer for answer in answers] == [False, True, False]
    assert answers[1] == {"key": "b", "error": {"code": 4, "message": "too slow"}}


def test_a_share_of_the_lines_fails(gemini: LocalGemini, client: httpx2.Client) -> None:
    gemini.batches.order(failed_share=0.25)
    name = of_file(client, "abcdefgh")
    gemini.advance_clock(30)
    failed = [answer["key"] for answer in output_of(client, name) if "error" in answer]
    assert failed == ["d", "h"]


def test_an_inline_error_with_details_breaks_the_sdk(
    gemini: LocalGemini, client: httpx2.Client, sdk: genai.Client
) -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "X"}]
    error = {"code": 3, "message": "no", "details": details}
    gemini.batches.order(failed_keys=["1"], line_error=error)
    name = create(client).json()["name"]
    gemini.advance_clock(30)
    [answer] = get(client, name)["response"]["inlinedResponses"]["inlinedResponses"]
    assert answer == {"error": error}
    with pytest.raises(ValidationError):
        sdk.batches.get(name=name)


def test_outputs_that_cannot_simply_be_zipped(gemini: LocalGemini, client: httpx2.Client) -> None:
    gemini.batches.order(missing_keys=["a"], doubled_keys=["b"])
    gemini.batches.order(shuffled=True)
    odd, shuffled = of_file(client, "abc"), of_file(client, "abcdef")
    gemini.advance_clock(30)
    assert [answer["key"] for answer in output_of(client, odd)] == ["b", "b", "c"]
    keys = [answer["key"] for answer in output_of(client, shuffled)]
    assert keys != sorted(keys) == list("abcdef")


def test_times_of_a_single_job(gemini: LocalGemini, client: httpx2.Client) -> None:
    gemini.batches.order(pending_s=100, running_s=1000)
    name = of_file(client, "a")
    gemini.advance_clock(99)
    assert get(client, name)["metadata"]["state"] == "BATCH_STATE_PENDING"
    gemini.advance_clock(1000)
    assert get(client, name)["metadata"]["state"] == "BATCH_STATE_RUNNING"
    changed = gemini.batches.change(name, running_s=0, state="BATCH_STATE_FAILED")
    assert (changed["state"], changed["phase"]) == ("BATCH_STATE_FAILED", "ended")
    with pytest.raises(ValueError, match="has ended"):
        gemini.batches.change(name, running_s=0)
    with pytest.raises(LookupError, match="there is no batch"):
        gemini.batches.change("batches/none")


def test_change_keeps_what_is_not_named(gemini: LocalGemini, client: httpx2.Client) -> None:
    gemini.batches.order(stuck="pending", failed_keys=["a"])
    name = of_file(client, "ab")
    gemini.advance_clock(3600)
    gemini.batches.change(name, stuck=None)
    gemini.advance_clock(30)
    assert get(client, name)["metadata"]["batchStats"]["failedRequestCount"] == "1"


def test_which_jobs_an_order_is_for(gemini: LocalGemini, client: httpx2.Client) -> None:
    gemini.batches.order(state="BATCH_STATE_FAILED", match="gemini-x", nth=2, count=2)
    names = [create(client).json()["name"] for _ in range(5)]
    gemini.advance_clock(30)
    states = [get(client, name)["metadata"]["state"] for name in names]
    failed = [state == "BATCH_STATE_FAILED" for state in states]
    assert failed == [False, True, True, False, False]
    [order] = gemini.batches.orders()
    assert (order["seen"], order["applied"]) == (5, 2)


def test_a_share_of_the_jobs_is_the_same_for_the_same_seed(
    gemini: LocalGemini, client: httpx2.Client
) -> None:
    drawn = []
    for seed in (1, 1, 2):
        gemini.reset()
        gemini.batches.order(state="BATCH_STATE_FAILED", share=0.5, seed=seed)
        names = [create(client).json()["name"] for _ in range(20)]
        gemini.advance_clock(30)
        drawn.append([get(client, name)["metadata"]["state"] for name in names])
    assert drawn[0] == drawn[1] != drawn[2]
    assert 0 < drawn[0].count("BATCH_STATE_FAILED") < 20


def test_orders_over_http(gemini: LocalGemini, client: httpx2.Client) -> None:
    path = "/_emulator/batches/orders"
    made = client.post(path, json={"stuck": "running", "match": "nightly"}).json()
    assert (made["stuck"], made["count"], made["applied"]) == ("running", 1, 0)
    assert client.get(path).json() == {"orders": [made]} == {"orders": gemini.batches.orders()}
    assert client.delete(path).json() == {}
    assert gemini.batches.orders() == []
    name = create(client, inline(displayName="nightly")).json()["name"]
    change = f"/_emulator/{name}/change"
    assert client.post(change, json={"pending_s": 0}).json()["phase"] == "running"
    assert client.post(change, json={"what": 0}).status_code == 400
    assert client.post(change, json=[]).status_code == 400
    assert client.post("/_emulator/batches/none/change", json={}).status_code == 404
    assert client.get("/_emulator/batches").json() == {"batches": gemini.batches.jobs()}


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": ""},
        {"stuck": "ended"},
        {"failed_keys": "a"},
        {"failed_keys": [1]},
        {"failed_share": 2},
        {"line_error": "no"},
        {"pending_s": -1},
        {"running_s": True},
        {"shuffled": 1},
        {"count": 0},
        {"nth": 0},
        {"share": 0},
        {"seed": 0.5},
        {"match": ""},
        {"what": 1},
    ],
)
def test_orders_that_make_no_sense(
    gemini: LocalGemini, client: httpx2.Client, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidFaultError, match=next(iter(wrong))):
        gemini.batches.order(**wrong)
    refused = client.post("/_emulator/batches/orders", json=wrong)
    assert refused.status_code == 400
    assert gemini.batches.orders() == []


def test_nobody_answers_outside_its_block() -> None:
    local = LocalGemini()
    with pytest.raises(EmulatorError, match="not running"):
        local.batches.jobs()
