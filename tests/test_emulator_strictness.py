"""What the service's reader of requests takes, and what it refuses."""

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_uploads.emulator import EmulatorConfig, LocalGemini
from provider_uploads.emulator.errors import ApiError
from provider_uploads.emulator.json_text import parse_json

KEY = {"x-goog-api-key": "a-key"}
MODEL = "gemini-2.5-flash"
GENERATE = f"/v1beta/models/{MODEL}:generateContent"


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(models=("gemini-next",))) as local:
        yield local


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, headers=KEY, timeout=10) as http_client:
        yield http_client


def generate(client: httpx2.Client, **body: Any) -> httpx2.Response:
    return client.post(GENERATE, json={"contents": [{"parts": [{"text": "hello"}]}]} | body)


def message_of(reply: httpx2.Response, status: int = 400) -> str:
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, status)
    message: str = error["message"]
    return message


# --- a little more than JSON ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"file": {"display_name": "TEXT"}}',
        "{'file': {'display_name': 'TEXT'}}",
        "{file: {display_name: 'TEXT',},}",
        "\n{ 'file' :\t{ \"display_name\" : 'TE\\x58T' } }".replace("\\x58", "\\u0058"),
        "\ufeff{'file': {'display_name': 'TEXT'}}",
    ],
)
def test_googles_own_recipes_are_taken(client: httpx2.Client, text: str) -> None:
    start = {"X-Goog-Upload-Command": "start", "X-Goog-Upload-Protocol": "resumable"}
    url = client.post("/upload/v1beta/files", headers=start, content=text.encode()).headers
    finish = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
    made = client.post(url["x-goog-upload-url"], headers=finish, content=b"hello").json()
    assert made["file"]["displayName"] == "TEXT"


def test_an_object_stands_for_a_list_of_one(client: httpx2.Client) -> None:
    reply = client.post(GENERATE, json={"contents": {"parts": {"text": "hello"}}})
    assert "text, 5 characters: hello" in reply.text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("['it\\'s', \"a \\\"b\\\"\", 'c\"d']", ["it's", 'a "b"', 'c"d']),
        ("['\\ud83d\\ude00', '\\n', 'a\nb']", ["\U0001f600", "\n", "a\nb"]),
        ("[1, -2.5e3, true, false, null, 'x',]", [1, -2500.0, True, False, None, "x"]),
        ("{}", {}),
        ("{'a': {}, b_1: [], $c: 'd'}", {"a": {}, "b_1": [], "$c": "d"}),
    ],
)
def test_the_lenient_reader(text: str, value: Any) -> None:
    assert parse_json(text.encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[", "'", "{a}", "{a:}", "{'a' 1}", "[1 2]", "[,]", "{,}", "tru", "undefined"),
        *("{} {}", "[1]x", "NaN", "[NaN]", "[Infinity]", "[-Infinity]", "[1e999]", "['\\x']"),
        *("['\\ud800']", '"\\ud800"', '{"\\udc00": 1}', "[+1]", "[.5]", "[" + "1" * 5000 + "]"),
        *("[" * 100_000, "{'a':" * 100_000, '{"a":' * 5000, "[" * 102 + "]" * 102),
        "[" * 500 + "]" * 500,
    ],
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_json(text.encode())
    assert caught.value.http_status == 400


def test_a_hundred_levels_are_taken_and_bad_utf_8_is_not() -> None:
    assert parse_json(b"[" * 100 + b"]" * 100)
    with pytest.raises(ApiError, match="Invalid UTF-8"):
        parse_json(b'{"a": "\xff"}')


@given(st.text(alphabet="{}[]'\":,\\ua0dntrefls 1-.eNI\n", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ApiError):
        parse_json(text.encode())


@pytest.mark.parametrize("path", [GENERATE, "/upload/v1beta/files", "/_emulator/faults"])
@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000])
def test_deep_nesting_is_refused_everywhere(client: httpx2.Client, path: str, body: bytes) -> None:
    reply = client.post(path, headers={"X-Goog-Upload-Command": "start"}, content=body)
    assert "Message too deep" in message_of(reply)


@pytest.mark.parametrize("where", ["start", "multipart"])
def test_half_a_surrogate_pair_is_refused_before_there_is_a_file(
    client: httpx2.Client, gemini: LocalGemini, where: str
) -> None:
    gemini.reset()
    described = b'{"file": {"display_name": "\\ud800"}}'
    headers = {"X-Goog-Upload-Command": "start"}
    if where == "multipart":
        headers = {
            "X-Goog-Upload-Protocol": "multipart",
            "Content-Type": "multipart/related; boundary=b",
        }
        described = b"--b\r\n\r\n" + described + b"\r\n--b\r\n\r\nhello\r\n--b--"
    reply = client.post("/upload/v1beta/files", headers=headers, content=described)
    assert "surrogate" in message_of(reply)
    assert client.get("/v1beta/files").json() == {}


# --- names and types -----------------------------------------------------------------------------


def test_every_unknown_name_is_told(client: httpx2.Client) -> None:
    reply = client.post(
        GENERATE,
        json={
            "contents": [{"role": "user", "parts": [{"text": "x", "txt": 1}]}],
            "generationConfig": {"temp": 1},
            "stream": True,
        },
    )
    what = [
        "Invalid JSON payload received. Unknown name \"txt\" at 'contents[0].parts[0]': "
        "Cannot find field.",
        "Invalid JSON payload received. Unknown name \"temp\" at 'generation_config': "
        "Cannot find field.",
        'Invalid JSON payload received. Unknown name "stream": Cannot find field.',
    ]
    assert message_of(reply) == "\n".join(what)
    assert reply.json()["error"]["details"] == [
        {
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [
                {"field": "contents[0].parts[0]", "description": what[0]},
                {"field": "generation_config", "description": what[1]},
                {"description": what[2]},
            ],
        }
    ]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (
            {"generationConfig": {"temperature": "warm"}},
            "Invalid value at 'generation_config.temperature' (TYPE_FLOAT), \"warm\"",
        ),
        (
            {"generationConfig": {"maxOutputTokens": 1.5}},
            "Invalid value at 'generation_config.max_output_tokens' (TYPE_INT32), 1.5",
        ),
        ({"generationConfig": {"maxOutputTokens": 2**31}}, "(TYPE_INT32)"),
        ({"generationConfig": {"topK": True}}, "(TYPE_FLOAT), true"),
        ({"generationConfig": {"responseLogprobs": "maybe"}}, '(TYPE_BOOL), "maybe"'),
        ({"generationConfig": {"temperature": 3}}, "must be in the range [0.0, 2.0]"),
        ({"generationConfig": []}, "Proto field is not repeating, cannot start list."),
        ({"generationConfig": {"temperature": [1]}}, "Proto field is not repeating"),
        ({"generationConfig": {"temperature": {}}}, "Starting an object on a scalar field"),
        ({"generation_Config": {}}, 'Unknown name "generation_Config"'),
        ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "valid role: user"),
        ({"safetySettings": [{"category": 1.5, "threshold": "OFF"}]}, "(TYPE_ENUM), 1.5"),
        (
            {"tools": [{"functionDeclarations": [{"args": {}}]}]},
            "tools[0].function_declarations[0]",
        ),
        ({"labels": {"a": 1}}, "Invalid value at 'labels[0].value' (TYPE_STRING), 1"),
        (
            {
                "tools": [
                    {"functionDeclarations": [{"parameters": {"properties": {"a": {"b": 1}}}}]}
                ]
            },
            "at 'tools[0].function_declarations[0].parameters.properties[0].value'",
        ),
    ],
)
def test_values_must_fit(client: httpx2.Client, body: dict[str, Any], complaint: str) -> None:
    assert complaint in message_of(generate(client, **body))


@pytest.mark.parametrize(
    "body",
    [
        {"generationConfig": {"temperature": "0.5", "topK": 40, "maxOutputTokens": "100"}},
        {"generation_config": {"stop_sequences": "x", "response_modalities": ["TEXT"]}},
        {"generationConfig": None, "tools": None},
        {"safety_settings": {"category": "HARM_CATEGORY_HARASSMENT", "threshold": 1}},
        {"systemInstruction": {"parts": {"text": "Be brief."}}},
        {"tools": [{"googleSearch": {}}, {"functionDeclarations": [{"name": "f"}]}]},
    ],
)
def test_what_fits_is_taken(client: httpx2.Client, body: dict[str, Any]) -> None:
    assert generate(client, **body).status_code == 200


def test_not_a_number_is_refused(client: httpx2.Client) -> None:
    body = b'{"contents": {"parts": {"text": "x"}}, "generationConfig": {"temperature": NaN}}'
    assert "NaN" in message_of(client.post(GENERATE, content=body))


@pytest.mark.parametrize("path", ["models/a/b", "models/models/a", "models//gemini-2.5-flash"])
def test_a_model_is_one_step_of_the_path(client: httpx2.Client, path: str) -> None:
    body = {"contents": {"parts": {"text": "x"}}}
    assert client.post(f"/v1beta/{path}:generateContent", json=body).status_code == 404


def test_models_may_be_configured(client: httpx2.Client) -> None:
    body = {"contents": {"parts": {"text": "x"}}}
    assert client.post("/v1/models/gemini-next:generateContent", json=body).status_code == 200
    assert client.post("/v1/models/gemini-later:generateContent", json=body).status_code == 404
