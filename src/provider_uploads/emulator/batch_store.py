"""All batches of all projects, and what becomes of them as time passes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from provider_uploads.emulator.batch_config import BatchConfig
from provider_uploads.emulator.batch_jobs import (
    CANCELLED,
    EXPIRED,
    WITHOUT_RESULTS,
    Backend,
    BatchJob,
    BatchSpec,
    Phase,
)
from provider_uploads.emulator.batch_lines import BadInputError, count_lines, read_lines
from provider_uploads.emulator.batch_orders import FAILED, BatchFate
from provider_uploads.emulator.batch_runs import answering, keep_output, tokens_of
from provider_uploads.emulator.config import SECOND_NS, Clock
from provider_uploads.emulator.errors import (
    failed_precondition,
    invalid_argument,
    not_found,
    resource_exhausted,
)
from provider_uploads.emulator.files import FileStore
from provider_uploads.emulator.orders import OrderBook

# How often time is looked at while a job is under way, in real seconds.
_TICK_S = 0.05

# So long are requests answered at a time; a job with more to answer goes on at the next tick.
_SLICE_S = 0.05
_NO_MORE = object()

_NEVER = 2**63

# What a job says that ends in one of these, unless something else is known.
_ERRORS: dict[str, dict[str, Any]] = {
    CANCELLED: {"code": 1, "message": "The batch was cancelled."},
    EXPIRED: {"code": 4, "message": "The batch was not completed in time and has expired."},
    FAILED: {"code": 13, "message": "The batch failed to be processed."},
}

DEFAULT_PAGE_SIZE = 10
MAX_PAGE_SIZE = 100


class BatchStore:
    """Jobs, each owned by one key. A state is reached when somebody asks, or at the next tick.

    The input is read, and the files its lines name are looked up, when a job starts: what is
    deleted or expires before that is missing to it, what goes later is not. A large input takes
    longer than it runs by the clock, and the job runs until all of it is answered.
    """

    def __init__(
        self,
        config: BatchConfig,
        clock: Clock,
        stores: tuple[FileStore, ...],
        folder: Callable[[], Path],
    ) -> None:
        self.orders = OrderBook(BatchFate)
        self.on_end: Callable[[BatchJob], None] = lambda job: None
        self._config = config
        self._clock = clock
        self._stores = stores
        self._folder = folder
        self._jobs: dict[str, BatchJob] = {}  # oldest first
        self._open: dict[str, BatchJob] = {}
        self._sequence = 0
        self._settling = False
        self._has_open = asyncio.Event()
        for store in stores:
            store.before_forgetting = self._settle_until

    def __iter__(self) -> Iterator[BatchJob]:
        self.settle()
        return iter(tuple(self._jobs.values()))

    def create(self, owner: str, spec: BatchSpec) -> BatchJob:
        """A new job; 429 if the project has too many, 400 if it can be seen that it will fail."""
        self.settle()
        config, backend, file = self._config, spec.backend, spec.input_file
        active = sum(job.belongs_to(owner, backend) for job in self._open.values())
        if active >= config.max_concurrent_jobs:
            raise resource_exhausted(
                f"A project may have {config.max_concurrent_jobs} batch jobs that have not ended: "
                "wait for one, or cancel one."
            )
        if file is not None and (file.size_bytes or 0) > config.max_input_bytes:
            raise invalid_argument(
                f"The input file {file.name} has {file.size_bytes} bytes; "
                f"{config.max_input_bytes} are the most."
            )
        requests = len(spec.inline)
        if file is not None:
            requests = count_lines(file.path)
            if config.input_checked_at_create:
                try:
                    for _ in read_lines(file.path, backend.dialect.read):
                        pass
                except BadInputError as error:
                    raise invalid_argument(str(error)) from None
        fate = self.orders.fate_for(spec.labels)
        now_ns = self._clock()
        self._sequence += 1
        job = BatchJob(
            batch_id=backend.new_id(),
            owner=owner,
            spec=spec,
            fate=fate,
            create_ns=now_ns,
            expire_ns=now_ns + int(config.expires_s * SECOND_NS),
            sequence=self._sequence,
            requests=requests,
            pending_ns=_ns(fate.pending_s, config.pending_s),
            running_ns=_ns(fate.running_s, config.running_s),
        )
        self._jobs[job.batch_id] = self._open[job.batch_id] = job
        self._has_open.set()
        self.settle()
        return job

    def get(self, batch_id: str, owner: str, backend: Backend) -> BatchJob:
        """One job of this owner; 404 otherwise."""
        self.settle()
        job = self._jobs.get(batch_id)
        if job is None or job.deleted or not job.belongs_to(owner, backend):
            raise not_found()
        return job

    def peek(self, batch_id: str) -> BatchJob | None:
        """The job of that id, whoever owns it."""
        return self._jobs.get(batch_id)

    def page(
        self, owner: str, backend: Backend, page_size: int, before: int | None
    ) -> tuple[list[BatchJob], int | None]:
        """The owner's jobs, newest first, and where the next page begins if there is one."""
        self.settle()
        page_size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        page: list[BatchJob] = []
        for job in reversed(self._jobs.values()):
            theirs = job.belongs_to(owner, backend) and not job.deleted
            if theirs and (before is None or job.sequence < before):
                if len(page) == page_size:
                    return page, page[-1].sequence
                page.append(job)
        return page, None

    def cancel(self, job: BatchJob) -> None:
        """Let a job end without results; 400 if it has ended."""
        if job.phase is Phase.ENDED:
            raise failed_precondition(f"{job.name} has ended in {job.state} already.")
        if job.phase is not Phase.CANCELLING:
            job.phase, job.cancel_ns = Phase.CANCELLING, self._clock()
            self.settle()

    def delete(self, job: BatchJob) -> None:
        """Nobody finds it any more; a job under way goes on and counts until it ends."""
        job.deleted = True
        if job.ended:
            del self._jobs[job.batch_id]

    def change(self, job: BatchJob, fate: BatchFate) -> None:
        """Give a job that has not ended another fate; ValueError if it has."""
        if job.ended:
            raise ValueError(f"{job.name} has ended in {job.state} already")
        job.fate = fate
        job.pending_ns = _ns(fate.pending_s, self._config.pending_s)
        job.running_ns = _ns(fate.running_s, self._config.running_s)
        if job.phase is Phase.RUNNING:
            job.state = fate.running_state
        self.settle()

    def clear(self) -> None:
        """Forget all jobs and orders."""
        for job in self._open.values():
            if job.output_path is not None:
                job.output_path.unlink(missing_ok=True)
        self._jobs.clear()
        self._open.clear()
        self._has_open.clear()
        self.orders.clear()

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """Let jobs move on though nobody asks for them."""

        async def tick() -> None:
            while await self._has_open.wait():
                unanswered = [job for job in self._open.values() if job.work is not None]
                for job in unanswered:
                    self._work_on(job)
                    await asyncio.sleep(0)
                await asyncio.sleep(0 if unanswered else _TICK_S)
                self.settle()

        ticks = asyncio.create_task(tick())
        try:
            yield
        finally:
            ticks.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticks

    def settle(self) -> None:
        """Do what is due by now, in the order in which it was due."""
        for store in self._stores:
            store.forget_expired()  # which settles what was due before each goes
        self._settle_until(self._clock())

    def _settle_until(self, until_ns: int) -> None:
        if self._settling:
            return
        self._settling = True
        try:
            while self._open:
                job = min(self._open.values(), key=self._due_ns)
                due_ns = self._due_ns(job)
                if due_ns > until_ns:
                    return
                self._move_on(job, due_ns)
        finally:
            self._settling = False
            if not self._open:
                self._has_open.clear()

    def _due_ns(self, job: BatchJob) -> int:
        """When something happens to a job next."""
        match job.phase:
            case Phase.CANCELLING:
                due_ns = (job.cancel_ns or 0) + _ns(None, self._config.cancelling_s)
            case Phase.PENDING:
                stuck = job.fate.stuck == "pending"
                due_ns = _NEVER if stuck else job.create_ns + job.pending_ns
            case _:
                stays = job.fate.stuck == "running" or job.work is not None
                due_ns = _NEVER if stays else (job.start_ns or 0) + job.running_ns
        return min(due_ns, job.expire_ns)

    def _move_on(self, job: BatchJob, now_ns: int) -> None:
        if job.phase is Phase.CANCELLING:
            self._end(job, now_ns, CANCELLED)
        elif now_ns >= job.expire_ns:
            self._end(job, now_ns, EXPIRED)
        elif job.phase is Phase.PENDING:
            self._start(job, now_ns)
        else:
            self._end(job, now_ns, job.fate.state, job.fate.error)

    def _start(self, job: BatchJob, now_ns: int) -> None:
        file, backend = job.spec.input_file, job.spec.backend
        job.phase, job.state, job.start_ns = Phase.RUNNING, job.fate.running_state, now_ns
        if file is not None and backend.files.peek(file.file_id) is not file:
            message = f"The input file {file.name} does not exist."
            self._end(job, now_ns, FAILED, {"code": 5, "message": message})
            return
        if (refused := self._too_many_tokens(job, now_ns)) is not None:
            self._end(job, now_ns, FAILED, refused)
            return
        if file is not None or backend.all_in_files:
            job.output_path = self._folder() / secrets.token_hex(16)
        job.work = answering(job, now_ns)
        self._work_on(job)

    def _too_many_tokens(self, job: BatchJob, now_ns: int) -> dict[str, Any] | None:
        """The error of a job whose requests are too much beside those of the others."""
        limit = self._config.max_enqueued_tokens
        if limit is None:
            return None
        try:
            tokens = tokens_of(job, now_ns)
        except BadInputError:
            return None  # it fails for that
        model, owner = job.spec.model, job.owner
        others = [one for one in self._open.values() if one.owner == owner]
        enqueued = sum(one.tokens for one in others if one.spec.model == model)
        if enqueued + tokens > limit:
            message = (
                "You exceeded your current quota, please check your plan and billing details: "
                f"{limit} enqueued tokens of models/{model}, {enqueued} of them taken, {tokens} "
                "wanted."
            )
            return {"code": 8, "message": message}
        job.tokens = tokens
        return None

    def _work_on(self, job: BatchJob) -> None:
        """Answer requests for a moment: a large input shall not keep other clients waiting."""
        until_s = time.monotonic() + _SLICE_S
        try:
            while job.work is not None and time.monotonic() < until_s:
                if next(job.work, _NO_MORE) is _NO_MORE:
                    job.work = None
        except BadInputError as error:
            job.work = None
            self._end(job, job.start_ns or 0, FAILED, {"code": 3, "message": str(error)})

    def _end(
        self, job: BatchJob, now_ns: int, state: str, error: dict[str, Any] | None = None
    ) -> None:
        job.phase, job.state, job.end_ns = Phase.ENDED, state, now_ns
        job.error = error or _ERRORS.get(state)
        del self._open[job.batch_id]
        job.work = None
        if job.deleted:
            del self._jobs[job.batch_id]
        if state in WITHOUT_RESULTS:
            job.inline_output = None
        path, job.output_path = job.output_path, None
        if path is not None:
            if state in WITHOUT_RESULTS:
                path.unlink(missing_ok=True)
            else:
                job.output_file = keep_output(job, path, now_ns).file_id
        self.on_end(job)


def _ns(seconds: float | None, default_s: float) -> int:
    return int((default_s if seconds is None else seconds) * SECOND_NS)
