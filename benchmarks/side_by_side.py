"""Ours beside what a user would write instead: the same files, Redis and provider, in turns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import OURS, Contender, contenders
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Better, Figure, Series
from benchmarks.harness import Harness, harness
from benchmarks.plan import Plan, Step
from benchmarks.round_trips import round_trips
from benchmarks.small_files import write_files

TEXT = "text files of 1 KiB, one worker"
PROCESSING_S, _POLL_S = 1.0, 0.5
VIDEO = f"videos of 1 KiB, {PROCESSING_S:g} s PROCESSING, one worker"
LATENCY_MS = 50.0
SLOTS = 16
#: Of a worker where workers are counted: the limit is then within what two cores can do.
_FEW_SLOTS = 4
SCALING = f"text files of 1 KiB, {LATENCY_MS:g} ms, workers of {_FEW_SLOTS} slots"
UNHINDERED = f"text files of 1 KiB, no latency, workers of {SLOTS} slots"
_SIZE_BYTES = 1024
#: The columns.
CPU, NO_LATENCY, LATE = "CPU a file", "no latency", f"{LATENCY_MS:g} ms"
REQUESTS, MEMORY = "requests a file", "memory"
#: Fewer, and the kernel's clock of 10 ms is too coarse for the CPU of a file.
_LEAST_FOR_CPU = 24
#: Our worker's limits are all on, as in every tier, and far from being reached.
_TIER = {
    "upload": '"1000000/m"',
    "poll": '"1000000/m"',
    "delete": '"1000000/m"',
    "storage_bytes": "20000000000",
}


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one contender did with its files in one round."""

    files: int
    wall_s: float
    cpu_ms: float
    requests: int
    memory_mib: float
    slots: int

    @property
    def speed(self) -> float:
        return self.files / self.wall_s

    @property
    def cpu_a_file(self) -> float:
        return self.cpu_ms / self.files

    @property
    def requests_a_file(self) -> float:
        return self.requests / self.files

    @property
    def share(self) -> float:
        """The speed, of what the slots could do if nothing but the latency took time."""
        return self.speed * self.requests_a_file * LATENCY_MS / 1000 / self.slots


_Turns = dict[str, list[_Turn]]
#: How many files a contender gets.
_Count = Callable[[Contender], int]


def peers(plan: Plan, step: Step) -> list[Figure]:
    """Deliver text files and videos, with and without latency, by one worker and by several."""
    with _harness(0.0, 1, SLOTS) as here:
        step("Redis round trips")
        trips = round_trips(here, plan.peer_files)
    with _field(plan, 0.0, 1, SLOTS) as (here, field):
        run = _Run(here, field, plan.rounds, step)
        text = run.turns(".txt", lambda _: plan.peer_files)
        video = run.turns(".mp4", lambda who: _videos(plan, who))
    with _field(plan, LATENCY_MS, 1, SLOTS) as (here, field):
        run = _Run(here, field, plan.rounds, step)
        late_text = run.turns(".txt", lambda who: _by_slots(plan, who))
        late_video = run.turns(".mp4", lambda who: _videos(plan, who))
    figures = [
        *_figures(TEXT, CPU, "ms", "less", text, lambda turn: turn.cpu_a_file),
        *_figures(TEXT, NO_LATENCY, "files/s", "more", text, lambda turn: turn.speed),
        *_figures(TEXT, LATE, "files/s", "more", late_text, lambda turn: turn.speed),
        *_figures(TEXT, REQUESTS, "", "less", text, lambda turn: turn.requests_a_file),
        *_figures(TEXT, MEMORY, "MiB", "less", text, lambda turn: turn.memory_mib),
        *_figures(VIDEO, CPU, "ms", "less", video, lambda turn: turn.cpu_a_file),
        *_figures(VIDEO, NO_LATENCY, "files/s", "more", video, lambda turn: turn.speed),
        *_figures(VIDEO, LATE, "files/s", "more", late_video, lambda turn: turn.speed),
        *_figures(VIDEO, REQUESTS, "", "less", video, lambda turn: turn.requests_a_file),
        *trips,
    ]
    for workers in plan.peer_workers:
        with _field(plan, LATENCY_MS, workers, _FEW_SLOTS) as (here, field):
            run = _Run(here, field, plan.peer_rounds, step)
            turns = run.turns(".txt", lambda who: _by_slots(plan, who))
        figures += _figures(SCALING, _count(workers), "files/s", "more", turns, lambda t: t.speed)
        figures += _figures(
            SCALING, f"{_count(workers)}, of the limit", "", "more", turns, lambda t: t.share
        )
    for workers in plan.peer_workers:
        if workers == 1:
            turns = text
        else:
            with _field(plan, 0.0, workers, SLOTS) as (here, field):
                run = _Run(here, field, plan.peer_rounds, step)
                turns = run.turns(".txt", lambda _: plan.peer_files)
        figures += _figures(
            UNHINDERED, _count(workers), "files/s", "more", turns, lambda t: t.speed
        )
    return figures


def _count(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"


def _by_slots(plan: Plan, who: Contender) -> int:
    """With latency, as many as take everybody about equally long."""
    return max(plan.peer_files * who.slots // SLOTS, who.slots)


def _videos(plan: Plan, who: Contender) -> int:
    """Whoever holds a slot while a video is PROCESSING fills its slots three times."""
    return plan.peer_videos if who.name == OURS else 3 * who.slots


def _harness(latency_ms: float, workers: int, slots: int) -> AbstractContextManager[Harness]:
    return harness(
        latency_ms=latency_ms, processing_s=PROCESSING_S, tier=_TIER, workers=workers, slots=slots
    )


@contextmanager
def _field(
    plan: Plan, latency_ms: float, workers: int, slots: int
) -> Iterator[tuple[Harness, list[Contender]]]:
    with (
        _harness(latency_ms, workers, slots) as here,
        contenders(here, workers, slots, plan.peers) as field,
    ):
        yield here, field


class _Run:
    """One harness and all contenders, warm."""

    def __init__(self, here: Harness, field: Sequence[Contender], rounds: int, step: Step) -> None:
        self._here = here
        self._field = field
        self._rounds = rounds
        self._step = step
        self._written: dict[str, list[Path]] = {}
        for who in field:
            step(f"warming up {who.name}")
            who.deliver(self.paths(".txt", 4 * who.slots), _POLL_S)

    def paths(self, suffix: str, count: int) -> list[Path]:
        """Return so many files."""
        if len(self._written.get(suffix, ())) < count:
            self._written[suffix] = write_files(self._here.folder, count, suffix)
        return self._written[suffix][:count]

    def turns(self, suffix: str, count: _Count) -> _Turns:
        """Let everybody deliver files, round by round."""
        taken: _Turns = defaultdict(list)
        for number in range(self._rounds):
            for who in self._field:
                files = count(who)
                self._step(f"round {number + 1} of {self._rounds}, {files} {suffix}, {who.name}")
                paths = self.paths(suffix, files)
                with self._here.provider.counted(files, _SIZE_BYTES) as account:
                    work = who.deliver(paths, _POLL_S)
                # Our polls are fewer requests where a list tells of many files at once.
                if work.polls < account.requests.get("get", 0):
                    raise BenchmarkError(
                        f"{who.name} counted {work.polls} polls, the provider "
                        f"{account.requests.get('get', 0)}"
                    )
                taken[who.name].append(
                    _Turn(
                        files,
                        work.wall_s,
                        work.cpu_ms,
                        account.total,
                        who.meter.tree_mib(),
                        who.slots,
                    )
                )
        return taken


def _figures(
    benchmark: str,
    what: str,
    unit: str,
    better: Better,
    turns: _Turns,
    value: Callable[[_Turn], float],
) -> list[Figure]:
    def series(name: str) -> Series:
        return Series.of(map(value, turns[name]))

    ours = series(OURS)
    figures = [
        Figure(benchmark, what, unit, better, ours, name, series(name))
        for name in turns
        if name != OURS and not (what == CPU and turns[name][0].files < _LEAST_FOR_CPU)
    ]
    return figures or [Figure(benchmark, what, unit, better, ours)]
