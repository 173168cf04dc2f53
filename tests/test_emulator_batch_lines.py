"""What the lines of a batch may use beside files: cached contents, and the quota of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from provider_uploads.emulator import BatchConfig, EmulatorConfig, LocalGemini
from tests.batch_requests import inline

MODEL = "gemini-2.5-flash"
TEXT = "All that is known of leases. " * 400
QUESTION = [{"role": "user", "parts": [{"text": "What is a lease?"}]}]
BATCHES = BatchConfig(pending_s=10, running_s=20, max_enqueued_tokens=20)


@pytest.fixture
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(min_cache_tokens=100, batches=BATCHES)) as local:
        yield local


@pytest.fixture
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    headers = {"x-goog-api-key": "a-key"}
    with httpx2.Client(base_url=gemini.url, headers=headers, timeout=10) as made:
        yield made


def answers(client: httpx2.Client, name: str) -> list[dict[str, Any]]:
    operation = client.get(f"/v1beta/{name}").json()
    found: list[dict[str, Any]] = operation["response"]["inlinedResponses"]["inlinedResponses"]
    return found


def job(client: httpx2.Client, *requests: dict[str, Any], model: str = MODEL) -> str:
    path = f"/v1beta/models/{model}:batchGenerateContent"
    name: str = client.post(path, json=inline(*requests)).json()["name"]
    return name


class TestCachedContent:
    @pytest.fixture
    def gemini(self) -> Iterator[LocalGemini]:
        batches = BatchConfig(pending_s=10, running_s=20)
        with LocalGemini(EmulatorConfig(min_cache_tokens=100, batches=batches)) as local:
            yield local

    def cached(self, client: httpx2.Client, model: str = MODEL) -> str:
        contents = [{"role": "user", "parts": [{"text": TEXT}]}]
        body = {"model": f"models/{model}", "contents": contents}
        name: str = client.post("/v1beta/cachedContents", json=body).json()["name"]
        return name

    def test_it_is_part_of_what_was_given(self, gemini: LocalGemini, client: httpx2.Client) -> None:
        request = {"contents": QUESTION, "cachedContent": self.cached(client)}
        asked = client.post(f"/v1beta/models/{MODEL}:generateContent", json=request).json()
        name = job(client, request)
        gemini.advance_clock(40)
        (answer,) = answers(client, name)
        assert answer["response"]["usageMetadata"] == asked["usageMetadata"]
        assert answer["response"]["usageMetadata"]["cachedContentTokenCount"] == len(TEXT) // 4
        assert answer["response"]["candidates"] == asked["candidates"]

    def test_one_that_is_not_there_and_one_of_another_model(
        self, gemini: LocalGemini, client: httpx2.Client
    ) -> None:
        other = self.cached(client, "gemini-2.5-pro")
        names = ("cachedContents/none", other)
        name = job(client, *({"contents": QUESTION, "cachedContent": one} for one in names))
        gemini.advance_clock(40)
        missing, wrong = answers(client, name)
        assert missing["error"]["code"] == 7
        assert "CachedContent not found" in missing["error"]["message"]
        assert wrong["error"]["code"] == 3
        assert "has to be the same" in wrong["error"]["message"]
        counts = gemini.batches.jobs()[0]
        assert (counts["successfulRequestCount"], counts["failedRequestCount"]) == (0, 2)


class TestEnqueuedTokens:
    """Twenty of a model: one job of four questions, of four tokens each."""

    def state(self, client: httpx2.Client, name: str) -> tuple[str, int | None]:
        operation = client.get(f"/v1beta/{name}").json()
        return operation["metadata"]["state"], operation.get("error", {}).get("code")

    def test_a_job_that_is_too_much_beside_another_fails(
        self, gemini: LocalGemini, client: httpx2.Client
    ) -> None:
        requests = [{"contents": QUESTION}] * 4
        first, second = job(client, *requests), job(client, *requests)
        other = job(client, *requests, model="gemini-2.5-pro")
        gemini.advance_clock(15)
        assert self.state(client, first) == ("BATCH_STATE_RUNNING", None)
        assert self.state(client, second) == ("BATCH_STATE_FAILED", 8)
        assert self.state(client, other) == ("BATCH_STATE_RUNNING", None)
        gemini.advance_clock(20)
        third = job(client, *requests)  # the first has ended
        gemini.advance_clock(15)
        assert self.state(client, third) == ("BATCH_STATE_RUNNING", None)

    def test_another_key_has_its_own(self, gemini: LocalGemini, client: httpx2.Client) -> None:
        requests = [{"contents": QUESTION}] * 4
        job(client, *requests)
        client.headers["x-goog-api-key"] = "another-key"
        name = job(client, *requests)
        gemini.advance_clock(15)
        assert self.state(client, name) == ("BATCH_STATE_RUNNING", None)

    def test_it_cannot_be_negative(self) -> None:
        with pytest.raises(ValueError, match="max_enqueued_tokens"):
            BatchConfig(max_enqueued_tokens=-1)
