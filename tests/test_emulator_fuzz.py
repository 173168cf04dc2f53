"""Any request at any path of the discovery document: no 500, no lost connection, memory flat."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from provider_uploads.emulator import request_types
from provider_uploads.emulator.messages import MapOf, Message, Repeated, Scalar, camel_case
from provider_uploads.emulator.methods import METHODS
from tests.nodes import ROOT, Process, free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROUND_REQUESTS = 300
FLAT_BYTES = 24 * 1024**2

MESSAGES = [value for value in vars(request_types).values() if isinstance(value, Message)]
NAMES = ["x1", "none", "gemini-2.5-flash", "gemini-embedding-001", "a b", "ü", "..", "%2f", "x:y"]
URIS = [
    *("files/x1", "https://generativelanguage.googleapis.com/v1beta/files/x1", "gs://b/o", "5s"),
    *("https://youtu.be/x", "models/gemini-2.5-flash", "cachedContents/x", "fileSearchStores/x"),
    *("2030-01-01T00:00:00Z", "text/plain", "aGVsbG8=", "user"),
]

scalars = st.one_of(
    st.sampled_from(URIS),
    st.text(max_size=8),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.booleans(),
    st.none(),
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def value_of(kind: Any, depth: int) -> st.SearchStrategy[Any]:
    """What may stand in a field: mostly what belongs there."""
    if depth > 5:
        return scalars
    if isinstance(kind, Message):
        right = body_of(kind, depth + 1)
    elif isinstance(kind, Repeated):
        right = st.lists(value_of(kind._kind, depth + 1), max_size=2)
    elif isinstance(kind, MapOf):
        right = st.dictionaries(st.text(max_size=4), value_of(kind._kind, depth + 1), max_size=2)
    elif isinstance(kind, Scalar):
        right = scalars
    else:
        right = anything
    return st.one_of(right, right, right, anything)


def body_of(message: Message, depth: int = 0) -> st.SearchStrategy[Any]:
    """An object with some of a message's fields."""
    names = list(message.fields)
    field = st.sampled_from(names).flatmap(
        lambda name: st.tuples(
            st.sampled_from([name, camel_case(name)]), value_of(message.fields[name], depth)
        )
    )
    return st.lists(field, max_size=4).map(dict)


bodies = st.one_of(
    st.sampled_from(MESSAGES).flatmap(body_of).map(lambda body: json.dumps(body).encode()),
    st.text(alphabet="{}[]'\":,ab1\\ud8 ", max_size=30).map(str.encode),
    st.binary(max_size=64),
    st.just(b""),
)
SERVED = ("cachedContents", "fileSearchStores", "files", "media", "models")
PATHS = [
    *[(method.verb, f"/v1beta/{method.path}") for method in METHODS],
    *[(method.verb, f"/v1beta/{method.path}") for method in METHODS
      if method.name.startswith(SERVED)] * 4,
    *[(verb, f"{front}/v1beta/files") for front in ("/upload", "/resumable/upload")
      for verb in ("POST", "PUT", "DELETE")],
    ("POST", "/upload/v1beta/fileSearchStores/*:uploadToFileSearchStore"),
    ("GET", "/v1beta/files/*:download"),
    ("GET", "/download/v1beta/files/*:download"),
    ("POST", "/genai/upload/v1beta/files"),
    ("POST", "/genai/v1beta/models/*:generateContent"),
    ("POST", "/v1beta/openai/chat/completions"),
    ("POST", "/v1beta/openai/embeddings"),
    *[(verb, "/v1beta/openai/files") for verb in ("GET", "POST")],
    *[(verb, "/v1beta/openai/files/*") for verb in ("GET", "DELETE")],
    ("POST", "/_emulator/clock"),
    ("POST", "/_emulator/generated"),
]  # fmt: skip
CHOICES = {
    "X-Goog-Upload-Command": ["start", "upload", "upload, finalize", "finalize", "query", "cancel"],
    "X-Goog-Upload-Protocol": ["resumable", "raw", "multipart", "x"],
    "X-Goog-Upload-Offset": ["0", "5", "-1", "x", "9" * 30],
    "X-Goog-Upload-Header-Content-Length": ["0", "5", "x", "9" * 30],
    "X-Goog-Upload-Header-Content-Type": ["text/plain", "video/mp4", "x"],
    "Content-Type": ["application/json", "multipart/related; boundary=b", "text/plain", "é"],
    "Content-Range": ["bytes 0-4/5", "bytes */5", "bytes 0-0/*", "x"],
    "X-Goog-Upload-File-Name": ["a.txt", "é"],
    "Authorization": ["Bearer k", "Bearer", "Basic x"],
}
QUERIES = {
    "pageSize": ["1", "0", "-1", "x", "9" * 30],
    "pageToken": ["x", "ZnJvbTo1", "YmVmb3JlOjU", "é"],
    "uploadType": ["media", "multipart", "resumable", "x"],
    "upload_id": ["x", ""],
    "alt": ["sse", "media"],
    "force": ["true", "x"],
    "updateMask": ["ttl", "x,y", ""],
    "display_name": ["d", "\ud7ff", ""],
    "mime_type": ["text/plain", "x"],
    "name": ["files/g", "x"],
    "limit": ["1", "x"],
}


def some(choices: dict[str, list[str]], most: int) -> st.SearchStrategy[dict[str, str]]:
    """Some of the names, each with one of its values."""
    one = st.sampled_from(sorted(choices)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(choices[name]))
    )
    return st.lists(one, max_size=most).map(dict)


requests = st.fixed_dictionaries(
    {
        "call": st.sampled_from(PATHS),
        "names": st.lists(st.sampled_from(NAMES), min_size=3, max_size=3),
        "headers": some(CHOICES, 4),
        "params": some(QUERIES, 2),
        "content": bodies,
    }
)


def broken(reply: httpx2.Response) -> bool:
    """A 500 that nobody meant; the gateway has some that it does mean, as Bifrost has."""
    return reply.status_code >= 500 and "An internal error has occurred" in reply.text


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[tuple[psutil.Process, httpx2.Client]]:
    """A local Gemini in a process of its own, and a client."""
    port = free_port()
    argv = [sys.executable, "-m", "provider_uploads", "emulator", "--port", str(port)]
    node = Process(argv, name="emulator", folder=tmp_path, env={}, cwd=ROOT)
    key = {"x-goog-api-key": "k"}
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=key, timeout=30) as client:
        wait_until(lambda: b"control at" in node.logs(), "the emulator")
        yield psutil.Process(node.process.pid), client
    node.kill()
    node.process.wait()


def test_any_request_is_answered(
    emulator: tuple[psutil.Process, httpx2.Client], pytestconfig: pytest.Config
) -> None:
    process, client = emulator
    for_s = 120 if pytestconfig.getoption("--fuzz") else 6
    seen: Counter[int] = Counter()
    live: list[str] = []  # session URLs and names of what was made

    @settings(
        max_examples=ROUND_REQUESTS,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(requests, min_size=1, max_size=4))
    def one_round(calls: list[dict[str, Any]]) -> None:
        for call in calls:
            verb, path = call["call"]
            for name in call["names"]:
                path = path.replace("*", name, 1)
            headers = {name: value.encode() for name, value in call["headers"].items()}
            reply = client.request(
                verb, path, headers=headers, params=call["params"], content=call["content"]
            )
            seen[reply.status_code] += 1
            assert not broken(reply), (call, reply.text)
            if url := reply.headers.get("x-goog-upload-url") or reply.headers.get("location"):
                live.append(url)
                again = client.request(
                    "PUT" if "uploadType" in url else "POST",
                    url,
                    headers={**headers, "X-Goog-Upload-Command": b"upload, finalize"},
                    content=call["content"],
                )
                seen[again.status_code] += 1
                assert not broken(again), (call, again.text)

    begun_s, rounds, sizes = time.monotonic(), 0, []
    while time.monotonic() - begun_s < for_s or (not live and rounds < 50):
        seed(rounds)(one_round)()
        rounds += 1
        client.post("/_emulator/reset")
        assert client.get("/v1beta/files").json() == {}
        sizes.append(process.memory_info().rss)
    print(f"\n{seen.total()} requests, {dict(sorted(seen.items()))}, {rounds} rounds")
    print(f"memory in MiB after each round: {[size >> 20 for size in sizes]}")
    assert seen[200] > 20
    assert live
    warm = sizes[min(2, len(sizes) - 1)]
    assert sizes[-1] - warm < FLAT_BYTES
