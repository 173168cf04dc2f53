"""Which MIME type a name stands for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_uploads.schemas import UploadRequest, checked
from provider_uploads.sources.mime import UNKNOWN, guess_type


@pytest.mark.parametrize(
    ("name", "mime_type"),
    [
        # text and code
        ("notes.txt", "text/plain"),
        ("README.md", "text/markdown"),
        ("main.py", "text/x-python"),
        ("app.ts", "text/plain"),  # Python: text/vnd.trolltech.linguist
        ("kernel.cu", "text/plain"),  # Python: application/cu-seeme
        ("lib.rs", "text/plain"),  # Python: application/rls-services+xml
        ("page.html", "text/html"),
        ("table.csv", "text/csv"),
        ("feed.xml", "text/xml"),
        ("conf.yaml", "text/plain"),
        ("Makefile", "text/plain"),
        ("Dockerfile", "text/plain"),
        ("LICENSE", "text/plain"),
        (".gitignore", "text/plain"),
        ("requests.jsonl", "application/jsonl"),
        ("data.json", "application/json"),
        # media, by the names that the API documents
        ("tone.wav", "audio/wav"),
        ("song.mp3", "audio/mpeg"),
        ("clip.mp4", "video/mp4"),
        ("clip.MOV", "video/quicktime"),
        ("phone.3gp", "video/3gpp"),
        ("photo.HEIC", "image/heic"),
        ("photo.jpeg", "image/jpeg"),
        ("report.pdf", "application/pdf"),
        # names that say nothing
        ("data.unheardof", UNKNOWN),
        ("noextension", UNKNOWN),
        ("", UNKNOWN),
        (".", UNKNOWN),
        # what counts is the last suffix, and only the last component
        ("backup.tar.gz", "application/gzip"),
        ("notes.md/data.bin", "application/octet-stream"),
        ("v1.2/report.PDF", "application/pdf"),
    ],
)
def test_names(name: str, mime_type: str) -> None:
    assert guess_type(name) == mime_type


@given(st.text(max_size=60))
def test_whatever_the_name_it_is_a_type_the_payload_takes(name: str) -> None:
    values = {
        "upload_id": "0" * 32,
        "source": "/x",
        "display_name": "x",
        "mime_type": guess_type(name),
        "size_bytes": 0,
    }
    assert checked(UploadRequest, values).mime_type == guess_type(name)


def test_it_is_the_same_on_every_machine(tmp_path: Path) -> None:
    """Neither the system's tables nor what the host application added count."""
    code = (
        "import mimetypes; mimetypes.add_type('application/x-theirs', '.mp4')\n"
        "mimetypes.init(); mimetypes.add_type('application/x-theirs', '.pdf')\n"
        "from provider_uploads.sources.mime import guess_type\n"
        "print(guess_type('a.mp4'), guess_type('a.pdf'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "video/mp4 application/pdf\n"


def test_no_name_means_two_things() -> None:
    from provider_uploads.sources import mime

    assert not mime._PLAIN_TEXT & set(mime._DOCUMENTED)
    assert all(suffix == suffix.lower() for suffix in mime._PLAIN_TEXT | set(mime._DOCUMENTED))
