"""generateContent: what it states, what it checks, what it counts."""

import base64
import hashlib
import io
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import errors, types

from provider_uploads.emulator import EmulatorConfig, LocalGemini

KEY = {"x-goog-api-key": "a-key"}
MODEL = "gemini-3-flash-preview"


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(processing_s=60)) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, headers=KEY, timeout=10) as http_client:
        yield http_client


@pytest.fixture(scope="module")
def sdk(gemini: LocalGemini) -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=gemini.url, timeout=10_000)
    with genai.Client(vertexai=False, api_key="a-key", http_options=options) as made:
        yield made


def upload(
    client: httpx2.Client, data: bytes = b"hello", mime_type: str = "text/plain", **file: Any
) -> dict[str, Any]:
    headers = {"X-Goog-Upload-Command": "start"}
    body = {"file": {"mime_type": mime_type, **file}}
    start = client.post("/upload/v1/files", headers=headers, json=body)
    headers = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
    reply = client.post(start.headers["x-goog-upload-url"], headers=headers, content=data)
    made: dict[str, Any] = reply.json()["file"]
    return made


def ask(client: httpx2.Client, *parts: Any, model: str = MODEL, **body: Any) -> httpx2.Response:
    content = {"contents": [{"role": "user", "parts": list(parts)}], **body}
    return client.post(f"/v1beta/models/{model}:generateContent", json=content)


def file_part(uri: str, mime_type: str | None = None) -> dict[str, Any]:
    data = {"file_uri": uri} | ({} if mime_type is None else {"mime_type": mime_type})
    return {"fileData": data}


def text_of(reply: httpx2.Response) -> str:
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["candidates"][0]["content"]["parts"][0]["text"]
    return text


def refusal(reply: httpx2.Response) -> tuple[int, str, str]:
    error = reply.json()["error"]
    assert error["code"] == reply.status_code
    return reply.status_code, error["status"], error["message"]


# --- the answer ----------------------------------------------------------------------------------


def test_the_sdk_is_told_what_it_gave(sdk: genai.Client) -> None:
    file = sdk.files.upload(
        file=io.BytesIO(b"hello"),
        config={"mime_type": "text/plain", "display_name": "greeting", "name": "x1"},
    )
    answer = sdk.models.generate_content(model=MODEL, contents=["What is it?", file])
    assert answer.text == (
        f"This is a local Gemini without a model, asked as {MODEL}. It was given:\n"
        "1. text, 11 characters: What is it?\n"
        '2. file files/x1, called "greeting", text/plain, 5 bytes, sha256 2cf24dba5fb0'
    )
    assert answer.candidates is not None
    assert answer.candidates[0].finish_reason is types.FinishReason.STOP
    assert answer.model_version == MODEL
    usage = answer.usage_metadata
    assert usage is not None
    # 11 characters and 5 bytes: 3 and 2.
    assert usage.prompt_token_count == 5
    assert usage.candidates_token_count == -(-len(answer.text) // 4)
    assert usage.total_token_count == 5 + usage.candidates_token_count
    again = sdk.models.generate_content(model=f"models/{MODEL}", contents=["What is it?", file])
    assert (again.text, again.response_id) == (answer.text, answer.response_id)
    other = sdk.models.generate_content(model=MODEL, contents=["Why is it?", file])
    assert other.response_id != answer.response_id


def test_many_files_and_one_question(sdk: genai.Client) -> None:
    contents: list[Any] = ["Which of these is the largest?"]
    for number in range(3):
        path = f"src/m{number}.py"
        config = types.UploadFileConfig(mime_type="text/x-python", display_name=path)
        file = sdk.files.upload(file=io.BytesIO(b"#" * number), config=config)
        contents += [f"<<<File: {path}>>>", file]
    text = sdk.models.generate_content(model=MODEL, contents=contents).text
    assert text is not None
    lines = text.splitlines()
    assert len(lines) == 1 + 7
    assert all(
        f'called "src/m{n}.py", text/x-python, {n} bytes' in lines[3 + 2 * n] for n in (0, 2)
    )


def test_instructions_turns_and_inline_data(client: httpx2.Client) -> None:
    png = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(b"abc").decode()}}
    reply = ask(client, {"text": "look"}, png, systemInstruction={"parts": [{"text": "be brief"}]})
    sha256 = hashlib.sha256(b"abc").hexdigest()[:12]
    assert text_of(reply).splitlines()[1:] == [
        "1. system instruction, 8 characters: be brief",
        "2. text, 4 characters: look",
        f"3. inline data, image/png, 3 bytes, sha256 {sha256}",
    ]
    turns = [{"role": role, "parts": {"text": role}} for role in ("user", "model", "user")]
    body = {"contents": turns}
    reply = client.post(f"/v1/models/{MODEL}:generateContent", json=body)
    assert len(text_of(reply).splitlines()) == 4


def test_both_spellings_of_every_key(client: httpx2.Client) -> None:
    uri = upload(client, name="files/x1")["uri"]
    camel = ask(
        client,
        {"fileData": {"fileUri": uri, "mimeType": "text/plain"}},
        {"inlineData": {"mimeType": "text/plain", "data": "aGk"}},
        systemInstruction={"parts": [{"text": "s"}]},
        generationConfig={"responseMimeType": "application/json"},
    )
    snake = ask(
        client,
        {"file_data": {"file_uri": uri, "mime_type": "text/plain"}},
        {"inline_data": {"mime_type": "text/plain", "data": "aGk="}},
        system_instruction={"parts": [{"text": "s"}]},
        generation_config={"response_mime_type": "application/json"},
    )
    assert text_of(camel) == text_of(snake)


def test_who_wants_json_gets_json(sdk: genai.Client) -> None:
    config = types.GenerateContentConfig(response_mime_type="application/json")
    answer = sdk.models.generate_content(model=MODEL, contents="ü?", config=config)
    response = httpx2.Response(200, text=answer.text)
    assert response.json() == {
        "local_gemini": "no model",
        "asked_as": MODEL,
        "given": [{"kind": "text", "text": "ü?"}],
    }


def test_long_texts_are_cut_and_other_parts_are_named(client: httpx2.Client) -> None:
    call = {"functionResponse": {"name": "f", "response": {}}}
    lines = text_of(ask(client, {"text": "x" * 5000}, call)).splitlines()
    assert lines[1] == f"1. text, 5000 characters: {'x' * 1000} …"
    assert "functionResponse" in lines[2]


@pytest.mark.parametrize(
    ("mime_type", "size_bytes", "modality", "tokens"),
    [
        ("text/plain", 10, "TEXT", 3),
        ("application/json", 8, "TEXT", 2),
        ("image/jpeg", 10, "IMAGE", 258),
        ("audio/mpeg", 32_000, "AUDIO", 64),
        ("video/mp4", 250_000, "VIDEO", 526),
        ("application/pdf", 60_000, "DOCUMENT", 516),
    ],
)
def test_tokens_follow_the_documented_rules(
    client: httpx2.Client, mime_type: str, size_bytes: int, modality: str, tokens: int
) -> None:
    data = base64.b64encode(b"x" * size_bytes).decode()
    reply = ask(client, {"inlineData": {"mimeType": mime_type, "data": data}})
    usage = reply.json()["usageMetadata"]
    assert usage["promptTokensDetails"] == [{"modality": modality, "tokenCount": tokens}]
    assert usage["promptTokenCount"] == tokens


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base",
    [
        "https://generativelanguage.googleapis.com/v1beta",
        "https://generativelanguage.googleapis.com/v1",
        "http://another-name:8123/v1beta",
        "https://proxy.example/gemini/v1alpha",
        "http://127.0.0.1",
    ],
)
def test_a_file_is_known_by_any_uri(client: httpx2.Client, base: str) -> None:
    upload(client, name="files/x-1")
    assert "files/x-1" in text_of(ask(client, file_part(f"{base}/files/x-1", "text/plain")))
    assert "text/plain" in text_of(ask(client, file_part(f"{base}/files/x-1")))


@pytest.mark.parametrize("uri", ["files/x1", "x1", "", "http://h/a.png", "ftp://h/files/x1"])
def test_other_uris_are_refused(client: httpx2.Client, uri: str) -> None:
    upload(client, name="files/x1")
    assert refusal(ask(client, file_part(uri)))[:2] == (400, "INVALID_ARGUMENT")


def test_missing_deleted_expired_and_others_files_are_forbidden(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    parts = [file_part(upload(client, name=f"files/{name}")["uri"]) for name in ("x1", "x2")]
    other = client.post(
        f"/v1/models/{MODEL}:generateContent",
        headers={"x-goog-api-key": "other"},
        json={"contents": [{"parts": [parts[0]]}]},
    )
    client.delete("/v1/files/x2")
    missing = ask(client, file_part(f"{gemini.url}/v1beta/files/none"))
    for reply in (other, missing, ask(client, parts[1])):
        assert refusal(reply)[:2] == (403, "PERMISSION_DENIED")
        assert "or it may not exist" in refusal(reply)[2]


def test_expired_files_are_forbidden() -> None:
    with LocalGemini() as gemini, httpx2.Client(base_url=gemini.url, headers=KEY) as client:
        part = file_part(upload(client)["uri"])
        gemini.advance_clock(48 * 3600 - 60)
        assert ask(client, part).status_code == 200
        gemini.advance_clock(60)
        assert refusal(ask(client, part))[:2] == (403, "PERMISSION_DENIED")


def test_a_file_that_is_not_active_is_a_failed_precondition(
    client: httpx2.Client, gemini: LocalGemini, sdk: genai.Client
) -> None:
    gemini.order_fault("upload", "file_failed", nth=2)
    for name in ("processing", "failed"):
        upload(client, mime_type="video/mp4", name=f"files/{name}")
        with pytest.raises(errors.ClientError, match="not in an ACTIVE state") as early:
            sdk.models.generate_content(model=MODEL, contents=sdk.files.get(name=name))
        assert (early.value.code, early.value.status) == (400, "FAILED_PRECONDITION")


@pytest.mark.parametrize(
    "mime_type",
    ["application/zip", "application/octet-stream", "text/vnd.trolltech.linguist", "image/tiff"],
)
def test_types_no_model_reads_are_refused_here_and_not_before(
    client: httpx2.Client, mime_type: str
) -> None:
    file = upload(client, mime_type=mime_type)
    inline = {"inlineData": {"mimeType": mime_type, "data": ""}}
    for part in (file_part(file["uri"]), file_part(file["uri"], mime_type), inline):
        code, status, message = refusal(ask(client, part))
        assert (code, status) == (400, "INVALID_ARGUMENT")
        assert message == f"Unsupported MIME type: {mime_type}"


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gpt-4o", "text-bison", "gemini-9", "gemini-embedding-001"])
def test_an_unknown_model_is_not_found(client: httpx2.Client, model: str) -> None:
    code, status, message = refusal(ask(client, {"text": "x"}, model=model))
    assert (code, status) == (404, "NOT_FOUND")
    assert f"models/{model} is not found" in message


@pytest.mark.parametrize("path", ["/v1", "/v1beta", "/v1alpha", ""])
def test_every_version_generates(client: httpx2.Client, path: str) -> None:
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    url = f"{path}/models/{MODEL}:generateContent"
    assert client.post(url, json=body).json()["modelVersion"] == MODEL


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({}, "contents is not specified"),
        ({"contents": []}, "contents is not specified"),
        ({"contents": "hello"}, "Invalid value at 'contents[0]'"),
        ({"contents": ["hello"]}, "Invalid value at 'contents[0]'"),
        ({"contents": [{"parts": []}]}, "must not be empty"),
        ({"contents": [{"parts": [{}]}]}, "contents[0].parts[0].data"),
        ({"contents": [{"parts": ["x"]}]}, "Invalid value at 'contents[0].parts[0]'"),
        (
            {"contents": [{"parts": [{"text": 1}]}]},
            "Invalid value at 'contents[0].parts[0].text' (TYPE_STRING), 1",
        ),
        ({"contents": [{"parts": [{"text": "x", "inlineData": {}}]}]}, "is already set"),
        ({"contents": [{"parts": [{"fileData": {}}]}]}, "parts[0].file_data.file_uri"),
        ({"contents": [{"parts": [{"inlineData": {"data": "x"}}]}]}, "must have mime_type"),
        (
            {"contents": [{"parts": [{"inlineData": {"mimeType": "text/plain", "data": "?"}}]}]},
            "Base64 decoding failed",
        ),
        ([], "must be a message"),
    ],
)
def test_nonsense_is_refused(client: httpx2.Client, body: Any, complaint: str) -> None:
    reply = client.post(f"/v1/models/{MODEL}:generateContent", json=body)
    assert refusal(reply)[:2] == (400, "INVALID_ARGUMENT")
    assert complaint in refusal(reply)[2]


@pytest.mark.slow
def test_more_than_100_mib_inline_is_refused(client: httpx2.Client) -> None:
    assert ask(client, {"text": "x" * (21 * 1024**2)}).status_code == 200
    url = f"/v1/models/{MODEL}:generateContent"
    code, status, message = refusal(client.post(url, content=bytes(100 * 1024**2 + 1)))
    assert (code, status) == (400, "INVALID_ARGUMENT")
    assert "exceeds the limit: 104857600 bytes" in message


@pytest.mark.slow
def test_a_pdf_may_have_50_mib_inline(gemini: LocalGemini) -> None:
    def inline(size_bytes: int, mime_type: str) -> httpx2.Response:
        data = base64.b64encode(bytes(size_bytes)).decode()
        with httpx2.Client(base_url=gemini.url, headers=KEY, timeout=60) as client:
            return ask(client, {"inlineData": {"mimeType": mime_type, "data": data}})

    limit = 50 * 1024**2
    assert f"application/pdf, {limit} bytes" in text_of(inline(limit, "application/pdf"))
    assert "a PDF may have 52428800 bytes" in refusal(inline(limit + 1, "application/pdf"))[2]
    assert "video/mp4" in text_of(inline(limit + 1, "video/mp4"))


@pytest.mark.parametrize(
    ("uri", "mime_type", "said"),
    [
        ("https://youtu.be/abc", None, "video https://youtu.be/abc, video/mp4, bytes not here"),
        ("https://www.youtube.com/watch?v=abc", None, "video https://www.youtube.com/watch?v=abc"),
        ("https://h.test/a/b.pdf?sig=1", None, "URL https://h.test/a/b.pdf?sig=1, application/pdf"),
        ("https://h.test/a", "image/png", "URL https://h.test/a, image/png, bytes not here"),
        ("https://h.test/files/x1", "image/png", "URL https://h.test/files/x1, image/png"),
    ],
)
def test_what_the_service_would_fetch_is_named(
    client: httpx2.Client, uri: str, mime_type: str | None, said: str
) -> None:
    assert said in text_of(ask(client, file_part(uri, mime_type)))


def test_a_key_is_needed_and_may_stand_in_the_query(gemini: LocalGemini) -> None:
    url = f"{gemini.url}/v1/models/{MODEL}:generateContent"
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    assert refusal(httpx2.post(url, json=body))[:2] == (403, "PERMISSION_DENIED")
    assert httpx2.post(f"{url}?key=k", json=body).status_code == 200


def test_it_is_counted_and_faults_can_be_aimed(client: httpx2.Client, gemini: LocalGemini) -> None:
    part = file_part(upload(client, name="files/x1", display_name="clip")["uri"])
    gemini.order_fault("generate", "internal", match="clip")
    gemini.order_fault("generate", "rate_limited", match="gemini-2.5", retry_delay_s=3)
    assert ask(client, {"text": "x"}).status_code == 200
    assert ask(client, part).status_code == 500
    limited = ask(client, part, model="gemini-2.5-pro")
    assert limited.status_code == 429
    assert limited.json()["error"]["details"][2]["retryDelay"] == "3s"
    assert gemini.counters()["operations"]["generate"] == {
        "requests": 3,
        "by_status": {"200": 1, "429": 1, "500": 1},
    }
