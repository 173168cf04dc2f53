"""Who is measured side by side: ours and the peers, each with workers in processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.harness import Harness, supervised
from benchmarks.meter import Meter
from benchmarks.peer import Peer, Work, surroundings
from provider_uploads.local.supervisor import Service
from provider_uploads.local.workers import home

OURS = "provider-uploads"
NAIVE = "naive Celery"
#: Import names of what the group brings.
_PACKAGES = ("dramatiq", "rq", "taskiq", "taskiq_redis")
_START_S = 120.0
_TYPES = {".txt": "text/plain", ".mp4": "video/mp4"}


@dataclass(frozen=True, slots=True)
class _Peer:
    """A peer's module, and the command of its workers: all of them, or each, by ``{workers}``."""

    name: str
    module: str
    command: str = ""
    ready_line: str = ""
    #: Files at once in a worker process; None: as many as ours.
    slots: int | None = None


_PEERS = (
    _Peer(
        NAIVE,
        "naive_celery",
        "celery -A benchmarks.peers.naive_celery worker --pool threads --concurrency {slots} "
        "--hostname naive-{number}@%h --loglevel INFO",
        " ready.",
    ),
    _Peer(
        "dramatiq",
        "dramatiq_threads",
        "dramatiq benchmarks.peers.dramatiq_threads --processes {workers} --threads {slots}",
        "is ready for action",
    ),
    _Peer(
        "taskiq, async",
        "taskiq_async",
        "taskiq worker benchmarks.peers.taskiq_async:broker --workers {workers} "
        "--max-async-tasks {slots} --max-prefetch {slots}",  # without, it idles between batches
        "Listening started",
    ),
    _Peer(
        "rq SimpleWorker",
        "rq_simple",
        "rq.cli worker --worker-class rq.SimpleWorker --url {redis_url}",
        "Listening on",
        slots=1,
    ),
)
#: No queue and no workers: they take part where one process is measured.
_ALONE = (
    _Peer("google-genai, threads", "genai_threads"),
    _Peer("google-genai, asyncio", "genai_asyncio"),
)
PEERS = tuple(peer.name for peer in (*_PEERS, *_ALONE))


@dataclass(frozen=True, slots=True)
class Contender:
    """One that delivers files by workers of its own; those of the others idle meanwhile."""

    name: str
    #: Of all its workers.
    slots: int
    meter: Meter
    deliver: Callable[[Sequence[Path], float], Work]


def check_installed() -> None:
    """Raise BenchmarkError when the group ``bench`` is not installed."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise BenchmarkError(
            f"the peers need packages that are not here: {', '.join(missing)}. "
            "Run: pip install --group bench"
        )


@contextmanager
def contenders(
    here: Harness, workers: int, slots: int, names: Sequence[str] = ()
) -> Iterator[list[Contender]]:
    """Start the peers beside ours.

    With more than one worker, only those that have workers; with ``names``, only those.
    """
    peers = [*_PEERS, *(_ALONE if workers == 1 else ())]
    chosen = [peer for peer in peers if not names or peer.name in names]
    with supervised() as (_, supervisor), ExitStack() as stack:
        found = [Contender(OURS, workers * slots, here.worker, _ours(here))]
        for database, peer in enumerate(chosen, 1):
            redis_url = here.redis_url.removesuffix("/0") + f"/{database}"
            own_slots = peer.slots or slots
            services = _services(peer, here.provider.url, redis_url, workers, own_slots)
            if services:
                supervisor.start(*services, timeout_s=_START_S)
            pids = tuple(supervisor.pids[service.name] for service in services)
            client = stack.enter_context(
                Peer(
                    here.provider.url,
                    module=peer.module,
                    redis_url=redis_url,
                    slots=own_slots,
                    worker=Meter(*pids) if pids else None,
                )
            )
            found.append(Contender(peer.name, workers * own_slots, client.meter, _theirs(client)))
        begun = supervisor.pids
        yield found
        if supervisor.pids != begun:
            raise BenchmarkError("a peer's worker ended and was started again in between")


def _services(
    peer: _Peer, base_url: str, redis_url: str, workers: int, slots: int
) -> list[Service]:
    if not peer.command:
        return []
    return [
        Service(
            f"{peer.module}-{number}",
            [
                *(sys.executable, "-m"),
                *(
                    word.format(workers=workers, slots=slots, number=number, redis_url=redis_url)
                    for word in peer.command.split()
                ),
            ],
            ready_line=peer.ready_line,
            env=surroundings(base_url, redis_url, slots),
            cwd=home(),
        )
        for number in range(1, 2 if "{workers}" in peer.command else workers + 1)
    ]


def _ours(here: Harness) -> Callable[[Sequence[Path], float], Work]:
    def deliver(paths: Sequence[Path], poll_s: float) -> Work:
        done = here.deliver(paths, poll_s=poll_s, backoff_factor=1.0, jitter_s=0.0, max_poll_s=None)
        return Work(done.wall_s, done.cpu_ms, sum(result.polls for result in done.results))

    return deliver


def _theirs(client: Peer) -> Callable[[Sequence[Path], float], Work]:
    return lambda paths, poll_s: client.upload(paths, _TYPES[paths[0].suffix], poll_s=poll_s)
