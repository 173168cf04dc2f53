"""The table of the API's methods: each is served or answers 501, and the page says which."""

import itertools
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import yaml

from provider_uploads.emulator import LocalGemini
from provider_uploads.emulator.methods import METHODS, Method
from tests.nodes import ROOT, free_port

KEY = {"x-goog-api-key": "a-key"}
PAGE = ROOT / "docs" / "emulator.md"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with (
        LocalGemini() as gemini,
        httpx2.Client(base_url=gemini.url, headers=KEY, timeout=10) as http_client,
    ):
        yield http_client


def call(client: httpx2.Client, method: Method, version_path: str = "/v1beta") -> httpx2.Response:
    path = re.sub(r"\{[^}]*\}", "x", method.route_path(version_path))
    return client.request(method.verb, path, content=b"{}" if method.verb == "POST" else None)


@pytest.fixture(scope="module")
def served(client: httpx2.Client) -> dict[str, str]:
    """The methods of the discovery document, with their paths."""
    found: dict[str, str] = {}
    levels = [client.get("/$discovery/rest?version=v1beta").json()]
    while levels:
        level = levels.pop()
        levels += level.get("resources", {}).values()
        for method in level.get("methods", {}).values():
            found[method["id"].removeprefix("generativelanguage.")] = method["flatPath"]
    return found


def test_what_is_not_served_answers_501(client: httpx2.Client, served: dict[str, str]) -> None:
    assert len(METHODS) == len({method.name for method in METHODS}) == 85
    assert "models.generateAnswer" not in served
    for method in METHODS:
        for version_path in ("/v1beta", "") if method.verb == "GET" else ("/v1beta",):
            reply = call(client, method, version_path)
            if method.name not in served:
                error = reply.json()["error"]
                assert (reply.status_code, error["code"], error["status"]) == (
                    501,
                    501,
                    "UNIMPLEMENTED",
                )
                assert method.name in error["message"]
            else:
                # Refused or not: somebody has read the request.
                assert reply.status_code in (200, 302, 400, 401, 403, 404), method.name
                # These words are also those of an unknown path; a missing job has no others.
                of_a_job = method.name.startswith("batches.")
                assert of_a_job or "Requested entity was not found" not in reply.text, method.name


def test_the_discovery_document_is_one(client: httpx2.Client, served: dict[str, str]) -> None:
    document = client.get("/$discovery/rest").json()
    assert document["rootUrl"] == f"{client.base_url}/"
    assert served["files.get"] == "v1beta/files/{filesId}"
    assert served["fileSearchStores.upload.operations.get"] == (
        "v1beta/fileSearchStores/{fileSearchStoresId}/upload/operations/{operationsId}"
    )
    protocols = document["resources"]["media"]["methods"]["upload"]["mediaUpload"]["protocols"]
    assert protocols["resumable"]["path"] == "/resumable/upload/v1beta/files"
    for protocol in protocols.values():
        assert client.post(protocol["path"], content=b"{}").status_code == 200


def test_the_page_lists_every_method(served: dict[str, str]) -> None:
    row = re.compile(r"^\| `([\w.]+)` \| (yes|no|differs) \|", re.M)
    listed = dict(row.findall(PAGE.read_text()))
    assert listed.keys() == {method.name for method in METHODS}
    assert {name for name, says in listed.items() if says != "no"} == served.keys()


# --- the page's own lines ------------------------------------------------------------------------

TEST = """
from google import genai

def test_it(gemini):
    with genai.Client() as client:
        assert client.files.upload(file=__file__, config={"mime_type": "text/plain"}).uri
    assert gemini.counters()["files_made"] == 1
"""


def indented(after: str) -> str:
    """The first indented block of the page after some words."""
    text = PAGE.read_text().partition(after)[2]
    lines = text[text.index("    ") :].splitlines()
    block = [*itertools.takewhile(lambda line: not line or line.startswith("    "), lines)]
    return textwrap.dedent("\n".join(block))


@pytest.mark.slow
def test_the_fixture_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "test_page.py").write_text(indented("pytest, where") + TEST)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"]
    done = subprocess.run(
        argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_other_lines_of_the_page() -> None:
    service = yaml.safe_load(indented("compose, with"))["gemini"]
    install, serve = service["command"].removeprefix('sh -c "').rstrip('"').split(" && ")
    steps = [step["run"] for step in yaml.safe_load(indented("CI, here"))]
    assert steps[0] == install == "pip install 'provider-uploads[emulator]'"
    port = free_port()
    for line in (serve, steps[1].rstrip(" &")):
        argv = [sys.executable, "-m", *line.replace("-", "_", 1).split(), "--port", str(port)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert f":{port}, control at" in process.stdout.readline()
            assert httpx2.get(f"http://127.0.0.1:{port}/").json()["service"] == "local Gemini"
            process.terminate()
