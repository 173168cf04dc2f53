"""docs/performance.md: its tables, sizes and plot are written by the run that measured them.

A block stands between ``<!-- <name> -->`` and ``<!-- /<name> -->``, by the name of its benchmark;
what no run has measured stays as it was.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.contenders import OURS
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, Series
from benchmarks.plot import plot
from benchmarks.report import headline, span
from benchmarks.sizing import sizing

Results = Mapping[str, Sequence[Figure]]


def write(page: Path, known: Mapping[str, str], results: Results) -> None:
    """Replace the blocks of what was measured; raises BenchmarkError when the page has none."""
    text = page.read_text("utf-8")
    measured = f"Measured on {datetime.date.today():%d %B %Y}: {headline(known)}."
    blocks = {name: _tables(figures) for name, figures in results.items()}
    if "peers" in results:
        picture = page.with_suffix(".svg")
        plot(results["peers"], picture)
        blocks["peers"] = f"![Ours beside the peers]({picture.name})\n\n{blocks['peers']}"
        blocks["sizing"] = sizing(results["peers"])
    written = 0
    for name, block in blocks.items():
        frame = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.S)
        parts = frame.split(text)
        text = f"\n{measured}\n\n{block}\n\n".join(parts)
        written += len(parts) - 1
    if not written:
        wanted = ", ".join(f"<!-- {name} --> … <!-- /{name} -->" for name in blocks)
        raise BenchmarkError(f"{page} has no place for what was measured: write {wanted} there.")
    page.write_text(text, "utf-8")


def _tables(figures: Sequence[Figure]) -> str:
    parts = []
    for benchmark, group in groupby(figures, lambda figure: figure.benchmark):
        members = list(group)
        many = len({figure.peer for figure in members if figure.theirs}) > 1
        rows = _by_peer(benchmark, members) if many else _by_figure(benchmark, members)
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _by_figure(benchmark: str, figures: Sequence[Figure]) -> Iterable[str]:
    """One line a figure."""
    peers = any(figure.theirs for figure in figures)
    yield _row([benchmark, "ours", *(["peer", "theirs", "ratio"] if peers else [])])
    yield "|---|---:|" + ("---|---:|---:|" if peers else "")
    for figure in figures:
        cells = [_what(figure), span(figure.ours)]
        if peers:
            cells += [figure.peer, _or_empty(figure.theirs), _or_empty(figure.ratio)]
        yield _row(cells)


def _by_peer(benchmark: str, figures: Sequence[Figure]) -> Iterable[str]:
    """One line a peer; each of its figures with the ratio ours ÷ theirs in bold."""
    columns = list(dict.fromkeys(map(_what, figures)))
    found = {(figure.peer, _what(figure)): figure for figure in figures}
    ours = {_what(figure): figure.ours for figure in figures}
    yield _row([benchmark, *columns])
    yield "|---|" + "---:|" * len(columns)
    yield _row([f"**{OURS}**", *(span(ours[column]) for column in columns)])
    for peer in dict.fromkeys(figure.peer for figure in figures if figure.theirs):
        yield _row([peer, *(_cell(found.get((peer, column))) for column in columns)])


def _cell(figure: Figure | None) -> str:
    if figure is None or figure.theirs is None or figure.ratio is None:
        return ""
    return f"{span(figure.theirs)}<br>**{span(figure.ratio)}**"


def _what(figure: Figure) -> str:
    return f"{figure.what}, {figure.unit}" if figure.unit else figure.what


def _or_empty(series: Series | None) -> str:
    return "" if series is None else span(series)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
