"""The Batch API by its own JSON: what google-genai leaves out of it, and what it cannot read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from provider_uploads import errors
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini
from provider_uploads.providers.base import BatchCalls, NewJob, batches_of
from provider_uploads.providers.gemini import Gemini
from tests.batching import MODEL, local_gemini
from tests.conftest import profile_at
from tests.folder_provider import Folder

INLINE = [
    {"request": {"contents": [{"parts": [{"text": f"Hi {n}"}]}]}, "metadata": {"key": f"k{n}"}}
    for n in range(3)
]


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return local_gemini(running_s=3600)


@pytest.fixture
def calls(gemini: LocalGemini) -> Iterator[BatchCalls]:
    with Gemini(profile_at(gemini.url)) as provider:
        yield provider.batches


def created(calls: BatchCalls, label: str = "mine") -> str:
    return calls.create(NewJob(MODEL, label, inline=INLINE)).name


def ended(gemini: LocalGemini, name: str, **fate: Any) -> None:
    gemini.batches.change(name, pending_s=0, running_s=0, **fate)


def test_a_job_as_it_is_described(gemini: LocalGemini, calls: BatchCalls) -> None:
    name = created(calls)
    job = calls.get(name)
    assert (job.state in {"PENDING", "RUNNING"}, job.ended, job.display_name) == (
        *(True, False),
        "mine",
    )
    assert job.counts.requests == 3
    assert job.created_at
    ended(gemini, name, failed_keys=["k1"])
    job = calls.get(name)
    assert (job.state, job.ended, job.inlined) == ("SUCCEEDED", True, True)
    assert (job.counts.succeeded, job.counts.failed) == (2, 1)
    assert len([*calls.answers(job)]) == 3


def test_why_a_job_failed(gemini: LocalGemini, calls: BatchCalls) -> None:
    name = created(calls)
    error = {"code": 13, "message": "internal", "details": [{"@type": "x", "deep": {"er": 1}}]}
    ended(gemini, name, state="BATCH_STATE_FAILED", error=error)
    job = calls.get(name)
    assert (job.state, job.error, job.has_answers) == ("FAILED", error, False)


def test_all_pages(gemini: LocalGemini, calls: BatchCalls) -> None:
    names = [created(calls, f"job {n}") for n in range(5)]
    pages = [*calls.list(page_size=2)]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {job.name for page in pages for job in page} == {*names}


def test_cancel_and_delete_come_twice(gemini: LocalGemini, calls: BatchCalls) -> None:
    name = created(calls)
    assert calls.cancel(name)
    assert not calls.cancel(name)  # it has ended
    assert calls.get(name).state == "CANCELLED"
    assert calls.delete(name)
    assert not calls.delete(name)
    assert not calls.cancel(name)
    with pytest.raises(errors.FileGoneError):
        calls.get(name)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FaultKind.RATE_LIMITED, errors.RateLimitedError),
        (FaultKind.UNAVAILABLE, errors.ProviderUnavailableError),
        (FaultKind.RESET, errors.ProviderUnavailableError),
        (FaultKind.BAD_JSON, errors.ProviderUnavailableError),
    ],
)
def test_what_breaks_is_one_of_our_errors(
    gemini: LocalGemini, calls: BatchCalls, kind: FaultKind, error: type[Exception]
) -> None:
    name = created(calls)
    for operation, call in (
        ("get_batch", lambda: calls.get(name)),
        ("list_batches", lambda: [*calls.list()]),
        ("create_batch", lambda: created(calls)),
    ):
        gemini.order_fault(operation, kind)
        with pytest.raises(error):
            call()
        gemini.clear_faults()


def test_a_model_that_is_not_there(calls: BatchCalls) -> None:
    with pytest.raises(errors.ProviderRefusedError, match="404"):
        calls.create(NewJob("no-model", "mine", inline=INLINE))


def test_a_provider_without_batches(tmp_path: Any) -> None:
    folder = Folder(profile_at(str(tmp_path)), timeout_s=1)
    with pytest.raises(errors.UnsupportedOperationError, match="gemini profile"):
        batches_of(folder)
