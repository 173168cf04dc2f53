"""How many workers a load needs, from what one was measured to do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.figures import Figure, Series
from benchmarks.side_by_side import CPU, LATENCY_MS, NO_LATENCY, REQUESTS, SLOTS, TEXT, VIDEO

_LOADS = (10, 50, 200, 1000)
_SECONDS = (0.1, 1.0, 10.0)


def sizing(figures: Sequence[Figure]) -> str:
    """Return the paragraph and the table."""
    speed = _ours(figures, TEXT, NO_LATENCY).median
    cpu_ms = _ours(figures, TEXT, CPU).median
    requests = _ours(figures, TEXT, REQUESTS).median
    wait_ms = _ours(figures, VIDEO, CPU).median - cpu_ms
    late = SLOTS / (LATENCY_MS / 1000 * requests)
    return "\n".join(
        [
            f"- A transfer worker of {SLOTS} slots: {speed:.0f} files a second of 1 KiB, at "
            f"{cpu_ms:.1f} ms of CPU each, when the provider answers at once. A process is one "
            "Python: it uses one core at most, so more files need more processes.",
            f"- With latency its slots limit it: slots ÷ the seconds that a file takes. At "
            f"{LATENCY_MS:g} ms a request and {requests:.3g} requests a file that is {SLOTS} ÷ "
            f"{LATENCY_MS / 1000 * requests:.2g} = {late:.0f} files a second.",
            f"- A control worker: {1000 / wait_ms:.0f} files a second that become ACTIVE after a "
            f"wait, at {wait_ms:.1f} ms of CPU each: what a video costs more than a text file, all "
            "its polls together.",
            "",
            f"Transfer workers, of {SLOTS} slots:",
            "",
            "| files a second | " + " | ".join(f"{s:g} s a file" for s in _SECONDS) + " |",
            "|---:|" + "---:|" * len(_SECONDS),
            *(
                f"| {load:,} | "
                + " | ".join(f"{_workers(load, seconds, speed):,}" for seconds in _SECONDS)
                + " |"
                for load in _LOADS
            ),
        ]
    )


def _workers(load: float, seconds: float, speed: float) -> int:
    """As many as the slots need, and at least as many as the CPU needs."""
    return math.ceil(max(load * seconds / SLOTS, load / speed))


def _ours(figures: Sequence[Figure], benchmark: str, what: str) -> Series:
    return next(f.ours for f in figures if f.benchmark == benchmark and f.what == what)
