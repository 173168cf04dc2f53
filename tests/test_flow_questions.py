"""Files and then one question over all of them: a real worker, a real Redis, the local Gemini."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from pytest_celery import CeleryTestSetup

from provider_uploads import Files, UploadFailedError, UploadQueue, errors, generate, protocol
from provider_uploads.cli import main
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.settings import settings
from tests.conftest import KEY
from tests.nodes import RedisProcess, wait_until

WAIT_S = 60


@pytest.fixture
def policy() -> dict[str, str]:
    return {
        "PROVIDER_UPLOADS_QUESTION_LOOK_FIRST_S": "0.05",
        "PROVIDER_UPLOADS_QUESTION_LOOK_MAX_S": "0.2",
    }


@pytest.fixture
def repository(tmp_path: Path) -> list[Path]:
    """The quickstart's: over a hundred small files of a package, some of the same name."""
    files = []
    for number in range(35):
        for name in ("__init__.py", "views.py", "models.py"):
            path = tmp_path / "files" / "repo" / f"app_{number}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {name} of app {number}\n")
            files.append(path)
    return files


@pytest.fixture
def at_the_provider(
    monkeypatch: pytest.MonkeyPatch, default_worker_env: dict[str, str]
) -> dict[str, str]:
    """The worker's environment in this process too."""
    for name, value in default_worker_env.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()  # a client was made before
    return default_worker_env


def test_over_a_hundred_files_and_one_question(
    queue: UploadQueue, repository: list[Path], gemini: LocalGemini
) -> None:
    ticket = queue.ask("What does this code do?", repository, model="gemini-2.5-pro", poll_s=0.05)
    answer = queue.answer(ticket, timeout_s=60)
    assert answer.ticket == ticket
    assert (answer.files, answer.model, answer.finish_reason) == (105, "gemini-2.5-pro", "STOP")
    assert answer.total_tokens == answer.prompt_tokens + answer.answer_tokens > 105
    lines = answer.text.splitlines()
    assert "What does this code do?" in lines[1]
    # Each file's part comes right behind the text with its name.
    for number, path in enumerate(repository):
        label, file = lines[2 + 2 * number : 4 + 2 * number]
        assert f"<<<File: {path.parent.name}/{path.name}>>>" in label
        assert f"{path.parent.name}/{path.name}" in file
        assert f"{path.stat().st_size} bytes" in file.replace(",", "")
    assert gemini.counters()["operations"]["generate"]["requests"] == 1
    assert len(queue.question(ticket).uploads) == 105


def test_one_video_is_waited_for(queue: UploadQueue, make_file: Callable[..., Path]) -> None:
    ticket = queue.ask("Describe it.", [make_file("clip.mp4")], poll_s=0.05)
    answer = queue.answer(ticket, timeout_s=WAIT_S)
    assert answer.files == 1
    assert "<<<File" not in answer.text  # one file needs no name


def test_of_uploads_made_before(
    queue: UploadQueue, make_file: Callable[..., Path], gemini: LocalGemini
) -> None:
    tickets = queue.submit_many([make_file("a.txt"), make_file("b.txt")])
    queue.result(tickets[0], timeout_s=WAIT_S)
    config = {"temperature": 0, "response_mime_type": "application/json"}
    answer = queue.answer(queue.ask("?", tickets=tickets, config=config), timeout_s=WAIT_S)
    assert json.loads(answer.text)["local_gemini"] == "no model"
    assert len(gemini.files()) == 2


def test_without_any_file(queue: UploadQueue) -> None:
    assert "Why?" in queue.answer(queue.ask("Why?"), timeout_s=WAIT_S).text


def test_a_file_that_fails_ends_the_question(
    queue: UploadQueue, make_file: Callable[..., Path], gemini: LocalGemini
) -> None:
    gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_FAILED, match="bad.mp4")
    ticket = queue.ask("?", [make_file("good.mp4"), make_file("bad.mp4")], poll_s=0.05)
    with pytest.raises(UploadFailedError):
        queue.answer(ticket, timeout_s=WAIT_S)
    assert gemini.counters()["operations"]["generate"]["requests"] == 0


def test_trouble_passes(
    queue: UploadQueue, make_file: Callable[..., Path], gemini: LocalGemini
) -> None:
    gemini.order_fault(Operation.GENERATE, FaultKind.UNAVAILABLE, count=2)
    answer = queue.answer(queue.ask("?", [make_file("a.txt")]), timeout_s=WAIT_S)
    assert answer.files == 1
    assert gemini.counters()["operations"]["generate"]["requests"] == 3


def test_what_is_wrong_with_the_question_is_said(
    queue: UploadQueue, make_file: Callable[..., Path], gemini: LocalGemini
) -> None:
    for prompt, model in (("", "gemini-2.5-pro"), ("?", "a b")):
        with pytest.raises(errors.InvalidRequestError):
            queue.ask(prompt, model=model)
    with pytest.raises(errors.InvalidRequestError, match="http_options"):
        queue.ask("?", config={"http_options": {"headers": {"x": "y"}}})
    with pytest.raises(errors.InvalidRequestError, match="JSON"):
        queue.ask("?", config={"tools": object()})
    with pytest.raises(errors.UnknownTicketError):
        queue.ask("?", tickets=["0" * 32])
    with pytest.raises(errors.SourceNotFoundError):
        queue.ask("?", [make_file(), Path("/nowhere")])
    with pytest.raises(errors.InvalidRequestError, match="temperature"):
        queue.answer(queue.ask("?", config={"temperature": "hot"}), timeout_s=WAIT_S)
    with pytest.raises(errors.ProviderRefusedError, match="404"):
        queue.answer(queue.ask("?", model="gpt-9"), timeout_s=WAIT_S)
    with pytest.raises(errors.UnknownTicketError, match="no question is known"):
        queue.answer("0" * 32)
    gemini.order_fault(Operation.GENERATE, FaultKind.STALL, stall_s=60)
    with pytest.raises(errors.ResultTimeoutError, match=r"question \w+ is not answered .* model"):
        queue.answer(queue.ask("?"), timeout_s=0)


@pytest.mark.usefixtures("at_the_provider")
class TestAFileThatCannotBeUsed:
    """Named, and not as a raw 400 or 403."""

    def test_gone(
        self, queue: UploadQueue, make_file: Callable[..., Path], gemini: LocalGemini
    ) -> None:
        tickets = queue.submit_many([make_file("a.txt"), make_file("b.txt")])
        results = [queue.result(ticket, timeout_s=WAIT_S) for ticket in tickets]
        with Files() as files:
            files.delete(results[1].id)
        with pytest.raises(errors.FileGoneError, match="not there"):
            queue.answer(queue.ask("?", tickets=tickets), timeout_s=WAIT_S)
        with pytest.raises(errors.FileGoneError):
            generate("?", results)

    def test_expired(
        self, queue: UploadQueue, make_file: Callable[..., Path], gemini: LocalGemini
    ) -> None:
        result = queue.result(queue.submit(make_file("a.txt")), timeout_s=WAIT_S)
        assert result.expires_at is not None
        old = result.model_copy(update={"expires_at": datetime.now(UTC) - timedelta(seconds=1)})
        with pytest.raises(errors.FileExpiredError, match="expired at"):
            generate("?", [old])
        gemini.advance_clock(49 * 3600)  # the provider's clock knows first
        with pytest.raises(errors.FileGoneError):
            generate("?", [result])

    def test_not_active(
        self,
        make_file: Callable[..., Path],
        gemini: LocalGemini,
        queue: UploadQueue,
    ) -> None:
        done = queue.result(queue.submit(make_file("a.txt")), timeout_s=WAIT_S)
        gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_STUCK)
        ticket = queue.submit(make_file("b.mp4"), timeout_s=60)
        wait_until(lambda: queue.status(ticket).uri is not None, "the bytes")
        status = queue.status(ticket)
        stuck = done.model_copy(update={"id": status.id, "uri": status.uri})
        with pytest.raises(errors.FileNotActiveError, match="is PROCESSING"):
            generate("?", [done, stuck])


def test_delivered_again_it_is_not_asked_again(
    queue: UploadQueue, celery_setup: CeleryTestSetup, gemini: LocalGemini
) -> None:
    ticket = queue.ask("?")
    first = queue.answer(ticket, timeout_s=WAIT_S)
    again = celery_setup.app.send_task(
        "provider_uploads.generate", args=(ticket,), task_id="again", queue="transfer"
    )
    assert again.get(timeout=WAIT_S) == first.model_dump(mode="json")
    assert gemini.counters()["operations"]["generate"]["requests"] == 1


class TestStopping:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(latency_ms=20_000, api_keys=frozenset({KEY}))

    def test_a_worker_does_not_wait_for_the_model(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        gemini: LocalGemini,
        default_redis_broker: RedisProcess,
    ) -> None:
        ticket = queue.ask("?")
        wait_until(lambda: gemini.counters()["operations"]["generate"]["requests"], "the question")
        celery_setup.worker.kill("SIGTERM")
        wait_until(
            lambda: celery_setup.worker.container.exit_code is not None, "the worker's end", 8
        )
        assert queue.question(ticket).prompt == "?"  # no end was written
        with redis.Redis(port=default_redis_broker.port) as client:
            assert client.llen(f"{protocol.KEY_PREFIX}transfer.questions") == 1


class TestCommand:
    def test_the_answer_is_what_it_prints(
        self,
        queue: UploadQueue,
        make_file: Callable[..., Path],
        at_the_provider: dict[str, str],
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        paths = [str(make_file("a.txt", 40)), str(make_file("b.mp4", 50))]
        assert ask("Who?", *paths) == 0
        said = capfd.readouterr()
        assert said.out.splitlines()[1].endswith("Who?")
        assert "<<<File: b.mp4>>>" in said.out
        assert "b.mp4: ACTIVE" in said.err
        assert "gemini-3-flash-preview: 2 files, " in said.err
        assert ask("Who?", "--json") == 0
        assert json.loads(capfd.readouterr().out)["files"] == 0

    def test_a_file_that_fails(
        self,
        queue: UploadQueue,
        make_file: Callable[..., Path],
        gemini: LocalGemini,
        at_the_provider: dict[str, str],
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_FAILED)
        assert ask("Who?", str(make_file("b.mp4"))) == 1
        said = capfd.readouterr()
        assert said.out == ""
        assert "b.mp4: " in said.err

    def test_a_mistake_is_a_sentence(
        self, queue: UploadQueue, at_the_provider: dict[str, str], capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert ask("Who?", "/nowhere/x.txt") == 2
        assert "Error: /nowhere/x.txt is outside" in capfd.readouterr().err


def ask(*arguments: str) -> object:
    """Run the command in this process; return its exit code."""
    with pytest.raises(SystemExit) as end:
        main(["ask", *arguments])
    return end.value.code
