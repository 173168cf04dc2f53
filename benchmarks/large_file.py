"""One large file over a line with latency: bytes a second, and memory."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from benchmarks import curl
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, Series
from benchmarks.harness import Harness, harness
from benchmarks.peer import NAME, Peer
from benchmarks.plan import Plan, Step

_MIB = 1024**2
_TYPE = "application/octet-stream"
_LATENCY_MS = 50.0
#: What must stay free on the disk beside the file and the provider's copy.
_SPARE_BYTES = 512 * _MIB


def large_file(plan: Plan, step: Step) -> list[Figure]:
    """Deliver one large file; the provider answers each request 50 ms late."""
    size_bytes = plan.large_mib * _MIB
    walls: list[float] = []
    sends: list[float] = []
    memory: list[float] = []
    sdk_walls: list[float] = []
    sdk_memory: list[float] = []
    curl_walls: list[float] = []
    with harness(latency_ms=_LATENCY_MS) as here, Peer(here.provider.url) as peer:
        step(f"writing {plan.large_mib} MiB")
        path = _write(here.folder, plan.large_mib)
        step("warming up")
        small = here.folder / "small.bin"
        small.write_bytes(b"x" * 1024)
        here.deliver([small] * 8)
        peer.upload([small] * 8, _TYPE)
        idle_mib, sdk_idle_mib = here.worker.memory_mib(), peer.meter.memory_mib()
        for number in range(plan.large_rounds):
            step(f"round {number + 1} of {plan.large_rounds}, ours")
            with here.provider.counted(1, size_bytes), here.worker.peak() as peak:
                wall_s, send_s = _ours(here, path)
            walls.append(wall_s)
            sends.append(send_s)
            memory.append(peak[0] - idle_mib)
            step(f"round {number + 1} of {plan.large_rounds}, {NAME}")
            with here.provider.counted(1, size_bytes), peer.meter.peak() as peak:
                sdk_walls.append(peer.upload([path], _TYPE).wall_s)
            sdk_memory.append(peak[0] - sdk_idle_mib)
            if curl.installed():
                step(f"round {number + 1} of {plan.large_rounds}, curl")
                with here.provider.counted(1, size_bytes):
                    curl_walls.append(curl.upload_s(here.provider.url, path, _TYPE))

    def speed(seconds: list[float]) -> Series:
        return Series.of(size_bytes / 1e6 / s for s in seconds)

    benchmark = f"one file of {plan.large_mib:,} MiB, {_LATENCY_MS:g} ms a request"
    ours = speed(walls)
    return [
        Figure(benchmark, "submit to ACTIVE", "MB/s", "more", ours, NAME, speed(sdk_walls)),
        Figure(benchmark, "submit to ACTIVE", "MB/s", "more", ours, curl.NAME, speed(curl_walls))
        if curl_walls
        else Figure(
            benchmark, "submit to ACTIVE", "MB/s", "more", ours, "curl is not installed here"
        ),
        Figure(benchmark, "upload_s of the result", "MB/s", "more", speed(sends)),
        Figure(
            benchmark,
            "peak memory above idle",
            "MiB",
            "less",
            Series.of(memory),
            NAME,
            Series.of(sdk_memory),
        ),
    ]


def _ours(here: Harness, path: Path) -> tuple[float, float]:
    delivery = here.deliver([path])
    return delivery.wall_s, delivery.results[0].upload_s


def _write(folder: Path, mib: int) -> Path:
    """Write a file whose every MiB differs, so that no byte can be left out unnoticed."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < 2 * mib * _MIB + _SPARE_BYTES:
        raise BenchmarkError(
            f"{folder} has {free_bytes // _MIB} MiB free, twice {mib} MiB and some are needed. "
            "Name a smaller file with --size-mib, or another place with TMPDIR."
        )
    path = folder / "large.bin"
    block = random.Random(7).randbytes(_MIB - 8)
    with path.open("wb") as file:
        for number in range(mib):
            file.write(number.to_bytes(8, "big") + block)
    return path
