"""The pages: every link leads somewhere, and the index lists them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.nodes import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = _LINK.findall(page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    listed = set(_LINK.findall(index))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"} <= listed


def test_the_architecture_names_files_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    bases = (ROOT, ROOT / "src" / "provider_uploads")
    scripts = {path.name for path in (ROOT / "src").rglob("*.lua")}
    named = set(re.findall(r"`([\w/]+\.(?:py|lua|toml|md))`", text))
    missing = {
        name
        for name in named
        if name not in scripts and not any((base / name).exists() for base in bases)
    }
    assert missing == set()
