"""Batches through a gateway: by file or inline, as each provider takes them, or refused unasked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provider_uploads import UploadQueue, errors
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini
from tests.batching import QUICK, WAIT_S, asked, counted, local_gemini, openai_line, write
from tests.nodes import wait_until
from tests.test_gateway import asked as requests_seen
from tests.test_gateway import variables

pytestmark = pytest.mark.slow


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return local_gemini()


@pytest.fixture
def policy(gemini: LocalGemini) -> dict[str, str]:
    return {**QUICK, **variables(gemini.url)}


def openai_file(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps(openai_line(n)) + "\n" for n in range(count)))
    return path


@pytest.mark.parametrize("profile", ["gemini", "openai", "anthropic"])
def test_inline(queue: UploadQueue, gemini: LocalGemini, profile: str) -> None:
    model = "gemini-2.5-flash" if profile == "gemini" else "some-model"
    ticket = queue.batch(asked(3), model=model, profile=profile)
    result = queue.batch_result(ticket, timeout_s=WAIT_S)
    assert result.counts.requests == 3
    assert result.provider == {"gemini": "google"}.get(profile, profile)
    # The gateway shows no answers; who can have them elsewhere is told of that.
    assert not result.answers
    with pytest.raises(errors.UnsupportedOperationError, match="its own API"):
        list(queue.batch_answers(ticket))


def test_openai_from_a_file_in_its_own_format(
    queue: UploadQueue, gemini: LocalGemini, tmp_path: Path
) -> None:
    ticket = queue.batch(
        openai_file(tmp_path / "in.jsonl", 4), model="gpt-4o-mini", profile="openai"
    )
    result = queue.batch_result(ticket, timeout_s=WAIT_S)
    assert result.counts.requests == 4
    (job,) = result.jobs
    assert "batch_" in job
    assert len(result.outputs) == 1
    wait_until(lambda: queue.batch_status(ticket).at_provider == "deleted", "cleaned up")


def test_gemini_from_a_file(queue: UploadQueue, gemini: LocalGemini, tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", 4)
    ticket = queue.batch(path, model="gemini-2.5-flash", profile="gemini")
    assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.requests == 4


@pytest.mark.parametrize(("profile", "by_file"), [("openai", True), ("anthropic", False)])
def test_one_job_though_its_answer_is_lost(
    queue: UploadQueue, gemini: LocalGemini, tmp_path: Path, profile: str, by_file: bool
) -> None:
    """A gateway keeps no display name: the input file tells, or that nobody else knows the job."""
    gemini.order_fault("create_batch", FaultKind.LOST_ANSWER)
    given = openai_file(tmp_path / "in.jsonl", 2) if by_file else asked(2)
    ticket = queue.batch(given, model="some-model", profile=profile)
    assert len(queue.batch_result(ticket, timeout_s=WAIT_S).jobs) == 1
    assert counted(gemini, "create_batch") == 1


def test_a_file_goes_inline_where_there_are_no_files(
    queue: UploadQueue, gemini: LocalGemini, tmp_path: Path
) -> None:
    path = write(tmp_path / "in.jsonl", 4)
    ticket = queue.batch(path, model="claude", profile="anthropic")
    assert queue.batch_result(ticket, timeout_s=WAIT_S).counts.requests == 4


class TestRefusedBeforeAnyRequest:
    def refused(self, queue: UploadQueue, gemini: LocalGemini, ticket: str) -> str:
        with pytest.raises(errors.PermanentError) as caught:
            queue.batch_result(ticket, timeout_s=WAIT_S)
        assert requests_seen(gemini) == 0
        return str(caught.value)

    def test_bedrock_has_no_batches(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        ticket = queue.batch(asked(1), model="nova", profile="bedrock")
        assert "Amazon's own SDK" in self.refused(queue, gemini, ticket)

    @pytest.mark.parametrize("profile", ["gemini", "anthropic"])
    def test_openai_s_lines_elsewhere(
        self, queue: UploadQueue, gemini: LocalGemini, profile: str
    ) -> None:
        ticket = queue.batch([openai_line(0)], model="gpt-4o-mini", profile=profile)
        assert "OpenAI's format" in self.refused(queue, gemini, ticket)
