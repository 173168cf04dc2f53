"""What a terminal shows: names as they are, every end explained."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from rich.console import Console

from provider_uploads.cli import display
from provider_uploads.cli.console import printable
from provider_uploads.errors import UploadFailedError
from provider_uploads.schemas import Stage, UploadStatus

ODD_NAMES = [
    "[red]x[/].txt",
    "[/]",
    "[link=http://h]a[/link]",
    "back\\slash",
    "ends with \\",
    ":smile:.txt",
    "Fluß 映画.mp4",
    "a  b.txt",
]


def status(name: str = "clip.mp4", stage: Stage = Stage.QUEUED, **changes: Any) -> UploadStatus:
    return UploadStatus.model_validate(
        {
            "ticket": name,
            "stage": stage,
            "source": f"/data/{name}",
            "display_name": name,
            "mime_type": "video/mp4",
            "size_bytes": 12_000_000,
            **changes,
        }
    )


def console(*, terminal: bool, width: int = 200) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, record=True, highlight=False
    )


def shown(renderable: Any, width: int = 200) -> str:
    screen = console(terminal=False, width=width)
    screen.print(renderable)
    return screen.export_text()


def asking(*steps: Sequence[UploadStatus]) -> Callable[[], list[UploadStatus]]:
    """Answer with each step in turn, the last one again and again."""
    left = list(steps)
    return lambda: list(left.pop(0) if len(left) > 1 else left[0])


FAILURE = UploadFailedError("files/x", "FAILED", {"message": "no frames"})
ROAD = (
    [status(), status("b")],
    [status(stage=Stage.UPLOADING, sent_bytes=6_000_000), status("b")],
    [status(stage=Stage.PROCESSING, polls=1), status("b", Stage.UPLOADING)],
    [status(stage=Stage.ACTIVE), status("b", Stage.FAILED, error=FAILURE.as_record())],
)


class TestFollow:
    @pytest.mark.parametrize("terminal", [True, False])
    def test_it_ends_when_all_have_ended(self, terminal: bool) -> None:
        screen = console(terminal=terminal)
        assert display.follow(screen, asking(*ROAD)) == ROAD[-1]

    def test_in_lines_each_change_is_one(self) -> None:
        screen = console(terminal=False)
        display.follow(screen, asking(ROAD[0], *ROAD, ROAD[-1]))
        lines = screen.export_text().splitlines()
        assert [line for line in lines if line.startswith("clip")] == [
            *("clip.mp4: QUEUED", "clip.mp4: UPLOADING", "clip.mp4: PROCESSING", "clip.mp4: ACTIVE")
        ]
        assert [line for line in lines if line.startswith("b")] == [
            *("b: QUEUED", "b: UPLOADING", "b: FAILED")
        ]

    def test_in_lines_a_long_name_is_not_broken(self) -> None:
        screen = console(terminal=False, width=40)
        display.follow(screen, asking([status("x" * 300, Stage.ACTIVE)]))
        assert screen.export_text() == "x" * 300 + ": ACTIVE\n"

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_in_lines_names_are_literal(self, name: str) -> None:
        screen = console(terminal=False)
        display.follow(screen, asking([status(name, Stage.ACTIVE)]))
        assert screen.export_text() == f"{name}: ACTIVE\n"

    def test_on_a_terminal_rows_move(self) -> None:
        screen = console(terminal=True)
        display.follow(screen, asking(*ROAD))
        said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file_of(screen))
        for text in (
            "6.0 MB of 12.0 MB",
            "0.0 s, 1 poll",
            "2 QUEUED",
            "1 UPLOADING  1 PROCESSING",
            "1 ACTIVE  1 FAILED",
        ):
            assert text in said

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_on_a_terminal_names_are_literal(self, name: str) -> None:
        screen = console(terminal=True)
        display.follow(screen, asking([status(name, Stage.ACTIVE, note="[b]waits[/] :smile:")]))
        said = file_of(screen)
        assert name in said
        assert f"{name}: [b]waits[/] :smile:" in said

    def test_of_many_files_those_that_move_are_shown(self) -> None:
        waiting = [status(f"waiting-{n}") for n in range(100)]
        moving = [status(f"moving-{n}", Stage.UPLOADING) for n in range(5)]
        ended = [status("ended", Stage.ACTIVE)]
        said = shown(display._moving([*waiting, *ended, *moving]))
        for one in moving:
            assert one.display_name in said
        assert "ended" not in said
        assert len(said.splitlines()) <= 22
        assert "100 QUEUED  5 UPLOADING  1 ACTIVE" in said

    @pytest.mark.parametrize("stage", Stage)
    @pytest.mark.parametrize("size_bytes", [0, 1, 2 * 1024**3])
    def test_every_stage_can_be_drawn(self, stage: Stage, size_bytes: int) -> None:
        said = shown(display._moving([status(stage=stage, size_bytes=size_bytes)]))
        assert stage.value in said


def file_of(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


class TestSummary:
    def test_its_columns(self) -> None:
        active = status(
            stage=Stage.ACTIVE,
            queued_s=0.123,
            upload_s=1.5,
            processing_s=12.345,
            polls=4,
        )
        head, _, row = (
            line.rstrip() for line in shown(display.summary([active], 120)).splitlines()
        )
        assert re.split(r"\s{2,}", head) == [
            *(
                "File",
                "State",
                "Size",
                "MIME type",
                "Queued",
                "Upload",
                "Processing",
                "Polls",
            )
        ]
        assert re.split(r"\s{2,}", row) == [
            *("clip.mp4", "ACTIVE", "12.0 MB", "video/mp4", "0.12 s", "1.50 s", "12.35 s", "4"),
        ]

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_names_are_literal(self, name: str) -> None:
        row = shown(display.summary([status(name, Stage.ACTIVE)], 120)).splitlines()[-1]
        assert row.startswith(f"{name}  ")

    @pytest.mark.parametrize("width", [80, 100, 120])
    def test_on_a_narrow_terminal_nothing_is_cut(self, width: int) -> None:
        """80 is also what a pipe gets."""
        said = shown(display.summary([status("n" * 60 + ".mp4", Stage.ACTIVE)], width), width=width)
        assert said.count("n") >= 60
        assert ("Processing" if width >= 100 else "In all") in said
        assert "…" not in said
        assert max(map(len, said.splitlines())) <= width


class TestAddresses:
    def test_files_that_are_there(self) -> None:
        uri = "http://[fe80::1]:8123/v1beta/files/x"
        active = status("a\x1b.mp4", Stage.ACTIVE, uri=uri, id="files/x")
        without = status("b.mp4", Stage.ACTIVE, id="file-1")
        kept = status("c.mp4", Stage.TIMED_OUT, uri=uri, id="files/x")
        deleted = status("d.mp4", Stage.FAILED, id="files/y")
        assert display.addresses([active, without, kept, deleted, status()]) == [
            f"{uri}  a\N{REPLACEMENT CHARACTER}.mp4",
            "file-1  b.mp4",
            f"{uri}  c.mp4",
        ]


class TestProblems:
    def test_each_bad_end_is_a_sentence(self) -> None:
        failed = status("a", Stage.FAILED, error=FAILURE.as_record())
        cancelled = status("[b]", Stage.CANCELLED)
        assert display.problems([failed, status(), status(stage=Stage.ACTIVE), cancelled]) == [
            f"a: {FAILURE}",
            "[b]: CANCELLED",
        ]


def test_a_name_cannot_command_the_terminal() -> None:
    name = "a\x1b[2J\nb\x07.txt"
    for said in (
        shown(display.summary([status(name, Stage.ACTIVE)], 120)),
        "".join(map(printable, display.problems([status(name, Stage.FAILED)]))),
    ):
        assert "\x1b[2J" not in said
        assert "\x07" not in said
        assert "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}b" in said
