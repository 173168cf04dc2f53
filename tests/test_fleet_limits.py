"""The tiers' rates over minutes, by a fleet of four workers: ``make test-tiers``.

A provider's minute cannot be shortened, so this takes a quarter of an hour, nearly all of it
waiting. Each scenario prints what the provider counted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provider_uploads import Stage, UploadQueue
from provider_uploads.emulator import EmulatorConfig, LocalGemini, Operation
from tests.conftest import KEY
from tests.nodes import WorkerProcess, wait_until

pytestmark = pytest.mark.timeout(1500)

FREE = {Operation.UPLOAD: 60, Operation.GET: 600, Operation.DELETE: 60}


@pytest.fixture(autouse=True)
def _long(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--tiers"):
        pytest.skip("minutes of waiting for turns: make test-tiers")


@pytest.fixture
def policy() -> dict[str, str]:
    return {"PROVIDER_UPLOADS_TIER": "free"}


class Fleet:
    """Four workers, a provider that counts, and what it counted."""

    def __init__(self, queue: UploadQueue, gemini: LocalGemini) -> None:
        self.queue, self.gemini = queue, gemini

    def upload(self, paths: list[Path], within_s: float, options: dict[str, Any]) -> None:
        tickets = self.queue.submit_many(paths, **options)

        def done() -> bool:
            return all(status.stage.ended for status in self.queue.statuses(tickets))

        wait_until(done, "every upload", within_s)
        self.statuses = self.queue.statuses(tickets)
        self.begun = sorted(status.queued_s for status in self.statuses)

    @property
    def per_minute(self) -> float:
        return (len(self.begun) - 1) / (self.begun[-1] - self.begun[0]) * 60

    @property
    def most_in_60_s(self) -> int:
        return int(self.gemini.counters()["most_in_60_s"]["upload"])

    def counted(self, operation: str) -> dict[str, Any]:
        counted: dict[str, Any] = self.gemini.counters()["operations"][operation]
        return counted

    def told(self, scenario: str, limit: int) -> str:
        refused = sum(
            self.counted(name)["by_status"].get("429", 0) for name in ("upload", "get", "delete")
        )
        asked = sum(self.counted(name)["requests"] for name in ("upload", "get", "delete"))
        return (
            f"{scenario}: {len(self.begun)} uploads in {self.begun[-1] - self.begun[0]:.0f} s, "
            f"{self.per_minute:.1f} a minute of {limit} ({self.per_minute / limit:.1%}); "
            f"at most {self.most_in_60_s} in any 60 s; "
            f"429: {refused} of {asked} requests ({refused / asked:.1%})"
        )


@pytest.fixture
def fleet(
    queue: UploadQueue, gemini: LocalGemini, more_workers: Callable[..., WorkerProcess]
) -> Fleet:
    for _ in range(3):
        more_workers()
    return Fleet(queue, gemini)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def told(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    return told


class TestProviderAsTheTierSays:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=1.0, api_keys=frozenset({KEY}), requests_per_minute=FREE)

    def test_no_429_and_hardly_a_turn_unused(
        self,
        fleet: Fleet,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
        say: Callable[[str], None],
    ) -> None:
        paths = [make_file(f"{n}.mp4", 2000) for n in range(300)]
        fleet.upload(paths, 600, {**quick, "poll_s": 1.1})
        say(fleet.told("as the tier says", FREE[Operation.UPLOAD]))
        assert {status.stage for status in fleet.statuses} == {Stage.ACTIVE}
        for operation in FREE:
            assert "429" not in fleet.counted(operation)["by_status"]
        assert fleet.most_in_60_s <= FREE[Operation.UPLOAD]
        assert fleet.per_minute >= 0.95 * FREE[Operation.UPLOAD]


class TestProviderHalfOfThat:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        half = {name: limit // 2 for name, limit in FREE.items()}
        return EmulatorConfig(processing_s=1.0, api_keys=frozenset({KEY}), requests_per_minute=half)

    def test_few_429s_and_nothing_fails(
        self,
        fleet: Fleet,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
        say: Callable[[str], None],
    ) -> None:
        paths = [make_file(f"{n}.mp4", 2000) for n in range(150)]
        fleet.upload(paths, 900, {**quick, "poll_s": 1.1})
        say(fleet.told("half of what the tier says", FREE[Operation.UPLOAD] // 2))
        assert {status.stage for status in fleet.statuses} == {Stage.ACTIVE}
        starts = fleet.counted("upload")
        assert starts["by_status"]["429"] < 0.05 * starts["requests"]
