"""The README's commands and code do what it shows."""

from __future__ import annotations

import builtins
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provider_uploads.local.samples import make_samples
from provider_uploads.local.stack import Stack, StackOptions
from tests.nodes import ROOT, Process, free_port, wait_until
from tests.origins import S3, Origin, whole
from tests.receiver import SECRET
from tests.test_stack import ctrl_c_works

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()


@dataclass(frozen=True)
class Block:
    language: str
    text: str


def blocks(text: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.S | re.M)]


BLOCKS = blocks(README)
# The commands of operations.md are run by test_doctor.py.
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if "```python" in page.read_text()]


def console(command: str) -> list[str]:
    """Return the lines the README shows below ``$ command``."""
    for block in BLOCKS:
        first, _, shown = block.text.partition("\n")
        if block.language == "console" and first == f"$ {command}":
            return shown.splitlines()
    raise AssertionError(f"the README has no block for {command!r}")


def masked(line: str) -> str:
    """Return a line without what differs from run to run: ids, ports, times, widths, URIs."""
    uri = r"(?:http://127\.0\.0\.1:\d+|https://generativelanguage\.googleapis\.com)/\S*"
    line = re.sub(uri, "URI", line)  # folded at the terminal's width
    line = re.sub(r"^([0-9a-f]{32}  )/\S*/", r"\1FOLDER/", line)
    line = re.sub(r"provider-uploads-\w+/env", "provider-uploads-ID/env", line)
    line = re.sub(r"files/pu-[0-9a-f]{32}", "files/ID", line)
    line = re.sub(r"\b[0-9a-f]{32}\b", "ID", line)
    line = re.sub(r"\d+(\.\d+)?", "N", line)
    return re.sub(r"(\s|─)+", " ", line).strip()


def assert_shows(shown: list[str], real: str) -> None:
    """Every line shown is printed, in that order; ``...`` stands for any number of lines."""
    printed = [masked(line) for line in real.splitlines() if not continues_a_cell(line)]
    at, gap = 0, False
    for line in shown:
        if line == "...":
            gap = True
        elif not continues_a_cell(line):
            wanted = masked(line)
            if gap:
                assert wanted in printed[at:], f"never printed: {line}\n\n{real}"
                at += printed[at:].index(wanted)
            assert printed[at : at + 1] == [wanted], real
            at, gap = at + 1, False
    assert gap or at == len(printed), f"not shown: {printed[at:]}"


def continues_a_cell(line: str) -> bool:
    return line.startswith(" " * 40)


@pytest.fixture(scope="module")
def remote(
    tmp_path_factory: pytest.TempPathFactory, s3_server: S3
) -> Iterator[tuple[Origin, dict[str, str]]]:
    """Where the pages' URLs lead, and the variables that switch them on."""
    folder = tmp_path_factory.mktemp("remote")
    with Origin(folder) as origin:
        yield (
            origin,
            {
                **s3_server.env,
                "SSL_CERT_FILE": str(origin.ca_file),
                "PROVIDER_UPLOADS_SOURCES": "s3,https",
                "PROVIDER_UPLOADS_HTTPS_NETWORKS": "127.0.0.0/8",
                "PROVIDER_UPLOADS_STAGING": str(folder),
                "REPORT_URL": f"{origin.url}/report.pdf?X-Signature=secret",
            },
        )


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory, remote: tuple[Origin, dict[str, str]], s3_server: S3
) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with a report.pdf, and the stack that the README tells to run."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "sample.mp3").write_bytes(b"ID3 is all that a name needs")
    report = next(p for p in make_samples(folder, video=False) if p.suffix == ".pdf")
    origin, switched_on = remote
    origin.always = whole(report.read_bytes())
    s3_server.put("bucket/sunset.png", (folder / "sunset.png").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**switched_on, **told()}.items():
            patch.setenv(name, value)
        yield from _stack(folder, report)


def told() -> dict[str, str]:
    """What the stack's workers know of the pages' host applications."""
    redis, web = free_port(), free_port()
    return {
        "REDIS_PORT": str(redis),
        "SHOP_REDIS": f"redis://127.0.0.1:{redis}",
        "PROVIDER_UPLOADS_BROKERS__SHOP__URL": f"redis://127.0.0.1:{redis}/1",
        "PORT": str(web),
        "SECRET": SECRET,
        "PROVIDER_UPLOADS_CALLBACKS__ORDERS__URL": f"http://127.0.0.1:{web}/hooks",
        "PROVIDER_UPLOADS_CALLBACKS__ORDERS__SECRET": SECRET,
    }


@pytest.fixture(scope="module")
def shop(environment: tuple[Path, dict[str, str]]) -> Iterator[None]:
    """The worker of examples/celery, whose module the pages import."""
    folder, env = environment
    shutil.copy(ROOT / "examples" / "celery" / "shop.py", folder)
    argv = [sys.executable, "-m", "celery", "-A", "shop", "worker", "-P", "threads"]
    worker = Process([*argv, "-l", "INFO"], name="shop", folder=folder, env=env)
    wait_until(lambda: b" ready." in worker.logs(), "the shop's worker is ready")
    yield
    worker.stop()


def _stack(folder: Path, report: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    options = StackOptions(
        redis_port=int(os.environ["REDIS_PORT"]), processing_s=1, roots=(folder.resolve(),)
    )
    with Stack(options) as stack:
        scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        env = {
            **os.environ,
            "PATH": scripts,
            "COLUMNS": "118",
            "PROVIDER_UPLOADS_REDIS_URL": stack.redis_url,
            "PROVIDER_UPLOADS_BASE_URL": stack.base_url,
            "GEMINI_API_KEY": "any",
            "PROVIDER_UPLOADS_TIER": "unlimited",
            **gateway("openai", stack.base_url),
            **gateway("anthropic", stack.base_url),
        }
        assert report.name == "report.pdf"
        yield folder, env


def gateway(provider: str, base_url: str) -> dict[str, str]:
    """The variables of a profile behind the stack's gateway."""
    prefix = f"PROVIDER_UPLOADS_PROFILES__{provider.upper()}__"
    return {
        f"{prefix}API_KEY": "any",
        f"{prefix}BASE_URL": f"{base_url}/genai",
        f"{prefix}HEADERS": json.dumps({"x-model-provider": provider}),
    }


def run(command: str, folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_block_is_executed_here() -> None:
    assert [block.language for block in BLOCKS] == [
        "console",
        "python",
        "text",
        "console",
        "console",
    ]


def test_the_demo(environment: tuple[Path, dict[str, str]]) -> None:
    _, env = environment
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    # The rules of an installed checkout, in the environment that runs the tests.
    make = f"make --no-print-directory --assume-old=install VENV={sys.prefix} demo"
    env = {name: value for name, value in env.items() if not name.startswith(("MAKE", "MFLAGS"))}
    assert_shows(console("make demo"), run(make, ROOT, env))


def test_the_five_lines_of_a_web_app(environment: tuple[Path, dict[str, str]]) -> None:
    folder, env = environment
    code = next(block.text for block in BLOCKS if block.language == "python")
    shown = next(block.text for block in BLOCKS if block.language == "text")
    (folder / "web.py").write_text(code)
    printed = run("python web.py", folder, env)
    # A quick worker may have begun before the question.
    printed = re.sub(r"\A(UPLOADING|PROCESSING)\n", "QUEUED\n", printed)
    assert_shows(shown.splitlines(), printed)


def test_the_command_line(environment: tuple[Path, dict[str, str]]) -> None:
    folder, env = environment
    command = "provider-uploads upload --wait report.pdf"
    assert_shows(console(command), run(command, folder, env))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_of_the_docs(
    page: Path, environment: tuple[Path, dict[str, str]], request: pytest.FixtureRequest
) -> None:
    """Every command and every program on it runs and prints what is shown."""
    folder, env = environment
    if "from shop import" in page.read_text():
        request.getfixturevalue("shop")
    found = iter(blocks(page.read_text()))
    for block in found:
        if block.language in {"sh", "ini"}:  # settings
            continue
        if block.language == "console":
            command, _, shown = block.text.removeprefix("$ ").partition("\n")
        else:
            assert block.language == "python"
            (folder / "page.py").write_text(block.text)
            command, text = "python page.py", next(found)
            assert text.language == "text"
            shown = text.text
        assert_shows(shown.splitlines(), run(command, folder, env))


@pytest.mark.parametrize("name", ["celery"])
def test_an_example(name: str) -> None:
    """Its one command prints what its README shows."""
    folder = ROOT / "examples" / name
    command, shown = re.search(  # type: ignore[union-attr]
        r"^```console\n\$ (.*?)\n(.*?)^```$", (folder / "README.md").read_text(), re.S | re.M
    ).groups()
    env = {**os.environ, "PROVIDER_UPLOADS_ENV_FILE": ""}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    assert_shows(shown.splitlines(), run(command, folder, env))


def test_up(environment: tuple[Path, dict[str, str]]) -> None:
    folder, env = environment
    up = subprocess.Popen(
        ["provider-uploads", "up", "--redis-port", str(free_port())],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=ctrl_c_works,
    )
    assert up.stdout
    shown = console("provider-uploads up")
    printed = [up.stdout.readline() for _ in shown]
    up.send_signal(signal.SIGINT)
    up.communicate(timeout=20)
    assert_shows(shown, "".join(printed))
    assert up.returncode == 130


def test_the_worker_commands_of_the_readme_are_those_the_tests_run() -> None:
    """By tests/nodes.py in a checkout, and by tests/test_hosts.py from a wheel."""
    assert "provider-uploads worker\n" in README
    assert "`celery -A tasks worker`" in README


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150


def test_every_setting_in_the_table_exists() -> None:
    from config.policy import Policy
    from provider_uploads.settings import Settings

    known = {f"PROVIDER_UPLOADS_{name}".upper() for name in Settings.model_fields}
    known |= {f"PROVIDER_UPLOADS_{name}".upper() for name in Policy.model_fields}
    named = set(re.findall(r"^\| `(PROVIDER_UPLOADS_\w+)`", README, re.M))
    assert named
    assert named <= known


def test_every_error_in_the_table_exists() -> None:
    from provider_uploads import errors

    named = re.findall(r"`(\w+Error)`", README)
    assert named
    assert all(hasattr(errors, name) or hasattr(builtins, name) for name in named)


def test_the_page_of_errors_has_all_of_them() -> None:
    from provider_uploads import errors

    def names(cls: type[Exception]) -> set[str]:
        return {cls.__name__}.union(*map(names, cls.__subclasses__()))

    branches = {"ProviderUploadsError", "TransientError", "PermanentError", "SourceError"}
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| `(\w+Error)` \|", page, re.M)
    assert len(rows) == len(set(rows))
    assert set(rows) == names(errors.ProviderUploadsError) - branches
