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


#: About eight minutes on two cores.
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
)
