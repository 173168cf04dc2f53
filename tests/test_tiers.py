"""Tiers: the table, and what is wrong with one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from provider_uploads.errors import ConfigurationError
from provider_uploads.fleet.tiers import PAUSED, Tiers, Work, per_minute, shown
from provider_uploads.settings import settings
from tests.nodes import ROOT

TABLE = ROOT / "config" / "tiers.toml"


class TestTheTable:
    def test_has_every_number_for_every_tier(self) -> None:
        tiers = Tiers.read(TABLE)
        for name in ("free", "tier_1", "tier_2", "tier_3"):
            tier = tiers[name]
            assert all(per_minute(tier.rate(work)) > 0 for work in Work)
            assert tier.storage_bytes == 20_000_000_000
            assert (tier.batch_jobs, tier.batch_file_bytes) == (100, 2_000_000_000)
            assert tier.transfer_concurrency >= 8
        assert all(tiers["unlimited"].rate(work) is None for work in Work)
        assert tiers["unlimited"].storage_bytes is None

    def test_a_higher_tier_never_allows_less(self) -> None:
        tiers = Tiers.read(TABLE)
        names = ("free", "tier_1", "tier_2", "tier_3")
        for work in Work:
            rates = [per_minute(tiers[name].rate(work)) for name in names]
            assert rates == sorted(rates)

    def test_each_rate_has_its_source_or_the_word_default(self) -> None:
        for line in TABLE.read_text().splitlines():
            if line.partition(" = ")[0] in {*Work, "transfer_concurrency"}:
                assert "# default" in line or "late 2025" in line, line

    def test_the_page_shows_its_numbers(self) -> None:
        page = (ROOT / "docs" / "limits.md").read_text()
        tables = tomllib.loads(TABLE.read_text())
        names = ("free", "tier_1", "tier_2", "tier_3")
        for row, field in (("uploads, deletions", "upload"), ("polls", "poll")):
            rates = " | ".join(f"{per_minute(tables[name][field]):,.0f}" for name in names)
            assert f"| {row} a minute | {rates} |" in page


class TestRates:
    @pytest.mark.parametrize(
        ("text", "allowed"),
        [("10/s", 600), ("60/m", 60), ("120/h", 2), (None, 0), ("0.5/s", 30)],
    )
    def test_as_celery_writes_them(self, text: str | None, allowed: float) -> None:
        assert per_minute(text) == allowed

    @pytest.mark.parametrize("text", ["fast", "10/x", "-3/m", "nan/m", "inf", "0", "0/m", ""])
    def test_what_is_no_rate(self, text: str) -> None:
        with pytest.raises(ValueError, match="is no rate: write 10/s, 60/m or 500/h"):
            per_minute(text)

    def test_as_they_are_shown(self) -> None:
        assert [shown(rate) for rate in (60, 0.5, 0, PAUSED)] == [
            *("60/m", "0.5/m", "no limit", "paused")
        ]


class TestAFileOfYourOwn:
    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ('[a]\nupload = "fast"\ntransfer_concurrency = 1', "upload: 'fast' is no rate"),
            ("[a]\ntransfer_concurrency = 0", "transfer_concurrency: "),
            ("[a]\n", "transfer_concurrency: Field required"),
            ("[a]\ntransfer_concurrency = 1\nuploads = 3", "uploads: Extra inputs"),
            ("a = 1", "is no table of tiers"),
            ("[a", "is no table of tiers"),
        ],
    )
    def test_says_what_is_wrong_with_it(self, tmp_path: Path, text: str, problem: str) -> None:
        path = tmp_path / "tiers.toml"
        path.write_text(text)
        with pytest.raises(ConfigurationError) as caught:
            Tiers.read(path)
        assert problem in str(caught.value)
        assert str(path) in str(caught.value)

    def test_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="No such file"):
            Tiers.read(tmp_path / "none.toml")


class TestWhichOne:
    @pytest.mark.parametrize("name", ["PROVIDER_UPLOADS_TIER", "GEMINI_BATCH_TIER", "POLLUX_TIER"])
    def test_by_any_of_three_names(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        assert settings().tier == "free"
        settings.cache_clear()
        monkeypatch.setenv(name, "tier_2")
        assert settings().tier == "tier_2"

    def test_ours_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POLLUX_TIER", "tier_1")
        monkeypatch.setenv("PROVIDER_UPLOADS_TIER", "tier_3")
        assert settings().tier == "tier_3"
