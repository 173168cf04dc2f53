"""A small set of real files to try: each opens in the program made for it."""

from __future__ import annotations

import math
import random
import struct
import wave
import zlib
from pathlib import Path

#: Enough video-typed bytes to see a progress bar move.
VIDEO_BYTES = 12 * 1024 * 1024


def make_samples(folder: Path, *, video: bool) -> list[Path]:
    """Write the samples into ``folder`` and return their paths.

    The video is bytes of that type only, made to be sent and not to be played: leave it out where
    a real service would look inside.
    """
    makers = {
        "sunset.png": _png(),
        "notes.txt": b"Files must be ACTIVE before they are used.\n" * 40,
        "report.pdf": _pdf("provider-uploads: a page that a real reader opens"),
    }
    if video:
        makers["clip.mp4"] = random.Random(7).randbytes(VIDEO_BYTES)  # noqa: S311 - not a secret
    paths = []
    for name, content in makers.items():
        (folder / name).write_bytes(content)
        paths.append(folder / name)
    _wav(folder / "tone.wav")
    return [*paths[:1], folder / "tone.wav", *paths[1:]]


def _png(width: int = 320, height: int = 180) -> bytes:
    rows = b"".join(
        b"\0" + bytes(v for x in range(width) for v in (255 - y // 2, 90 + x // 4, 60 + y))
        for y in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def _wav(path: Path, seconds: float = 1.0, rate: int = 16_000) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        samples = (math.sin(2 * math.pi * 440 * n / rate) for n in range(int(seconds * rate)))
        sound.writeframes(b"".join(struct.pack("<h", int(12_000 * s)) for s in samples))


def _pdf(text: str) -> bytes:
    drawn = f"BT /F1 18 Tf 60 760 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R"
        b"/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(drawn), drawn),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj%s\nendobj\n" % (number, body)
    xref = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, xref)
    return bytes(out)
