"""How much is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: Told what runs now.
Step = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Counts and sizes; every figure is taken once a round."""

    rounds: int
    submits: int
    batch_files: int
    small_files: int
    large_rounds: int
    large_mib: int
    videos: int
    limit_per_minute: int
    limited_files: int
    crowd: int
    web_requests: int
    streams: int
    batch_lines: int
    inline_mb: int
    waiting_batches: int
    waiting_s: float
    waiting_files: int
    waiting_per_s: int
    few_waiting: int
    peer_files: int
    peer_videos: int
    #: Where workers are counted.
    peer_rounds: int
    peer_workers: tuple[int, ...]
    #: Only these peers; none: all.
    peers: tuple[str, ...] = ()
    starts: int


#: The peers and the start took eleven minutes on two cores, in two rounds.
FULL = Plan(
    rounds=5,
    submits=500,
    batch_files=1000,
    small_files=500,
    large_rounds=3,
    large_mib=1024,
    videos=100,
    limit_per_minute=120,
    limited_files=150,
    crowd=3000,
    web_requests=4000,
    streams=500,
    batch_lines=100_000,
    inline_mb=19,
    waiting_batches=1000,
    waiting_s=60.0,
    waiting_files=10_000,
    waiting_per_s=170,
    few_waiting=50,
    peer_files=400,
    peer_videos=200,
    peer_rounds=3,
    peer_workers=(1, 2, 4),
    starts=10,
)

#: Shows that everything runs; its figures say little.
QUICK = Plan(
    rounds=2,
    submits=100,
    batch_files=100,
    small_files=50,
    large_rounds=1,
    large_mib=24,
    videos=20,
    limit_per_minute=600,
    limited_files=60,
    crowd=400,
    web_requests=400,
    streams=50,
    batch_lines=2000,
    inline_mb=1,
    waiting_batches=20,
    waiting_s=5.0,
    waiting_files=300,
    waiting_per_s=60,
    few_waiting=10,
    peer_files=64,
    peer_videos=32,
    peer_rounds=1,
    peer_workers=(1, 2),
    starts=3,
)
