"""Files that wait for their provider: how late their ends are known, and what the waiting costs."""

from __future__ import annotations

import json
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx2
import psutil

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, Series
from benchmarks.harness import Harness, harness
from benchmarks.plan import Plan, Step
from provider_uploads import messages
from provider_uploads.fleet.items import ITEMS
from provider_uploads.ledger import parked
from provider_uploads.providers.wire import read_file
from provider_uploads.schemas import PollPolicy, ProviderFile, UploadRequest

_TYPE = "video/mp4"
_FREE_PER_MINUTE = 600
_THREADS = 8
#: Between the last file's beginning and the first one's end.
_SPARE_S = 15.0
_PATIENCE_S = 120.0
_FEW_S, _FEW_APART_S = 20.0, 0.2


@dataclass(frozen=True, slots=True)
class _Cost:
    """What one run took."""

    late_s: list[float]
    cpu_ms: float
    requests: float
    memory_mib: float | None = None

    def figures(self, benchmark: str, unit: str) -> Iterator[Figure]:
        late = sorted(self.late_s)
        for part in (50, 95):
            at = late[min(len(late) * part // 100, len(late) - 1)]
            yield _figure(benchmark, f"ACTIVE to result, p{part}", "s", at)
        yield _figure(benchmark, "CPU a file", "ms", self.cpu_ms)
        yield _figure(benchmark, f"provider requests {unit}", "", self.requests)
        if self.memory_mib is not None:
            yield _figure(benchmark, "memory above idle", "MiB", self.memory_mib)


def waiting(plan: Plan, step: Step) -> list[Figure]:
    """Let many files be PROCESSING beside one worker on control, and few beside one on all."""
    figures: list[Figure] = []
    for name, per_minute in (("no rate limit", None), ("free tier", _FREE_PER_MINUTE)):
        cost = _many(plan, step, name, per_minute)
        what = f"{plan.waiting_files:,} waiting, {plan.waiting_per_s} ACTIVE a second, {name}"
        figures += cost.figures(what, "a file and minute")
    for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGKILL, "SIGKILL")):
        figures += _watcher_ended(plan, step, number, name)
    figures += _few(plan, step).figures(f"{plan.few_waiting} waiting", "a file")
    return figures


def _many(plan: Plan, step: Step, name: str, per_minute: int | None) -> _Cost:
    count, per_s = plan.waiting_files, plan.waiting_per_s
    processing_s = count / per_s + _SPARE_S
    with harness(processing_s=processing_s, polls_per_minute=per_minute, queues="control") as here:
        idle_mib = here.worker.memory_mib()
        step(f"{name}: making {count:,} files, {per_s} a second")
        active_at = _make(here, count, per_s, processing_s)
        begun, before = time.time(), _requests(here)
        cpu_ms = here.worker.cpu_ms()
        step(f"{name}: waiting for {count:,} files")
        with here.worker.peak() as most:
            _until_ended(here, list(active_at), processing_s + count / per_s)
        minutes = (time.time() - begun) / 60
        cpu_ms = here.worker.cpu_ms() - cpu_ms
        late_s = _late_s(here, active_at)
        requests = (_requests(here) - before) / count / minutes
    return _Cost(late_s, cpu_ms / count, requests, most[0] - idle_mib)


def _watcher_ended(plan: Plan, step: Step, number: signal.Signals, name: str) -> Iterator[Figure]:
    """End the worker that watches, as the first files become ACTIVE; a second one goes on."""
    count, per_s = plan.waiting_files, plan.waiting_per_s
    processing_s = count / per_s + _SPARE_S
    with harness(processing_s=processing_s, queues="control", workers=2, restarts=True) as here:
        step(f"{name}: making {count:,} files")
        active_at = _make(here, count, per_s, processing_s)
        time.sleep(max(0.0, min(active_at.values()) - time.time()))
        ((_, watcher),) = here.ledger.run(parked.counts()).values()
        process = psutil.Process(here.worker_pids[int(watcher[len("bench-")]) - 1])
        step(f"{name} for the watcher, then waiting for {count:,} files")
        begun = time.monotonic()
        process.send_signal(number)
        process.wait(_PATIENCE_S)
        gone_s = time.monotonic() - begun
        _until_ended(here, list(active_at), processing_s + count / per_s)
        late = sorted(_late_s(here, active_at))
    benchmark = f"{count:,} waiting, {name} for the watcher"
    yield _figure(benchmark, "gone after", "s", gone_s)
    yield _figure(benchmark, "ACTIVE to result, p95", "s", late[len(late) * 95 // 100])
    yield _figure(benchmark, "ACTIVE to result, the slowest", "s", late[-1])


def _late_s(here: Harness, active_at: dict[str, float]) -> list[float]:
    return [(here.ledger.read(ticket).ended_at or 0.0) - at for ticket, at in active_at.items()]


def _few(plan: Plan, step: Step) -> _Cost:
    """Upload a few as a user does, one after another."""
    with harness(processing_s=_FEW_S) as here:
        path = here.folder / "clip.mp4"
        path.write_bytes(b"x" * 1024)
        step("warming up")
        here.deliver([path])
        before, cpu_ms = _requests(here), here.worker.cpu_ms()
        step(f"{plan.few_waiting} files")
        tickets = []
        for _ in range(plan.few_waiting):
            tickets.append(here.queue.submit(path))
            time.sleep(_FEW_APART_S)
        _until_ended(here, tickets, _FEW_S)
        cpu_ms = here.worker.cpu_ms() - cpu_ms
        late_s = []
        for row in map(here.ledger.read, tickets):
            if row.file is None or row.file.created_at is None:
                raise BenchmarkError(f"{row.request.upload_id} has no file")
            late_s.append((row.ended_at or 0.0) - row.file.created_at.timestamp() - _FEW_S)
        requests = (_requests(here) - before) / len(tickets)
    return _Cost(late_s, cpu_ms / len(tickets), requests)


def _make(here: Harness, count: int, per_s: int, processing_s: float) -> dict[str, float]:
    """Make files at the provider and their parked uploads; return when each will be ACTIVE."""
    begun = time.monotonic()
    local = threading.local()
    policy = PollPolicy(timeout_s=3600)

    def one(number: int) -> tuple[str, float]:
        time.sleep(max(0.0, begun + number / per_s - time.monotonic()))
        if not hasattr(local, "http"):
            local.http = httpx2.Client(trust_env=False)
        request = UploadRequest(
            upload_id=uuid.uuid4().hex,
            source="/videos/clip.mp4",
            display_name="clip.mp4",
            mime_type=_TYPE,
            size_bytes=1,
            poll_policy=policy,
        )
        here.ledger.open([request])
        row = here.ledger.read(request.upload_id)
        file = _file(local.http, here.provider.url, row.name)
        processing = here.ledger.processing(row, file)
        if processing is None or file.created_at is None:
            raise BenchmarkError("a file could not be made")
        text = messages.parked_poll_signature(ITEMS, request, 0).text()
        wait_s = policy.backoff.delay(0)
        here.ledger.run(parked.park(processing, text, wait_s, park_from=1))
        return request.upload_id, file.created_at.timestamp() + processing_s

    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(pool.map(one, range(count)))


def _file(http: httpx2.Client, url: str, name: str) -> ProviderFile:
    """Upload one byte in one request."""
    about = json.dumps({"file": {"name": name, "displayName": "clip.mp4", "mimeType": _TYPE}})
    body = (
        f"--b\r\ncontent-type: application/json\r\n\r\n{about}\r\n"
        f"--b\r\ncontent-type: {_TYPE}\r\n\r\nx\r\n--b--\r\n"
    )
    answer = http.post(
        f"{url}/upload/v1beta/files",
        headers={
            "x-goog-api-key": "local",
            "x-goog-upload-protocol": "multipart",
            "content-type": "multipart/related; boundary=b",
        },
        content=body.encode(),
    )
    if answer.status_code != 200:
        raise BenchmarkError(f"a file could not be made: {answer.status_code} {answer.text}")
    return read_file("upload", answer.json()["file"])


def _requests(here: Harness) -> int:
    operations = here.provider.counters()["operations"]
    return sum(operations[name]["requests"] for name in ("get", "list"))


def _until_ended(here: Harness, tickets: list[str], most_s: float) -> None:
    """Wait until all are ACTIVE; the newest are the last."""
    deadline = time.monotonic() + most_s + _PATIENCE_S
    living = here.ledger.living_among(tickets)
    while living:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{len(living)} uploads have not ended")
        time.sleep(0.5)
        if not here.ledger.living(tickets[-1]):
            living = here.ledger.living_among(tickets)


def _figure(benchmark: str, what: str, unit: str, value: float) -> Figure:
    return Figure(benchmark, what, unit, "less", Series.of([value]))
