"""Many small files: what the road itself costs when the bytes cost nothing."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures import Figure, Series
from benchmarks.harness import Delivery, harness
from benchmarks.peer import NAME, THREADS, Peer, Work
from benchmarks.plan import Plan, Step

_SIZE_BYTES = 1024
_TYPE = "text/plain"


def small_files(plan: Plan, step: Step) -> list[Figure]:
    """Deliver text files of 1 KiB, ACTIVE at once: one worker, and google-genai in threads."""
    count = plan.small_files
    ours: list[Delivery] = []
    theirs: list[Work] = []
    bare: list[Work] = []
    requests: list[int] = []
    their_requests: list[int] = []
    with harness() as here, Peer(here.provider.url) as peer:
        paths = write_files(here.folder, count, ".txt")
        step("warming up")
        here.deliver(paths[: 2 * THREADS])
        peer.upload(paths[: 2 * THREADS], _TYPE, check=True)
        for number in range(plan.rounds):
            step(f"round {number + 1} of {plan.rounds}, ours")
            with here.provider.counted(count, _SIZE_BYTES) as account:
                ours.append(here.deliver(paths))
            requests.append(account.total)
            step(f"round {number + 1} of {plan.rounds}, {NAME}")
            with here.provider.counted(count, _SIZE_BYTES) as account:
                theirs.append(peer.upload(paths, _TYPE, check=True))
            their_requests.append(account.total)
            with here.provider.counted(count, _SIZE_BYTES):
                bare.append(peer.upload(paths, _TYPE))

    benchmark = f"{count} files of 1 KiB"
    speed = Series.of(count / delivery.wall_s for delivery in ours)
    cpu = Series.of(delivery.cpu_ms / count for delivery in ours)
    with_get, alone = f"{NAME}, {THREADS} threads, upload + get", f"{NAME}, upload alone"
    return [
        Figure(benchmark, "throughput", "files/s", "more", speed, with_get, _speed(theirs, count)),
        Figure(benchmark, "throughput", "files/s", "more", speed, alone, _speed(bare, count)),
        Figure(benchmark, "CPU a file", "ms", "less", cpu, with_get, _cpu(theirs, count)),
        Figure(benchmark, "CPU a file", "ms", "less", cpu, alone, _cpu(bare, count)),
        Figure(
            benchmark,
            "requests to the provider a file",
            "",
            "less",
            Series.of(total / count for total in requests),
            with_get,
            Series.of(total / count for total in their_requests),
        ),
    ]


def write_files(folder: Path, count: int, suffix: str) -> list[Path]:
    """Write files of 1 KiB, no two the same."""
    paths = [folder / f"{number:04}{suffix}" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(f"{number:08}".encode() * (_SIZE_BYTES // 8))
    return paths


def _speed(works: list[Work], count: int) -> Series:
    return Series.of(count / work.wall_s for work in works)


def _cpu(works: list[Work], count: int) -> Series:
    return Series.of(work.cpu_ms / count for work in works)
