"""What a run has to say: one table for people, JSON lines for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.figures import Figure, Series

_NOTES = """\
Every figure is the median of its rounds, and the span from the lowest to the highest in brackets;
ours and the peers take turns within each round. "Ratio" is ours ÷ the peer's, taken round by
round: below 1 is good where less is better, above 1 where more is. A span wider than the
difference says that the machine was busy with something else.

submit: the web app's side alone, connections open, no worker. A submit checks the file, writes the
  upload's record and sends its message; Celery's bare send_task only sends one.
files of 1 KiB: one worker process for both queues. Its throughput runs from before submit_many to
  the last ACTIVE on Redis's clock; CPU is user + system of that process until every message is
  acknowledged. The peer is one process that uploads (and gets) the same files on the same local
  Gemini: without a queue, a record, a retry or a check of the bytes.
one large file: ours runs from before submit to ACTIVE, hashing included; upload_s is the part from
  the open session on. google-genai sends chunks of 8 MiB one after another and pays the latency for
  each. Memory is the highest resident set while sending (the kernel's VmHWM, set back before each
  round; sampled every 10 ms where there is none) less the resident set of the process at rest
  before the first large file.
videos: a poll of ours is a message that is claimed, asks once, and is sent again with a countdown;
  no thread waits. A poll of the peer is a get in a thread that sleeps between two. "CPU a further
  poll" compares few files polled once with the same files polled about ten times: what the extra
  polls cost, each.
rate limits: a permit is what every upload and every poll takes first. Used is the pace from the
  first upload to the last under a tier of so many a minute, with a provider that refuses what is
  more.
fairness: single uploads, one after the other, while the files of one submit_many wait in the same
  worker's queues; the span in brackets is from the quickest to the slowest of them.
web: an asyncio app in one process. The peer of a submit is a pipeline that writes as many bytes
  without checking a file, and opens a connection for each of the 200; the peer of the streams
  subscribes once for each and reads the row at each change, four a second. Memory is what the
  process has more than before they were open. Ours tells what changed, in 500 statuses a change.
batches: reading checks each line, its key among all keys on disk, and returns it as the provider
  takes it. Memory is the worker's highest resident set from submit to the last answer, less that at
  rest. Of batches that wait a hundred have a job that does not end; the requests are those of a
  minute in which nothing happens.
peers: the benchmarks named "… of 1 KiB, one worker" and "workers of … slots"; docs/performance.md
  says how they are taken.
startup: a command as a process of its own, and a worker from its start to ACTIVE of a file that
  was queued before."""


def headline(facts: Mapping[str, str]) -> str:
    """Return the machine in one line."""
    rest = {name: value for name, value in facts.items() if name not in {"cores", "machine"}}
    versions = ", ".join(f"{name} {value}" for name, value in rest.items())
    return f"{facts['cores']} cores, {facts['machine']}, {versions}"


def show(console: Console, figures: Sequence[Figure]) -> None:
    """Print the table and what its figures mean."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Benchmark", overflow="fold", min_width=12, max_width=24)
    table.add_column("Figure", overflow="fold", min_width=20)
    table.add_column("Better")
    table.add_column("Ours", justify="right", no_wrap=True)
    table.add_column("Peer", overflow="fold", min_width=16)
    table.add_column("Theirs", justify="right", no_wrap=True)
    table.add_column("Ratio", justify="right", no_wrap=True)
    before = ""
    for figure in figures:
        if before and figure.benchmark != before:
            table.add_section()
        table.add_row(
            figure.benchmark if figure.benchmark != before else "",
            f"{figure.what}, {figure.unit}" if figure.unit else figure.what,
            figure.better,
            span(figure.ours),
            figure.peer,
            span(figure.theirs) if figure.theirs else "",
            Text(span(figure.ratio), style="bold") if figure.ratio else "",
        )
        before = figure.benchmark
    console.print(table)
    console.print()
    console.print(_NOTES, style="dim", markup=False, highlight=False, soft_wrap=True)


def json_lines(facts: Mapping[str, str], figures: Sequence[Figure]) -> str:
    """Return the machine and then the figures, one JSON object a line."""
    return "\n".join(
        [json.dumps({"machine": dict(facts)}), *(json.dumps(figure.json()) for figure in figures)]
    )


def span(series: Series) -> str:
    """Return the median, and in brackets the lowest and the highest."""
    low, high = min(series.values), max(series.values)
    if low == high:
        return _number(low)
    return f"{_number(series.median)} ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
