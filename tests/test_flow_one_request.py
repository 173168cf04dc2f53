"""Small files go in one request; whatever becomes of it, one provider file results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import CeleryTestSetup

from provider_uploads import Stage, UploadQueue
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.schemas import Copy
from tests.conftest import KEY
from tests.nodes import WorkerProcess, wait_until

WAIT_S = 60


def requests(gemini: LocalGemini, operation: Operation) -> int:
    return int(gemini.counters()["operations"][operation]["requests"])


def test_up_to_a_size(
    queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path], quick: dict[str, Any]
) -> None:
    for size, starts in ((0, 1), (1, 1), (256 * 1024, 1), (256 * 1024 + 1, 2)):
        path = make_file(f"{size}.txt", size)
        result = queue.result(queue.submit(path, **quick), timeout_s=WAIT_S)
        assert (result.state, result.size_bytes) == ("ACTIVE", size)
        assert requests(gemini, Operation.START) == starts  # an empty file has a session
    assert requests(gemini, Operation.UPLOAD) == 4


def test_its_name_is_not_ascii(
    queue: UploadQueue, gemini: LocalGemini, make_file: Callable[..., Path], quick: dict[str, Any]
) -> None:
    path = make_file('Grüße "--" 名前.txt', 100)
    result = queue.result(queue.submit(path, **quick), timeout_s=WAIT_S)
    assert result.display_name == path.name
    assert [file["display_name"] for file in gemini.files()] == [path.name]


@pytest.mark.parametrize(
    "kind",
    [
        FaultKind.INTERNAL,
        FaultKind.RESET,
        FaultKind.LOST_FINALIZE,
        FaultKind.LOST_ANSWER,
        FaultKind.NO_FILE,
        FaultKind.BAD_JSON,
        FaultKind.NAME_TAKEN,
        FaultKind.EARLY_FINAL,
    ],
)
def test_trouble_that_passes(
    queue: UploadQueue,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
    quick: dict[str, Any],
    kind: FaultKind,
) -> None:
    after: Any = {"after_bytes": 500} if kind in {FaultKind.RESET, FaultKind.EARLY_FINAL} else {}
    gemini.order_fault(Operation.UPLOAD, kind, count=1, **after)
    ticket = queue.submit(make_file("a.txt", 1000), **quick)
    result = queue.result(ticket, timeout_s=WAIT_S)
    assert result.state == "ACTIVE"
    (file,) = gemini.files()
    assert (file["name"], file["sha256"]) == (result.id, result.sha256)
    assert gemini.sessions() == []


class TestKilled:
    """Between the beginning of an attempt and its end, on either side of the request."""

    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {
            "PROVIDER_UPLOADS_LEASE_S": "2",
            "PROVIDER_UPLOADS_LEASE_HELD_RETRY_S": "0.3",
            "PROVIDER_UPLOADS_VISIBILITY_TIMEOUT_S": "2",
            "PROVIDER_UPLOADS_RESTORE_EVERY_S": "1",
        }

    @pytest.mark.parametrize(("kind", "files"), [(FaultKind.STALL, 0), (FaultKind.LATE_ANSWER, 1)])
    def test_the_next_worker_finds_what_there_is(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        gemini: LocalGemini,
        more_workers: Callable[..., WorkerProcess],
        make_file: Callable[..., Path],
        quick: dict[str, Any],
        kind: FaultKind,
        files: int,
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, kind, stall_s=60, count=1)
        ticket = queue.submit(make_file("a.txt", 1000), **quick)
        wait_until(lambda: requests(gemini, Operation.UPLOAD) == 1, "the request")
        wait_until(lambda: len(gemini.files()) == files, "what it made")
        status = queue.status(ticket)
        assert status.stage is Stage.UPLOADING
        assert status.copy_at_provider is Copy.PRESENT  # whoever cleans up knows
        celery_setup.worker.container.kill()
        more_workers()
        result = queue.result(ticket, timeout_s=WAIT_S)
        assert result.id == f"files/pu-{ticket}-0"
        assert [file["name"] for file in gemini.files()] == [result.id]


class TestAServiceThatRefusesIt:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=0.1, api_keys=frozenset({KEY}), takes_multipart=False)

    def test_is_asked_once(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        first = queue.submit(make_file("first.txt", 1000), **quick)
        assert queue.result(first, timeout_s=WAIT_S).state == "ACTIVE"
        counted = gemini.counters()["operations"]["upload"]["by_status"]
        assert counted == {"400": 1, "200": 1}
        tickets = [queue.submit(make_file(f"{n}.txt", 1000), **quick) for n in range(3)]
        for ticket in tickets:
            assert queue.result(ticket, timeout_s=WAIT_S).state == "ACTIVE"
        assert gemini.counters()["operations"]["upload"]["by_status"] == {"400": 1, "200": 4}
        assert len(gemini.files()) == 4


class TestSwitchedOff:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {"PROVIDER_UPLOADS_ONE_REQUEST_BYTES": "0"}

    def test_every_file_has_a_session(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        queue.result(queue.submit(make_file("a.txt", 1000), **quick), timeout_s=WAIT_S)
        assert requests(gemini, Operation.START) == 1
