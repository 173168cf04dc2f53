"""Two versions of this project side by side: the one that stands here, and a later one.

The later one is this one with a payload, a row and a stage that this one does not know.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.nodes import ROOT, Process, WorkerProcess

_LATER = {
    "src/provider_uploads/protocol.py": [
        ("PAYLOAD_VERSION: Final = 2", "PAYLOAD_VERSION: Final = 3")
    ],
    "src/provider_uploads/schemas/uploads.py": [
        ("version: Literal[1, 2] = 1", "version: Literal[1, 2, 3] = 3\n    shelf: str = 'top'"),
        # What an older reader does not know is left out of what an older writer began.
        (
            'return set() if self.notify else {"notify"}',
            "newer = set() if self.version > 2 else {'shelf'}\n"
            "        return newer | (set() if self.notify else {'notify'})",
        ),
        ('UPLOADING = "UPLOADING"', 'MEASURING = "MEASURING"\n    UPLOADING = "UPLOADING"'),
    ],
    "src/provider_uploads/ledger/state.py": [
        ("generation: int = 0", "generation: int = 0\n    measured: str | None = None"),
        ("(Stage.QUEUED, Stage.UPLOADING)", "(Stage.QUEUED, Stage.MEASURING, Stage.UPLOADING)"),
    ],
    "src/provider_uploads/ledger/upload_steps.py": [
        ("LIVING: Final = (Stage.QUEUED,", "LIVING: Final = (Stage.QUEUED, Stage.MEASURING,"),
        ("return change((Stage.QUEUED,), ", "return change((Stage.QUEUED, Stage.MEASURING), "),
    ],
    "src/provider_uploads/ledger/upload_functions.lua": [
        ("stage == 'QUEUED' or", "stage == 'QUEUED' or stage == 'MEASURING' or"),
    ],
    "src/provider_uploads/fleet/attempt_begin.lua": [
        ("stage ~= 'QUEUED' and", "stage ~= 'QUEUED' and stage ~= 'MEASURING' and"),
    ],
    "src/provider_uploads/ledger/uploads.py": [
        ("(Stage.QUEUED, Stage.UPLOADING)", "(Stage.QUEUED, Stage.MEASURING, Stage.UPLOADING)"),
        (
            "    def uploading(",
            "    def measuring(self, ticket: str) -> None:\n"
            "        now = (Stage.QUEUED,)\n"
            "        values = {'stage': Stage.MEASURING, 'measured': 'yes'}\n"
            "        self._update(ticket, now, values=values)\n\n"
            "    def uploading(",
        ),
    ],
    "tasks/upload.py": [
        ("_send(self, request, lease)", "_send(self, _measured(request), lease)"),
        ("row.stage is Stage.QUEUED\n", "row.stage in (Stage.QUEUED, Stage.MEASURING)\n"),
        (
            "def _send(",
            "def _measured(request):\n"
            "    ledger().measuring(request.upload_id)\n"
            "    time.sleep(0.1)\n"
            "    return request\n\n\n"
            "def _send(",
        ),
    ],
}


def later_tree(folder: Path) -> Path:
    """Copy what makes a wheel, and change it into the later version."""
    skipped = shutil.ignore_patterns(".venv", ".git", "tests", "docs", "benchmarks", "*cache*")
    shutil.copytree(ROOT, folder, ignore=skipped)
    for name, changes in _LATER.items():
        path = folder / name
        text = path.read_text("utf-8")
        for before, after in changes:
            assert before in text, f"{name} has changed: {before!r} is not in it"
            text = text.replace(before, after)
        path.write_text(text, "utf-8")
    return folder


def installed(tree: Path, folder: Path) -> Path:
    """Build the wheel of a tree and install it, alone, into a folder for ``PYTHONPATH``."""
    wheels = folder.with_suffix(".wheels")
    build = [
        sys.executable,
        "-m",
        "build",
        "--quiet",
        "--wheel",
        "--outdir",
        str(wheels),
        str(tree),
    ]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = wheels.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, str(folder), str(wheel)], check=True, capture_output=True, timeout=300)
    return folder


class Version:
    """One version, as its wheel installs it."""

    def __init__(self, path: Path, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._env = {**env, "PYTHONPATH": str(path), "PROVIDER_UPLOADS_ENV_FILE": ""}

    def worker(self, name: str) -> WorkerProcess:
        argv = [sys.executable, "-m", "provider_uploads", "worker", "--hostname", f"{name}@%h"]
        argv += ["--without-gossip", "--without-mingle"]
        node = WorkerProcess(
            Process(argv, name=name, folder=self._folder, env=self._env, cwd=self._folder)
        )
        node.ready()
        return node

    def beat(self) -> Process:
        schedule = str(self._folder / "beat-schedule")
        argv = [sys.executable, "-m", "provider_uploads", "beat", "--schedule", schedule]
        return Process(argv, name="beat", folder=self._folder, env=self._env, cwd=self._folder)

    def submit(self, path: Path, count: int, *, many: bool = False) -> list[str]:
        """Submit a file so many times, by this version's client."""
        code = (
            "import sys; from provider_uploads import UploadQueue\n"
            "path, count, many = sys.argv[1], int(sys.argv[2]), sys.argv[3] == 'True'\n"
            "options = {'poll_s': 0.2, 'max_poll_s': 0.5, 'jitter_s': 0.0}\n"
            "with UploadQueue() as queue:\n"
            "    if many:\n"
            "        print(*queue.submit_many([path] * count, **options))\n"
            "    else:\n"
            "        print(*(queue.submit(path, **options) for _ in range(count)))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), str(count), str(many)],
            env={**os.environ, **self._env},
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()
