"""Sources: what may be read, and that nothing else ever is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from provider_uploads.errors import (
    SourceChangedError,
    SourceError,
    SourceKindError,
    SourceNotAllowedError,
    SourceNotFoundError,
    SourceTooLargeError,
    SourceUnreadableError,
)
from provider_uploads.protocol import MAX_FILE_BYTES
from provider_uploads.sources.base import SourcePolicy
from provider_uploads.sources.open import open_source
from tests.nodes import wait_until

MakeFile = Callable[..., Path]


@pytest.fixture
def root(make_file: MakeFile) -> Path:
    return make_file("inside.txt", 10).parent.resolve()


def within(*roots: Path) -> SourcePolicy:
    return SourcePolicy(roots)


class TestRegularFiles:
    @pytest.mark.parametrize("name", ["a.txt", "Fluß 映画 🏞.mp4", "a b\n'\"[red]", "-", ".hidden"])
    def test_is_open_at_its_first_byte(self, make_file: MakeFile, name: str) -> None:
        path = make_file(name, 1234)
        with open_source(path) as source:
            assert source.size_bytes == 1234
            assert source.stream.read() == path.read_bytes()
            assert source.path == str(path)
        assert source.stream.closed

    def test_an_empty_one(self, make_file: MakeFile) -> None:
        with open_source(make_file("empty", 0)) as source:
            assert source.size_bytes == 0
            assert source.stream.read() == b""

    def test_a_relative_path(self, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(make_file("a.txt", 5).parent)
        with open_source("a.txt", within(Path.cwd().resolve())) as source:
            assert source.size_bytes == 5

    def test_a_link_to_one(self, make_file: MakeFile, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(make_file("a.txt", 5))
        with open_source(link) as source:
            assert (source.size_bytes, source.path) == (5, str(link))

    def test_as_large_as_the_provider_takes(self, make_file: MakeFile) -> None:
        path = make_file("huge", 0)
        os.truncate(path, MAX_FILE_BYTES)  # sparse: it takes no room
        with open_source(path) as source:
            assert source.size_bytes == MAX_FILE_BYTES
        os.truncate(path, MAX_FILE_BYTES + 1)
        with pytest.raises(SourceTooLargeError) as caught:
            open_source(path)
        assert caught.value.args == (str(path), MAX_FILE_BYTES + 1, MAX_FILE_BYTES)

    def test_unchanged(self, make_file: MakeFile) -> None:
        with open_source(make_file("a", 10)) as source:
            assert source.unchanged(10) is source
            for size in (0, 9, 11):
                with pytest.raises(SourceChangedError) as caught:
                    source.unchanged(size)
                assert caught.value.args == (source.path, size, 10)

    def test_a_child_process_does_not_inherit_it(self, make_file: MakeFile) -> None:
        with open_source(make_file("a", 10)) as source:
            assert not os.get_inheritable(source.stream.fileno())


class TestOtherThings:
    def test_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(SourceNotFoundError) as caught:
            open_source(tmp_path / "missing")
        assert caught.value.path == str(tmp_path / "missing")

    def test_a_link_to_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("missing")
        with pytest.raises(SourceNotFoundError):
            open_source(tmp_path / "link")

    def test_a_link_to_itself(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("link")
        with pytest.raises(SourceUnreadableError, match="symbolic links"):
            open_source(tmp_path / "link")

    def test_below_a_file(self, make_file: MakeFile) -> None:
        with pytest.raises(SourceError, match=r"cannot be read \(Not a directory\)"):
            open_source(make_file("a") / "b")

    @pytest.mark.parametrize("path", ["", ".", "/"])
    def test_a_directory(self, path: str) -> None:
        with pytest.raises(SourceKindError, match="is a directory"):
            open_source(path)

    def test_a_fifo_does_not_hold_us_up(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        raised: list[BaseException] = []

        def attempt() -> None:
            try:
                open_source(tmp_path / "fifo")
            except SourceKindError as error:
                raised.append(error)

        threading.Thread(target=attempt, daemon=True).start()
        wait_until(lambda: raised, "a refusal without waiting for a writer", 5)
        assert "a FIFO" in str(raised[0])

    def test_a_socket(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(tmp_path / "s"))
            with pytest.raises(SourceKindError, match="a socket"):
                open_source(tmp_path / "s")

    def test_a_device(self) -> None:
        with pytest.raises(SourceKindError, match="a character device"):
            open_source("/dev/zero")

    def test_a_name_with_a_nul(self) -> None:
        with pytest.raises(SourceUnreadableError, match=r"a\\0b cannot be read \(null"):
            open_source("a\0b")

    def test_a_name_that_is_too_long(self, tmp_path: Path) -> None:
        with pytest.raises(SourceUnreadableError, match="File name too long"):
            open_source(tmp_path / ("x" * 300))

    def test_a_refusal_leaves_nothing_open(self, tmp_path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for path in (tmp_path, Path("/dev/zero"), tmp_path / "missing"):
            with pytest.raises(SourceError):
                open_source(path)
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


class TestRoots:
    def test_inside(self, root: Path) -> None:
        with open_source(root / "inside.txt", within(Path("/nowhere"), root)) as source:
            assert source.size_bytes == 10

    @pytest.mark.parametrize(
        "path", ["../outside.txt", "sub/../../outside.txt", "link", "up/outside.txt"]
    )
    def test_outside_by_any_way(self, root: Path, tmp_path: Path, path: str) -> None:
        outside = tmp_path / "outside.txt"
        outside.write_text("secret")
        (root / "sub").mkdir()
        (root / "link").symlink_to(outside)
        (root / "up").symlink_to("..")
        with pytest.raises(SourceNotAllowedError) as caught:
            open_source(root / path, within(root))
        assert caught.value.resolved == str(outside.resolve())
        assert caught.value.roots == str(root)

    def test_a_neighbour_with_a_longer_name(self, root: Path) -> None:
        neighbour = root.with_name(root.name + "-private")
        neighbour.mkdir()
        (neighbour / "a").write_text("secret")
        with pytest.raises(SourceNotAllowedError):
            open_source(neighbour / "a", within(root))

    def test_no_roots_allow_nothing(self, root: Path) -> None:
        with pytest.raises(SourceNotAllowedError):
            open_source(root / "inside.txt", within())

    def test_what_is_outside_is_not_even_looked_for(self, root: Path) -> None:
        """Otherwise the answer tells which files there are."""
        with pytest.raises(SourceNotAllowedError):
            open_source("/etc/no-such-file", within(root))

    def test_a_link_inside_to_inside(self, root: Path) -> None:
        (root / "link").symlink_to("inside.txt")
        with open_source(root / "link", within(root)) as source:
            assert source.size_bytes == 10

    @pytest.mark.parametrize("swapped", ["file", "folder"])
    def test_a_link_swapped_in_is_never_followed(
        self, root: Path, tmp_path: Path, swapped: str
    ) -> None:
        """Another process swaps a file, or its folder, for a link while we open it."""
        outside, inside = tmp_path / "outside", root / "sub"
        for folder, text in ((outside, "secret"), (inside, "harmless")):
            folder.mkdir()
            (folder / "x").write_text(text)
        target, aim = (inside / "x", outside / "x") if swapped == "file" else (inside, outside)
        code = """
            import os, sys
            target, aim = sys.argv[1:]
            os.symlink(aim, target + ".link")
            while True:
                os.rename(target, target + ".real")
                os.rename(target + ".link", target)
                os.rename(target, target + ".link")
                os.rename(target + ".real", target)
        """
        swapping = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(target), str(aim)]
        )
        read: set[bytes] = set()
        refused = 0
        try:
            wait_until(target.is_symlink, "the swapping has begun")
            for _ in range(3000):
                try:
                    with open_source(inside / "x", within(root)) as source:
                        read.add(source.stream.read())
                except SourceError:
                    refused += 1
        finally:
            swapping.kill()
            swapping.wait()
        assert refused
        assert b"secret" not in read
