"""The test harness: a Redis, a local Gemini and workers, each a real process on a free port."""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.errors import BenchmarkError
from benchmarks.meter import Meter
from benchmarks.provider import Provider
from provider_uploads import protocol
from provider_uploads.client import UploadQueue
from provider_uploads.fleet.queues import Queues
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.local.stack import find_redis_server
from provider_uploads.local.supervisor import Service, Supervisor
from provider_uploads.local.workers import home
from provider_uploads.schemas import Stage, UploadResult

#: An upload that takes longer is a failure.
_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of a batch of uploads; all of them became ACTIVE."""

    results: list[UploadResult]
    #: From before the submit to the last ACTIVE, on Redis's clock, which is this machine's.
    wall_s: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Harness:
    """What runs; everything of it is in ``folder``."""

    folder: Path
    redis: redis.Redis
    redis_url: str
    queue: UploadQueue
    ledger: Ledger
    provider: Provider
    worker: Meter
    worker_pids: tuple[int, ...]

    def deliver(self, paths: Sequence[Path], **poll_policy: Any) -> Delivery:
        """Submit files in one message and wait until all are ACTIVE and acknowledged.

        Raises what the worker raised, and BenchmarkError when it did not end in time.
        """
        cpu_ms, begun_at = self.worker.cpu_ms(), time.time()
        tickets = self.queue.submit_many(paths, **poll_policy)
        # The last first: it is the one to wait for, and asking costs the machine little.
        results = [self.queue.result(t, timeout_s=_PATIENCE_S) for t in reversed(tickets)]
        self._acknowledged()
        cpu_ms = self.worker.cpu_ms() - cpu_ms
        rows = [self.ledger.read(ticket) for ticket in tickets]
        if any(row.stage is not Stage.ACTIVE for row in rows):
            raise BenchmarkError("an upload is no longer ACTIVE")
        return Delivery(results, max(row.ended_at or 0.0 for row in rows) - begun_at, cpu_ms)

    def queued(self, queue: str) -> int:
        """Messages that nobody has taken."""
        return int(self.redis.llen(f"{protocol.KEY_PREFIX}{queue}"))

    def _acknowledged(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while self.redis.hlen(f"{protocol.KEY_PREFIX}unacked") or any(
            self.queued(queue) for queue in Queues(self.ledger).queues()
        ):
            if time.monotonic() > deadline:
                raise BenchmarkError("all uploads are ACTIVE, but messages are left in Redis")
            time.sleep(0.01)


@contextmanager
def redis_alone() -> Iterator[tuple[Path, str]]:
    """Run a Redis; yields a folder to use and the URL."""
    with supervised() as (folder, supervisor):
        yield folder, start_redis(folder, supervisor)


@contextmanager
def harness(
    *,
    latency_ms: float = 0.0,
    processing_s: float = 0.5,
    uploads_per_minute: int | None = None,
    batch_jobs: int | None = None,
    polls_per_minute: int | None = None,
    queues: str = "",
    policy: Mapping[str, str] = {},
    tier: Mapping[str, str] = {},
    workers: int = 1,
    slots: int = 16,
    restarts: bool = False,
) -> Iterator[Harness]:
    """Run a Redis, a local Gemini and ``workers`` processes that serve all queues, or ``queues``.

    With ``uploads_per_minute`` the workers' tier allows that, and the provider no more;
    ``batch_jobs`` are concurrent jobs, of the tier and at the provider; ``polls_per_minute`` are
    the tier's polls, ``tier`` is what else it allows, as TOML. ``policy`` are variables of the
    workers. With ``restarts`` a process may end, and is started again.
    """
    with supervised() as (folder, supervisor):
        redis_url = start_redis(folder, supervisor)
        limits = [] if batch_jobs is None else ["--max-batch-jobs", str(batch_jobs)]
        if uploads_per_minute is not None:
            limits += ["--requests-per-minute", f"upload={uploads_per_minute}"]
        base_url = start_gemini(folder, supervisor, latency_ms, processing_s, limits)
        allowed = {} if uploads_per_minute is None else {"upload": f'"{uploads_per_minute}/m"'}
        allowed |= {} if batch_jobs is None else {"batch_jobs": str(batch_jobs)}
        allowed |= {} if polls_per_minute is None else {"poll": f'"{polls_per_minute}/m"'}
        allowed |= {**tier, "transfer_concurrency": str(slots)}
        serving = ["--queues", queues] if queues else []
        start_workers(
            folder,
            supervisor,
            redis_url,
            base_url,
            allowed,
            workers,
            serving=serving,
            policy=policy,
        )
        pids = supervisor.pids
        worker_pids = [pid for name, pid in pids.items() if name.startswith("worker")]
        ledger = Ledger(redis_url)
        with UploadQueue(redis_url) as queue, redis.Redis.from_url(redis_url) as client:
            yield Harness(
                folder=folder,
                redis=client,
                redis_url=redis_url,
                queue=queue,
                ledger=ledger,
                provider=Provider(base_url),
                worker=Meter(*worker_pids),
                worker_pids=tuple(worker_pids),
            )
        ledger.close()
        if supervisor.pids != pids and not restarts:
            raise BenchmarkError("a process ended and was started again in between")


@contextmanager
def supervised() -> Iterator[tuple[Path, Supervisor]]:
    """Run what is started in the block; an error gets the last lines of it all as a note."""
    said: deque[str] = deque(maxlen=40)
    with tempfile.TemporaryDirectory(
        prefix="provider-uploads-bench-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        with Supervisor(
            lambda service, text: said.append(f"{service}: {text}"),
            lambda text: said.append(f"supervisor: {text}"),
        ) as supervisor:
            try:
                yield folder, supervisor
            except Exception as error:
                error.add_note("The last lines of the processes:\n  " + "\n  ".join(said))
                raise


def start_redis(folder: Path, supervisor: Supervisor) -> str:
    """Start a Redis; return its URL."""
    port = _free_port()
    supervisor.start(
        Service(
            "redis",
            [
                *(find_redis_server(), str(home() / "config" / "redis.conf")),
                *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            ],
            ready_line="Ready to accept connections",
        )
    )
    return f"redis://127.0.0.1:{port}/0"


def start_gemini(
    folder: Path,
    supervisor: Supervisor,
    latency_ms: float,
    processing_s: float,
    limits: Sequence[str],
) -> str:
    """Start a local Gemini; return its URL."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    supervisor.start(
        Service(
            "local-gemini",
            [
                *(sys.executable, "-m", "provider_uploads", "emulator", "--port", str(port)),
                *("--latency-ms", str(latency_ms), "--processing-s", str(processing_s)),
                *limits,
            ],
            ready_line=url,
            env={"TMPDIR": str(folder)},
        )
    )
    return url


def start_workers(
    folder: Path,
    supervisor: Supervisor,
    redis_url: str,
    base_url: str,
    allowed: dict[str, str],
    count: int,
    *,
    roots: Path | None = None,
    serving: Sequence[str] = (),
    policy: Mapping[str, str] = {},
) -> None:
    """Start so many processes of a tier that allows that; all read files in ``roots``."""
    tiers = folder / "tiers.toml"
    limits = "".join(f"{name} = {value}\n" for name, value in allowed.items())
    tiers.write_text(f"[bench]\n{limits}")
    services = [
        Service(
            f"worker-{number}",
            [
                *(sys.executable, "-m", "celery", "--quiet", "-A", "tasks", "worker"),
                *("--hostname", f"bench-{number}@%h", "--loglevel", "INFO"),
                *("--without-gossip", "--without-mingle", *serving),
            ],
            ready_line=" ready.",
            env={
                "PROVIDER_UPLOADS_REDIS_URL": redis_url,
                "PROVIDER_UPLOADS_BASE_URL": base_url,
                "PROVIDER_UPLOADS_API_KEY": "local",
                "PROVIDER_UPLOADS_ROOTS": str((roots or folder).resolve()),
                "PROVIDER_UPLOADS_TIERS_FILE": str(tiers),
                "PROVIDER_UPLOADS_TIER": "bench",
                **policy,
            },
            cwd=home(),
        )
        for number in range(1, count + 1)
    ]
    supervisor.start(*services, timeout_s=_PATIENCE_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
