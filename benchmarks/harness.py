"""The test harness: a Redis, a local Gemini and one worker, each a real process on a free port."""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
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
    queue: UploadQueue
    ledger: Ledger
    provider: Provider
    worker: Meter

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
    with _supervised() as (folder, supervisor):
        yield folder, _start_redis(folder, supervisor)


@contextmanager
def harness(
    *, latency_ms: float = 0.0, processing_s: float = 0.5, uploads_per_minute: int | None = None
) -> Iterator[Harness]:
    """Run a Redis, a local Gemini and one worker that serves all queues.

    With ``uploads_per_minute`` the worker's tier allows that, and the provider no more.
    """
    with _supervised() as (folder, supervisor):
        redis_url = _start_redis(folder, supervisor)
        base_url = _start_gemini(folder, supervisor, latency_ms, processing_s, uploads_per_minute)
        _start_worker(folder, supervisor, redis_url, base_url, uploads_per_minute)
        pids = supervisor.pids
        ledger = Ledger(redis_url)
        with UploadQueue(redis_url) as queue, redis.Redis.from_url(redis_url) as client:
            yield Harness(
                folder=folder,
                redis=client,
                queue=queue,
                ledger=ledger,
                provider=Provider(base_url),
                worker=Meter(pids["worker"]),
            )
        ledger.close()
        if supervisor.pids != pids:
            raise BenchmarkError("a process ended and was started again in between")


@contextmanager
def _supervised() -> Iterator[tuple[Path, Supervisor]]:
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


def _start_redis(folder: Path, supervisor: Supervisor) -> str:
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


def _start_gemini(
    folder: Path,
    supervisor: Supervisor,
    latency_ms: float,
    processing_s: float,
    per_minute: int | None,
) -> str:
    port = _free_port()
    limit = [] if per_minute is None else ["--requests-per-minute", f"start={per_minute}"]
    url = f"http://127.0.0.1:{port}"
    supervisor.start(
        Service(
            "local-gemini",
            [
                *(sys.executable, "-m", "provider_uploads", "emulator", "--port", str(port)),
                *("--latency-ms", str(latency_ms), "--processing-s", str(processing_s)),
                *limit,
            ],
            ready_line=url,
            env={"TMPDIR": str(folder)},
        )
    )
    return url


def _start_worker(
    folder: Path, supervisor: Supervisor, redis_url: str, base_url: str, per_minute: int | None
) -> None:
    tiers = folder / "tiers.toml"
    rate = "" if per_minute is None else f'upload = "{per_minute}/m"\n'
    tiers.write_text(f"[bench]\n{rate}transfer_concurrency = 16\n")
    supervisor.start(
        Service(
            "worker",
            [
                *(sys.executable, "-m", "celery", "--quiet", "-A", "tasks", "worker"),
                *("--hostname", "bench@%h", "--loglevel", "INFO"),
                *("--without-gossip", "--without-mingle"),
            ],
            ready_line=" ready.",
            env={
                "PROVIDER_UPLOADS_REDIS_URL": redis_url,
                "PROVIDER_UPLOADS_BASE_URL": base_url,
                "PROVIDER_UPLOADS_API_KEY": "local",
                "PROVIDER_UPLOADS_ROOTS": str(folder.resolve()),
                "PROVIDER_UPLOADS_TIERS_FILE": str(tiers),
                "PROVIDER_UPLOADS_TIER": "bench",
            },
            cwd=home(),
        )
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
