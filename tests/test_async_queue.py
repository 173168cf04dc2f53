"""AsyncUploadQueue: the calls of UploadQueue, and none that holds the event loop up."""

from __future__ import annotations

import asyncio
import inspect
import io
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import UploadFile

from provider_uploads import AsyncUploadQueue, ResultTimeoutError, Stage, UploadQueue
from provider_uploads.emulator import LocalGemini
from provider_uploads.errors import (
    InvalidRequestError,
    QueueUnavailableError,
    SourceNotFoundError,
    SourceTooLargeError,
    UnknownTicketError,
)
from provider_uploads.settings import settings
from tests.loops import watched
from tests.nodes import RedisProcess, free_port

CONTENT = random.Random(7).randbytes(700_000)
#: A call that blocks does so for two seconds here; a busy machine holds a loop up for less.
MOST_BLOCKED_S = 1.0
#: What a loop may compute in one go, in seconds of its own; the calls of thousands take more.
MOST_COMPUTED_S = 0.2


def public(cls: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(cls).items()
        if not name.startswith("_") and inspect.isfunction(value)
    }


def test_it_has_every_call_of_the_other_queue() -> None:
    theirs, ours = public(UploadQueue), public(AsyncUploadQueue)
    assert set(ours) - {"aclose"} == set(theirs)
    for name, call in theirs.items():
        wanted = inspect.signature(call).parameters
        found = inspect.signature(ours[name]).parameters
        assert [(p.name, p.kind, p.default) for p in found.values()] == [
            (p.name, p.kind, p.default) for p in wanted.values()
        ], name
        assert inspect.iscoroutinefunction(ours[name]) == (name != "events"), name


@pytest.fixture
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "staging"
    folder.mkdir()
    monkeypatch.setenv("PROVIDER_UPLOADS_STAGING", str(folder))
    settings.cache_clear()
    return folder


class TestARoad:
    @pytest.fixture
    def policy(self, staging: Path) -> dict[str, str]:
        return {"PROVIDER_UPLOADS_STAGING": str(staging)}

    def test_every_call(
        self,
        queue: UploadQueue,
        default_redis_broker: RedisProcess,
        gemini: LocalGemini,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        async def use() -> None:
            async with AsyncUploadQueue(default_redis_broker.url) as queue:
                ticket = await queue.submit(make_file("a.txt"), owner="ann", **quick)
                many = await queue.submit_many([make_file("b.txt"), make_file("c.mp4")], **quick)
                streams: list[Any] = [
                    UploadFile(io.BytesIO(CONTENT), filename="form.pdf"),
                    in_pieces(CONTENT),
                    io.BytesIO(CONTENT),
                ]
                staged = [await queue.submit_stream(one, **quick) for one in streams]
                results = [
                    await queue.result(one, timeout_s=60) for one in (ticket, *many, *staged)
                ]
                assert {result.state for result in results} == {"ACTIVE"}
                assert [result.size_bytes for result in results[3:]] == [len(CONTENT)] * 3
                assert [result.display_name for result in results[3:5]] == ["form.pdf", "upload"]
                assert (await queue.status(ticket)).owner == "ann"
                assert (await queue.deliveries(ticket)) == []
                page = await queue.list(owner="ann")
                assert [status.ticket for status in page.uploads] == [ticket]
                asked = await queue.ask("What are these?", tickets=[ticket, many[0]])
                assert (await queue.question(asked)).uploads == (ticket, many[0])
                answer = await queue.answer(asked, timeout_s=60)
                assert "a.txt" in answer.text
                assert await queue.cancel(ticket) is Stage.ACTIVE
                assert await queue.delete(ticket) is Stage.ACTIVE
                while (await queue.status(ticket)).copy_at_provider != "deleted":
                    await asyncio.sleep(0.02)
                assert (await queue.status(ticket)).uri is None
                assert await queue.sweep() == []
                seen = [status.stage async for status in queue.events([*many, *staged])]
                assert seen == [Stage.ACTIVE] * 5

        asyncio.run(use())


async def in_pieces(content: bytes, size: int = 30_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]
        await asyncio.sleep(0)


class TestWhatItRefuses:
    @pytest.mark.parametrize("call", ["submit_many", "ask"])
    def test_one_string_for_many(self, redis_url: str, call: str) -> None:
        async def use() -> None:
            async with AsyncUploadQueue(redis_url) as queue:
                with pytest.raises(InvalidRequestError, match="give a list"):
                    await (queue.submit_many("a.pdf") if call == "submit_many" else ask(queue))

        async def ask(queue: AsyncUploadQueue) -> None:
            await queue.ask("What?", "a.pdf")

        asyncio.run(use())

    def test_what_is_not_there(self, redis_url: str) -> None:
        async def use() -> None:
            async with AsyncUploadQueue(redis_url) as queue:
                with pytest.raises(SourceNotFoundError):
                    await queue.submit("nowhere.pdf")
                for call in (queue.status, queue.result, queue.cancel, queue.question):
                    with pytest.raises(UnknownTicketError):
                        await call("0" * 32)
                with pytest.raises(UnknownTicketError):
                    await anext(queue.events(["0" * 32]))
                with pytest.raises(InvalidRequestError, match="zero or more"):
                    queue.events([], heartbeat_s=-1)

        asyncio.run(use())

    @pytest.mark.parametrize("stream", [io.StringIO("text"), object(), ["a", "b"]])
    def test_streams_without_bytes(self, redis_url: str, staging: Path, stream: Any) -> None:
        async def use() -> None:
            async with AsyncUploadQueue(redis_url) as queue:
                with pytest.raises(InvalidRequestError, match="does not read as bytes"):
                    await queue.submit_stream(stream)

        asyncio.run(use())
        assert list(staging.iterdir()) == []

    def test_more_bytes_than_allowed(self, redis_url: str, staging: Path) -> None:
        async def use() -> None:
            async with AsyncUploadQueue(redis_url) as queue:
                with pytest.raises(SourceTooLargeError):
                    await queue.submit_stream(in_pieces(CONTENT), max_bytes=len(CONTENT) - 1)
                assert await queue.submit_stream(in_pieces(CONTENT), max_bytes=len(CONTENT))

        asyncio.run(use())
        assert [path.stat().st_size for path in staging.iterdir()] == [len(CONTENT)]


class TestCancelled:
    def test_while_the_browser_sends(self, redis_url: str, staging: Path) -> None:
        async def halting() -> AsyncIterator[bytes]:
            yield CONTENT
            reached.set()
            await asyncio.Event().wait()

        async def use() -> None:
            async with AsyncUploadQueue(redis_url) as queue:
                sending = asyncio.create_task(queue.submit_stream(halting()))
                await reached.wait()
                assert [path.stat().st_size for path in staging.iterdir()] == [len(CONTENT)]
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
                assert list(staging.iterdir()) == []
                assert (await queue.list()).uploads == []

        reached = asyncio.Event()
        asyncio.run(use())

    def test_nobody_gets_another_one_s_reply(
        self, redis_url: str, make_file: Callable[..., Path]
    ) -> None:
        async def use() -> None:
            async with AsyncUploadQueue(redis_url) as queue:
                tickets = [await queue.submit(make_file()) for _ in range(20)]
                for number in range(300):
                    asking = asyncio.create_task(queue.status(tickets[number % 20]))
                    for _ in range(number % 12):
                        await asyncio.sleep(0)
                    asking.cancel()
                    ticket = tickets[(number + 1) % 20]
                    assert (await queue.status(ticket)).ticket == ticket

        asyncio.run(use())


def test_each_event_loop_has_its_own_connections(
    redis_url: str, make_file: Callable[..., Path]
) -> None:
    """As in a framework that runs each request in a loop of its own."""
    queue = AsyncUploadQueue(redis_url)
    path = make_file()

    async def use() -> str:
        ticket = await queue.submit(path)
        assert (await queue.status(ticket)).stage is Stage.QUEUED
        await queue.close()
        return ticket

    assert len({asyncio.run(use()) for _ in range(3)}) == 3


@pytest.mark.slow
class TestTheLoopIsFree:
    def test_while_redis_is_stalled(
        self, default_redis_broker: RedisProcess, make_file: Callable[..., Path]
    ) -> None:
        path = make_file()

        async def use() -> None:
            async with AsyncUploadQueue(default_redis_broker.url) as queue:
                ticket = await queue.submit(path)
                listening = queue.events([ticket])
                assert (await anext(listening)).stage is Stage.QUEUED
                default_redis_broker._container.kill("SIGSTOP")
                calls: list[Callable[[], Any]] = [
                    lambda: queue.submit(path),
                    lambda: queue.submit_many([path, path]),
                    lambda: queue.statuses([ticket] * 300),
                    lambda: queue.list(),
                    lambda: queue.cancel(ticket),
                    lambda: queue.result(ticket, timeout_s=1),
                    *[lambda: queue.status(ticket)] * 300,  # a crowd is told as soon
                ]
                async with watched() as longest:
                    begun = time.monotonic()
                    ended = await asyncio.gather(
                        *(call() for call in calls), return_exceptions=True
                    )
                    assert time.monotonic() - begun < 5
                assert {type(end) for end in ended} == {QueueUnavailableError}
                assert longest[0] < MOST_BLOCKED_S
                default_redis_broker._container.kill("SIGCONT")
                assert await queue.submit(path)

        asyncio.run(use())

    def test_a_crowd_is_no_outage(
        self, redis_url: str, make_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It takes far longer than one call may, and is answered all the same."""
        monkeypatch.setenv("PROVIDER_UPLOADS_REDIS_TIMEOUT_S", "1")
        settings.cache_clear()
        path = make_file()

        async def use() -> None:
            async with AsyncUploadQueue(redis_url) as queue:
                ticket = await queue.submit(path)
                begun = time.monotonic()
                found = await asyncio.gather(*(queue.status(ticket) for _ in range(3000)))
                assert time.monotonic() - begun > 1
                assert {status.ticket for status in found} == {ticket}

        asyncio.run(use())

    def test_while_a_file_is_read_and_written(self, redis_url: str, staging: Path) -> None:
        class Slow(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                time.sleep(2)
                return super().read(size)

        async def use() -> None:
            async with AsyncUploadQueue(redis_url) as queue:
                await queue.submit_stream(io.BytesIO(b"x"))
                async with watched() as longest:
                    await queue.submit_stream(Slow(b"x" * 1000))
                    with tempfile.TemporaryFile() as large:
                        large.truncate(300 * 1024**2)
                        await queue.submit_stream(UploadFile(large, filename="large.mp4"))
                assert longest[0] < MOST_BLOCKED_S

        asyncio.run(use())

    def test_while_thousands_are_submitted_and_asked_for(
        self, redis_url: str, make_file: Callable[..., Path]
    ) -> None:
        paths = [make_file()] * 5000

        async def use() -> None:
            async with AsyncUploadQueue(redis_url) as queue:
                async with watched(time.thread_time) as longest:
                    tickets = await queue.submit_many(paths)
                    statuses = await queue.statuses(tickets)
                    page = await queue.list(limit=1000)
                assert [status.ticket for status in statuses] == tickets
                assert len(page.uploads) == 1000
                assert longest[0] < MOST_COMPUTED_S

        asyncio.run(use())


def test_redis_that_is_not_there(make_file: Callable[..., Path]) -> None:
    async def use() -> None:
        async with AsyncUploadQueue(f"redis://u:s3cret@127.0.0.1:{free_port()}/0") as queue:
            for call in (queue.submit(make_file()), queue.status("0" * 32), queue.list()):
                with pytest.raises(QueueUnavailableError) as caught:
                    await call
                assert "s3cret" not in str(caught.value)

    asyncio.run(use())


def test_a_restart_between_two_calls_is_not_noticed(
    default_redis_broker: RedisProcess, make_file: Callable[..., Path]
) -> None:
    async def use() -> None:
        async with AsyncUploadQueue(default_redis_broker.url) as queue:
            await queue.submit(make_file())
            await asyncio.to_thread(default_redis_broker._container.restart)
            await asyncio.to_thread(default_redis_broker.ready)
            ticket = await queue.submit(make_file())
            with pytest.raises(ResultTimeoutError):
                await queue.result(ticket, timeout_s=0)

    asyncio.run(use())
