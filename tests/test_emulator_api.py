"""The API beyond files: every call with google-genai, every answer against its types."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import types

from provider_uploads.emulator import EmulatorConfig, LocalGemini
from tests import emulator_walk

KEY = {"x-goog-api-key": "a-key"}
MODEL = "gemini-2.5-flash"
START = 1_750_000_000 * 10**9


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(processing_s=0.1)) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, headers=KEY, timeout=10) as http_client:
        yield http_client


def upload(client: httpx2.Client, data: bytes = b"hello " * 2000) -> dict[str, Any]:
    made: dict[str, Any] = client.post(
        "/upload/v1beta/files", headers={"Content-Type": "text/plain"}, content=data
    ).json()["file"]
    return made


def file_part(file: dict[str, Any]) -> dict[str, Any]:
    return {"fileData": {"fileUri": file["uri"], "mimeType": file["mimeType"]}}


def prompt(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": list(parts)}], **more}


def post(client: httpx2.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = client.post(f"/v1beta/{path}", json=body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def refused(reply: httpx2.Response) -> tuple[int, str]:
    error = reply.json()["error"]
    assert error["code"] == reply.status_code
    return reply.status_code, error["message"]


# --- every call ----------------------------------------------------------------------------------


def test_every_call_of_the_sdk(gemini: LocalGemini) -> None:
    options = types.HttpOptions(base_url=gemini.url)
    with genai.Client(vertexai=False, api_key="a-key", http_options=options) as sdk:
        asyncio.run(emulator_walk.walk(sdk, "sync"))


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession")
def test_every_call_of_the_async_sdk(gemini: LocalGemini) -> None:
    async def walk() -> None:
        options = types.HttpOptions(base_url=gemini.url)
        async with genai.Client(vertexai=False, api_key="a-key", http_options=options).aio as sdk:
            await emulator_walk.walk(sdk, "async")

    asyncio.run(walk())


# What the service answers and the SDK's types have no field for.
MORE = {
    types.CountTokensResponse: {"promptTokensDetails", "cacheTokensDetails"},
    types.Model: {"supportedGenerationMethods"},
}


def test_every_answer_fits_the_sdks_types(client: httpx2.Client) -> None:
    """With extra fields forbidden, as the SDK's own models have it."""
    assert types.File.model_config["extra"] == "forbid"

    def fits(kind: Any, answer: dict[str, Any]) -> None:
        known = {name: v for name, v in answer.items() if name not in MORE.get(kind, set())}
        kind.model_validate({name: v for name, v in known.items() if name != "@type"})

    file = upload(client)
    fits(types.File, file)
    for listed in client.get("/v1beta/files").json()["files"]:
        fits(types.File, listed)
    for model in client.get("/v1beta/models").json()["models"]:
        fits(types.Model, model)
    said = post(client, f"models/{MODEL}:generateContent", prompt(file_part(file)))
    fits(types.GenerateContentResponse, said)
    stream = client.post(
        f"/v1beta/models/{MODEL}:streamGenerateContent", json=prompt(file_part(file))
    )
    for chunk in stream.json():
        fits(types.GenerateContentResponse, chunk)
    counted = post(client, f"models/{MODEL}:countTokens", prompt(file_part(file)))
    fits(types.CountTokensResponse, counted)
    content = {"parts": [{"text": "a"}]}
    one = post(client, "models/gemini-embedding-001:embedContent", {"content": content})
    fits(types.ContentEmbedding, one["embedding"])
    cached = {"model": f"models/{MODEL}", **prompt(file_part(file))}
    fits(types.CachedContent, post(client, "cachedContents", cached))
    store = post(client, "fileSearchStores", {"displayName": "s"})
    operation = post(client, f"{store['name']}:importFile", {"fileName": file["name"]})
    until_s = time.monotonic() + 10
    while not operation.get("done"):
        fits(types.ImportFileOperation, operation)
        assert time.monotonic() < until_s
        operation = client.get(f"/v1beta/{operation['name']}").json()
    fits(types.ImportFileResponse, {k: v for k, v in operation["response"].items() if k != "@type"})
    fits(types.FileSearchStore, client.get(f"/v1beta/{store['name']}").json())
    for document in client.get(f"/v1beta/{store['name']}/documents").json()["documents"]:
        fits(types.Document, document)


# --- streams and counts --------------------------------------------------------------------------


def test_a_stream_is_events_or_an_array(client: httpx2.Client) -> None:
    path = f"/v1beta/models/{MODEL}:streamGenerateContent"
    body = prompt({"text": "a\nb"})
    whole = post(client, f"models/{MODEL}:generateContent", body)
    array = client.post(path, json=body)
    events = client.post(f"{path}?alt=sse", json=body)
    assert events.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in events.headers
    chunks = [json.loads(line[6:]) for line in events.text.splitlines() if line]
    assert array.json() == chunks
    pieces = [chunk["candidates"][0]["content"]["parts"][0]["text"] for chunk in chunks]
    assert "".join(pieces) == whole["candidates"][0]["content"]["parts"][0]["text"]
    assert [c["candidates"][0].get("finishReason") for c in chunks] == [None] * 2 + ["STOP"]
    assert chunks[-1]["usageMetadata"] == whole["usageMetadata"]


def test_an_error_of_a_stream_is_a_list_without_sse(client: httpx2.Client) -> None:
    path = "/v1beta/models/gemini-9:streamGenerateContent"
    body = prompt({"text": "a"})
    assert client.post(path, json=body).json()[0]["error"]["code"] == 404
    assert client.post(f"{path}?alt=sse", json=body).json()["error"]["code"] == 404


def test_a_stream_may_be_cut(client: httpx2.Client, gemini: LocalGemini) -> None:
    path = f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"
    whole = client.post(path, json=prompt({"text": "a"})).content
    gemini.order_fault("generate", "bad_json")
    cut = client.post(path, json=prompt({"text": "a"})).content
    assert (0 < len(cut) < len(whole), whole.startswith(cut)) == (True, True)


def test_tokens_of_a_whole_request(client: httpx2.Client) -> None:
    request = prompt({"text": "12345678"}, systemInstruction={"parts": [{"text": "1234"}]})
    path = f"models/{MODEL}:countTokens"
    assert post(client, path, {"generateContentRequest": request})["totalTokens"] == 3
    assert post(client, path, prompt({"text": "12345678"}))["totalTokens"] == 2
    for body in ({}, {"generateContentRequest": request, **prompt({"text": "x"})}):
        assert client.post(f"/v1beta/{path}", json=body).status_code == 400


# --- models and embeddings -----------------------------------------------------------------------


def test_models_in_pages(client: httpx2.Client) -> None:
    names, token = [], ""
    while True:
        page = client.get(f"/v1beta/models?pageSize=5&pageToken={token}").json()
        names += [model["name"] for model in page["models"]]
        if not (token := page.get("nextPageToken", "")):
            break
    assert names == [model["name"] for model in client.get("/v1/models").json()["models"]]
    assert refused(client.get("/v1/models/gemini-9"))[0] == 404
    for query in ("pageSize=x", "pageSize=-1", "pageToken=x"):
        assert client.get(f"/v1/models?{query}").status_code == 400


def vector(client: httpx2.Client, *parts: dict[str, Any], **more: Any) -> list[float]:
    body = {"content": {"parts": list(parts)}, **more}
    answer = post(client, "models/gemini-embedding-001:embedContent", body)
    values: list[float] = answer["embedding"]["values"]
    return values


def test_texts_that_share_words_are_near(client: httpx2.Client) -> None:
    cat, again, dog, other = (
        vector(client, {"text": text})
        for text in ("the cat sat here", "The cat sat here!", "the dog sat here", "xyz uvw")
    )

    def near(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert len(cat) == 3072
    assert cat == again
    assert near(cat, cat) == pytest.approx(1, abs=1e-4)
    assert near(cat, cat) > near(cat, dog) > 0.5 > abs(near(cat, other))


def test_files_have_vectors_too(client: httpx2.Client) -> None:
    one, other = upload(client, b"one"), upload(client, b"other")
    first = vector(client, file_part(one), outputDimensionality=8)
    assert first == vector(client, file_part(one), outputDimensionality=8)
    assert (len(first), first != vector(client, file_part(other), outputDimensionality=8)) == (
        8,
        True,
    )


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"content": {"parts": []}},
        {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 0},
        {"content": {"parts": [{"text": "a"}]}, "model": "models/other"},
    ],
)
def test_what_cannot_be_embedded(client: httpx2.Client, body: dict[str, Any]) -> None:
    path = "/v1beta/models/gemini-embedding-001"
    assert client.post(f"{path}:embedContent", json=body).status_code == 400
    assert client.post(f"{path}:batchEmbedContents", json={"requests": [body]}).status_code == 400
    assert client.post(f"{path}:batchEmbedContents", json={}).status_code == 400


# --- cached contents -----------------------------------------------------------------------------


def create_cache(client: httpx2.Client, **more: Any) -> httpx2.Response:
    body = {"model": f"models/{MODEL}", **prompt({"text": "word " * 2000}), **more}
    return client.post("/v1beta/cachedContents", json=body)


def use(client: httpx2.Client, name: str, model: str = MODEL, **more: Any) -> httpx2.Response:
    body = prompt({"text": "Well?"}, cachedContent=name, **more)
    return client.post(f"/v1beta/models/{model}:generateContent", json=body)


def test_a_cache_outlives_its_file_and_then_expires() -> None:
    with (
        LocalGemini(clock=lambda: START) as gemini,
        httpx2.Client(base_url=gemini.url, headers=KEY) as client,
    ):
        file = upload(client)
        made = create_cache(client, **prompt(file_part(file)), ttl="60s").json()
        assert made["createTime"] == "2025-06-15T15:06:40.000000Z"
        assert made["expireTime"] == "2025-06-15T15:07:40.000000000Z"
        client.delete(f"/v1beta/{file['name']}")
        assert file["name"] in use(client, made["name"]).text
        gemini.advance_clock(60)
        assert refused(use(client, made["name"])) == (
            403,
            "CachedContent not found (or permission denied)",
        )
        assert client.get("/v1beta/cachedContents").json() == {}


def test_caches_and_their_refusals(client: httpx2.Client) -> None:
    name = create_cache(client).json()["name"]
    assert refused(use(client, "cachedContents/none"))[0] == 403
    assert refused(use(client, name, "gemini-2.5-pro"))[1].endswith("has to be the same.")
    instructed = use(client, name, systemInstruction={"parts": [{"text": "x"}]})
    assert "can not be used with" in refused(instructed)[1]
    small = create_cache(client, **prompt({"text": "x" * 400}))
    assert refused(small)[1] == (
        "Cached content is too small. total_token_count=100, min_total_token_count=1024"
    )
    for more in (
        {"ttl": "0s"},
        {"ttl": "-5s"},
        {"ttl": "5"},
        {"expireTime": "2001-01-01T00:00:00Z"},
        {"expireTime": "2030-02-30T00:00:00Z"},
        {"model": None},
    ):
        assert create_cache(client, **more).status_code == 400, more
    url = f"/v1beta/{name}"
    assert client.patch(url, json={"displayName": "x"}).status_code == 400
    assert client.patch(f"{url}?updateMask=displayName", json={"ttl": "5s"}).status_code == 400
    assert client.patch(f"{url}?updateMask=ttl", json={"ttl": "5s"}).status_code == 200
    with httpx2.Client(base_url=client.base_url, headers={"x-goog-api-key": "other"}) as other:
        assert (other.get(url).status_code, other.delete(url).status_code) == (403, 403)
    assert client.delete(url).json() == {}
    assert client.delete(url).status_code == 403


def test_a_cache_may_be_small_if_so_configured() -> None:
    with (
        LocalGemini(EmulatorConfig(min_cache_tokens=0)) as gemini,
        httpx2.Client(base_url=gemini.url, headers=KEY) as client,
    ):
        assert create_cache(client, **prompt({"text": "x"})).status_code == 200


# --- file search stores --------------------------------------------------------------------------


def test_a_document_is_pending_and_may_fail(gemini: LocalGemini, client: httpx2.Client) -> None:
    store = post(client, "fileSearchStores", {"displayName": "My Store!"})
    assert store["name"].startswith("fileSearchStores/my-store-")
    path = f"/upload/v1beta/{store['name']}:uploadToFileSearchStore"
    gemini.order_fault("upload", "file_stuck")
    begun = client.post(path, headers={"Content-Type": "text/plain"}, content=b"hello").json()
    assert begun.keys() == {"name"}
    assert begun["name"].startswith(f"{store['name']}/upload/operations/")
    assert client.get(f"/v1beta/{store['name']}").json()["pendingDocumentsCount"] == "1"
    gemini.clear_faults()
    gemini.order_fault("upload", "file_failed")
    failed = client.post(path, content=b"hello").json()
    gemini.advance_clock(1)
    operation = client.get(f"/v1beta/{failed['name']}").json()
    assert (operation["done"], operation["error"]["code"]) == (True, 13)
    counts = client.get(f"/v1beta/{store['name']}").json()
    assert (counts["failedDocumentsCount"], counts["pendingDocumentsCount"]) == ("1", "1")
    assert client.get("/v1beta/files").json() == {}  # documents are no files


def test_a_multipart_upload_to_a_store(client: httpx2.Client) -> None:
    store = post(client, "fileSearchStores", {})
    body = (
        b'--b\r\nContent-Type: application/json\r\n\r\n{"displayName": "d"}\r\n'
        b"--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b--"
    )
    headers = {
        "X-Goog-Upload-Protocol": "multipart",
        "Content-Type": "multipart/related; boundary=b",
    }
    path = f"/upload/v1beta/{store['name']}:uploadToFileSearchStore"
    assert client.post(path, headers=headers, content=body).status_code == 200
    (document,) = client.get(f"/v1beta/{store['name']}/documents").json()["documents"]
    assert (document["displayName"], document["mimeType"], document["sizeBytes"]) == (
        "d",
        "text/plain",
        "5",
    )


def test_refusals_of_stores(client: httpx2.Client, gemini: LocalGemini) -> None:
    store = post(client, "fileSearchStores", {})["name"]
    file = upload(client)
    base = f"/v1beta/{store}"
    start = {"X-Goog-Upload-Command": "start"}
    for reply in (
        client.get("/v1beta/fileSearchStores/none"),
        client.post("/v1beta/fileSearchStores/none:importFile", json={"fileName": file["name"]}),
        client.post(f"{base}:importFile", json={"fileName": "files/none"}),
        client.post("/upload/v1beta/fileSearchStores/none:uploadToFileSearchStore", headers=start),
        client.get(f"{base}/documents/none"),
        client.get(f"{base}/operations/none"),
        use_store(client, "fileSearchStores/none"),
    ):
        assert refused(reply)[0] == 403
    headers = {**start, "X-Goog-Upload-Header-Content-Length": str(101 * 1024**2)}
    path = f"/upload{base}:uploadToFileSearchStore"
    assert "larger than" in refused(client.post(path, headers=headers, json={}))[1]
    assert client.post(path, headers=start, json={"file": {}}).status_code == 400
    wrong = {"embeddingModel": f"models/{MODEL}"}
    assert client.post("/v1beta/fileSearchStores", json=wrong).status_code == 400
    post(client, f"{store}:importFile", {"fileName": file["name"]})
    gemini.advance_clock(1)
    assert refused(client.delete(base))[1] == "Cannot delete non-empty FileSearchStore."
    (document,) = client.get(f"{base}/documents").json()["documents"]
    assert "non-empty Document" in refused(client.delete(f"/v1beta/{document['name']}"))[1]
    assert client.delete(f"/v1beta/{document['name']}?force=true").json() == {}
    assert client.delete(base).json() == {}


def use_store(client: httpx2.Client, store: str) -> httpx2.Response:
    body = prompt({"text": "x"}, tools=[{"fileSearch": {"fileSearchStoreNames": [store]}}])
    return client.post(f"/v1beta/models/{MODEL}:generateContent", json=body)


# --- ten thousand files --------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_thousand_files_are_listed_in_pages(client: httpx2.Client, gemini: LocalGemini) -> None:
    uris = [f"gs://bucket/{n}.txt" for n in range(10_000)]
    bearer = {"Authorization": "Bearer token", "x-goog-api-key": "a-key"}
    client.post("/v1beta/files:register", headers=bearer, json={"uris": uris})
    names: list[str] = []
    times_s: list[float] = []
    token = ""
    while True:
        begun_s = time.process_time()  # ours and the server's; others use this machine too
        page = client.get(f"/v1beta/files?pageSize=100&pageToken={token}").json()
        times_s.append(time.process_time() - begun_s)
        names += [file["name"] for file in page["files"]]
        if not (token := page.get("nextPageToken", "")):
            break
    assert (len(times_s), len(set(names))) == (100, 10_000)
    assert max(times_s) < 0.05
