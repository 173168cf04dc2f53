"""Uploads by owner and stage, a page at a time; the same on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provider_uploads import Stage, UploadQueue
from provider_uploads.cli import main
from provider_uploads.errors import InvalidRequestError
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.settings import settings


@pytest.fixture
def queue(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadQueue]:
    monkeypatch.setenv("PROVIDER_UPLOADS_REDIS_URL", redis_url)
    settings.cache_clear()
    with UploadQueue() as made:
        yield made


@pytest.fixture
def tickets(queue: UploadQueue, make_file: Callable[..., Path], ledger: Ledger) -> list[str]:
    """Nine uploads, the newest first: ann's, with every third cancelled, and one of bob's."""
    path = make_file("a.txt")
    bobs = queue.submit(path, owner="bob", tags={"order": "42"})
    made = [queue.submit(path, owner="ann") for _ in range(8)]
    for ticket in made[::3]:
        assert ledger.cancelled(ticket)
    return [*reversed(made), bobs]


def listed(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as end:
        main(["list", *arguments])
    return end.value.code


class TestPages:
    def test_all_and_whose(self, queue: UploadQueue, tickets: list[str]) -> None:
        assert [one.ticket for one in queue.list().uploads] == tickets
        assert [one.ticket for one in queue.list(owner="ann").uploads] == tickets[:-1]
        (bobs,) = queue.list(owner="bob").uploads
        assert (bobs.owner, bobs.tags) == ("bob", {"order": "42"})
        assert queue.list(owner="eve").uploads == []

    def test_a_page_at_a_time(self, queue: UploadQueue, tickets: list[str]) -> None:
        found, cursor = [], None
        while True:
            page = queue.list(limit=2, cursor=cursor)
            assert len(page.uploads) <= 2
            found += [one.ticket for one in page.uploads]
            cursor = page.cursor
            if cursor is None:
                break
        assert found == tickets

    def test_one_stage(self, queue: UploadQueue, tickets: list[str]) -> None:
        cancelled = queue.list(owner="ann", stage="CANCELLED").uploads
        assert {one.stage for one in cancelled} == {Stage.CANCELLED}
        assert len(cancelled) == 3

    @pytest.mark.parametrize(
        ("field", "value"),
        [("limit", 0), ("limit", 1001), ("cursor", "1"), ("stage", "LOST"), ("owner", "")],
    )
    def test_what_cannot_be(self, queue: UploadQueue, field: str, value: object) -> None:
        with pytest.raises(InvalidRequestError, match=f"^{field}="):
            queue.list(**{field: value})  # type: ignore[arg-type]


class TestCommand:
    def test_a_table(
        self,
        tickets: list[str],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert listed("--owner", "ann", "--limit", "3") == 0
        said = capsys.readouterr()
        assert [ticket for ticket in tickets if ticket in said.out] == tickets[:3]
        _, _, cursor = said.err.strip().partition("--cursor ")
        assert listed("--owner", "ann", "--cursor", cursor) == 0
        said = capsys.readouterr()
        assert [ticket for ticket in tickets if ticket in said.out] == tickets[3:-1]
        assert "cursor" not in said.err

    def test_json_and_none(self, tickets: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert listed("--json", "--stage", "queued", "--owner", "bob") == 0
        assert json.loads(capsys.readouterr().out)["ticket"] == tickets[-1]
        assert listed("--owner", "eve") == 0
        assert capsys.readouterr().out == "No uploads.\n"
        assert listed("--cursor", "nonsense") == 2
