"""The samples are what their names say."""

from __future__ import annotations

import re
import struct
import wave
import zlib
from pathlib import Path

import pytest

from provider_uploads.local.samples import VIDEO_BYTES, make_samples
from provider_uploads.sources.mime import guess_type


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("samples")


@pytest.fixture(scope="module")
def samples(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in make_samples(folder, video=True)}


def test_which_there_are(samples: dict[str, Path], folder: Path) -> None:
    assert list(samples) == ["sunset.png", "tone.wav", "notes.txt", "report.pdf", "clip.mp4"]
    assert sorted(folder.iterdir()) == sorted(samples.values())
    assert [guess_type(name).split("/")[0] for name in samples] == [
        *("image", "audio", "text", "application", "video")
    ]


def test_no_video_where_somebody_looks_inside(tmp_path: Path) -> None:
    names = [path.name for path in make_samples(tmp_path, video=False)]
    assert names == ["sunset.png", "tone.wav", "notes.txt", "report.pdf"]
    assert not (tmp_path / "clip.mp4").exists()


def test_they_are_the_same_each_time(samples: dict[str, Path], folder: Path) -> None:
    before = {name: path.read_bytes() for name, path in samples.items()}
    make_samples(folder, video=True)
    assert {name: path.read_bytes() for name, path in samples.items()} == before


def test_the_picture_decodes(samples: dict[str, Path]) -> None:
    data = samples["sunset.png"].read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (check,) = struct.unpack_from(">I", data, at + 8 + length)
        assert zlib.crc32(kind + body) == check
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 2)
    assert len(zlib.decompress(chunks[b"IDAT"])) == height * (1 + 3 * width)


def test_the_sound_plays(samples: dict[str, Path]) -> None:
    with wave.open(str(samples["tone.wav"])) as sound:
        assert sound.getnframes() == sound.getframerate()  # one second
        frames = sound.readframes(sound.getnframes())
    heights = struct.unpack(f"<{len(frames) // 2}h", frames)
    assert max(heights) == 12_000


def test_the_page_opens(samples: dict[str, Path]) -> None:
    """A reader begins at the end: the table's address, then each object's."""
    data = samples["report.pdf"].read_bytes()
    begin = re.search(rb"startxref\n(\d+)\n%%EOF\n$", data)
    assert begin
    table = data[int(begin[1]) :]
    assert table.startswith(b"xref\n0 6\n")
    entries = re.findall(rb"(\d{10}) \d{5} ([nf]) \n", table)
    assert len(entries) == 6
    for number, (offset, kind) in enumerate(entries):
        if kind == b"n":
            assert data[int(offset) :].startswith(b"%d 0 obj" % number)
    stream = re.search(rb"/Length (\d+)>>stream\n(.*?)\nendstream", data, re.DOTALL)
    assert stream
    assert int(stream[1]) == len(stream[2])


def test_the_video_is_large_enough_to_watch(samples: dict[str, Path]) -> None:
    assert samples["clip.mp4"].stat().st_size == VIDEO_BYTES
