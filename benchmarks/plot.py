"""The plot of docs/performance.md: ours beside the peers, with the span of the rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import OURS
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, Series
from benchmarks.side_by_side import CPU, LATE, NO_LATENCY, SCALING, TEXT, VIDEO

_OURS_COLOUR, _PEER_COLOUR = "#1a73e8", "#9aa0a6"
_LINES = ("#5f6368", "#e37400", "#188038", "#a142f4", "#d93025")
_BARS = (
    (TEXT, CPU, "CPU a text file, ms\n(less is better)"),
    (TEXT, NO_LATENCY, "text files a second, no latency\n(more is better)"),
    (TEXT, LATE, "text files a second, 50 ms\n(more is better)"),
    (VIDEO, LATE, "videos a second, 1 s PROCESSING, 50 ms\n(more is better)"),
)


def plot(figures: Sequence[Figure], path: Path) -> None:
    """Draw bars of one worker, and lines over the number of workers; raises BenchmarkError."""
    try:
        import matplotlib
    except ImportError:
        raise BenchmarkError(
            "the plot needs matplotlib, which is not here. Run: pip install --group bench"
        ) from None
    matplotlib.use("svg")
    # The same figures give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "performance", "font.size": 9})
    from matplotlib import pyplot

    canvas, axes = pyplot.subplots(3, 2, figsize=(10, 9.5), layout="constrained")
    flat = list(axes.flat)
    for axis, (benchmark, what, title) in zip(flat, _BARS, strict=False):
        _bars(axis, _series(figures, benchmark, what), title)
    counts = sorted({int(f.what.split()[0]) for f in figures if f.benchmark == SCALING})
    for axis, suffix, title in (
        (flat[4], "", "text files a second, 50 ms, by workers of 4 slots\n(more is better)"),
        (flat[5], ", of the limit", "the same, of slots ÷ latency\n(1 is all of it)"),
    ):
        _lines(axis, figures, counts, suffix, title)
    flat[4].legend(fontsize=8)
    canvas.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(canvas)


def _bars(axis: Any, found: dict[str, Series], title: str) -> None:
    names = list(reversed(found))
    medians = [found[name].median for name in names]
    axis.barh(
        names,
        medians,
        xerr=[
            [m - min(found[name].values) for name, m in zip(names, medians, strict=True)],
            [max(found[name].values) - m for name, m in zip(names, medians, strict=True)],
        ],
        color=[_OURS_COLOUR if name == OURS else _PEER_COLOUR for name in names],
        ecolor="#3c4043",
        capsize=2,
    )
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _lines(
    axis: Any, figures: Sequence[Figure], counts: Sequence[int], suffix: str, title: str
) -> None:
    by_count = {
        count: _series(figures, SCALING, f"{count} worker{'s' if count > 1 else ''}{suffix}")
        for count in counts
    }
    queues = by_count[counts[-1]]  # those without workers stand at one only
    peers = iter(_LINES)
    for name in queues:
        series = [by_count[count][name] for count in counts]
        medians = [one.median for one in series]
        axis.errorbar(
            counts,
            medians,
            yerr=[
                [m - min(one.values) for one, m in zip(series, medians, strict=True)],
                [max(one.values) - m for one, m in zip(series, medians, strict=True)],
            ],
            label=name,
            color=_OURS_COLOUR if name == OURS else next(peers),
            linewidth=2.5 if name == OURS else 1.5,
            marker="o",
            markersize=4,
            capsize=2,
        )
    axis.set_xticks(counts, [f"{count}" for count in counts])
    axis.set_ylim(bottom=0)
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _series(figures: Sequence[Figure], benchmark: str, what: str) -> dict[str, Series]:
    """Ours, then the peers'."""
    found: dict[str, Series] = {}
    for figure in figures:
        if figure.benchmark == benchmark and figure.what == what:
            found[OURS] = figure.ours
            if figure.theirs is not None:
                found[figure.peer] = figure.theirs
    return found
