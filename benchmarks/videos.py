"""Files that the provider works on: what waiting for them costs, and what one poll costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, Series
from benchmarks.harness import Harness, harness
from benchmarks.peer import NAME, THREADS, Peer
from benchmarks.plan import Plan, Step
from benchmarks.small_files import write_files

_SIZE_BYTES = 1024
_TYPE = "video/mp4"
_PEER = f"{NAME}, {THREADS} threads that sleep"

#: Many files, each ACTIVE at its first poll.
_PROCESSING_S, _WAIT_S = 0.5, 0.6
#: Each file is polled by itself, as the peer does it; what watching many costs: waiting.py.
_ALONE = {"PROVIDER_UPLOADS_PARK_FROM": "1000000"}
#: Few files, so that no poll comes late: ACTIVE at the first poll, or at about the tenth.
_LONG_PROCESSING_S, _SELDOM_S, _OFTEN_S = 2.0, 2.2, 0.2


@dataclass(slots=True)
class _Waits:
    """CPU and polls a file, one value a round."""

    cpu_ms: list[float] = field(default_factory=list)
    polls: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Pair:
    """Ours and the peer's, at the same pace on the same files."""

    ours: _Waits = field(default_factory=_Waits)
    theirs: _Waits = field(default_factory=_Waits)

    def take(self, here: Harness, peer: Peer, paths: Sequence[Path], wait_s: float) -> None:
        """Deliver the files once each way."""
        count = len(paths)
        with here.provider.counted(count, _SIZE_BYTES) as account:
            delivery = here.deliver(
                paths, poll_s=wait_s, backoff_factor=1.0, jitter_s=0.0, max_poll_s=None
            )
        polls = sum(result.polls for result in delivery.results)
        _check("the results", polls, account.requests["get"])
        self.ours.cpu_ms.append(delivery.cpu_ms / count)
        self.ours.polls.append(polls / count)
        with here.provider.counted(count, _SIZE_BYTES) as account:
            work = peer.upload(paths, _TYPE, poll_s=wait_s)
        _check(NAME, work.polls, account.requests["get"])
        self.theirs.cpu_ms.append(work.cpu_ms / count)
        self.theirs.polls.append(work.polls / count)


def videos(plan: Plan, step: Step) -> list[Figure]:
    """Deliver videos of 1 KiB: many that are ACTIVE at their first poll, then few with many."""
    once, seldom, often = _Pair(), _Pair(), _Pair()
    with (
        harness(processing_s=_PROCESSING_S, policy=_ALONE) as here,
        Peer(here.provider.url) as peer,
    ):
        paths = write_files(here.folder, plan.videos, ".mp4")
        _warm_up(here, peer, paths, step)
        for number in range(plan.rounds):
            step(f"round {number + 1} of {plan.rounds}, ours and {NAME}")
            once.take(here, peer, paths, _WAIT_S)
    with harness(processing_s=_LONG_PROCESSING_S) as here, Peer(here.provider.url) as peer:
        paths = write_files(here.folder, THREADS, ".mp4")
        _warm_up(here, peer, paths, step)
        for number in range(plan.rounds):
            step(f"polls, round {number + 1} of {plan.rounds}, ours and {NAME}")
            seldom.take(here, peer, paths, _SELDOM_S)
            often.take(here, peer, paths, _OFTEN_S)
    benchmark = f"{plan.videos} videos of 1 KiB, {_PROCESSING_S:g} s PROCESSING"
    return [
        Figure(
            benchmark,
            "CPU a file",
            "ms",
            "less",
            Series.of(once.ours.cpu_ms),
            _PEER,
            Series.of(once.theirs.cpu_ms),
        ),
        Figure(
            benchmark,
            "polls a file",
            "",
            "less",
            Series.of(once.ours.polls),
            _PEER,
            Series.of(once.theirs.polls),
        ),
        Figure(
            f"{THREADS} videos, {_LONG_PROCESSING_S:g} s PROCESSING",
            "CPU a further poll",
            "ms",
            "less",
            _poll_ms(seldom.ours, often.ours),
            _PEER,
            _poll_ms(seldom.theirs, often.theirs),
        ),
    ]


def _warm_up(here: Harness, peer: Peer, paths: Sequence[Path], step: Step) -> None:
    step("warming up")
    here.deliver(paths[: 2 * THREADS], poll_s=_WAIT_S)
    peer.upload(paths[: 2 * THREADS], _TYPE, poll_s=_WAIT_S)


def _poll_ms(seldom: _Waits, often: _Waits) -> Series:
    """What the polls cost that only the faster pace takes: uploads and first polls cancel out."""
    return Series.of(
        (more_ms - less_ms) / (more - less)
        for more_ms, less_ms, more, less in zip(
            often.cpu_ms, seldom.cpu_ms, often.polls, seldom.polls, strict=True
        )
    )


def _check(who: str, polls: int, counted: int) -> None:
    if polls != counted:
        raise BenchmarkError(f"{who} counted {polls} polls, the provider {counted}")
