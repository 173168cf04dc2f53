"""Changes as they happen, in an event loop: one subscription, however many readers there are."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from provider_uploads import AsyncUploadQueue, ResultTimeoutError, Stage, UploadQueue, UploadStatus
from provider_uploads.errors import QueueUnavailableError
from provider_uploads.ledger.uploads import Ledger
from tests.nodes import RedisProcess, wait_until


async def until(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


def names_of_threads() -> list[str]:
    """All but those of the executor, in which this test waits."""
    names = [thread.name for thread in threading.enumerate()]
    return sorted(name for name in names if not name.startswith("asyncio"))


def subscriptions(client: redis.Redis) -> int:
    return len(cast(list[Any], client.client_list(_type="pubsub")))


def test_each_stage_and_the_bytes(
    queue: UploadQueue, default_redis_broker: RedisProcess, make_file: Callable[..., Path]
) -> None:
    async def follow() -> list[UploadStatus]:
        async with AsyncUploadQueue(default_redis_broker.url) as queue:
            tickets = await queue.submit_many(
                [make_file(f"{n}.mp4") for n in range(3)], poll_s=0.1, jitter_s=0
            )
            return [status async for status in queue.events(tickets, timeout_s=60)]

    seen = asyncio.run(follow())
    last = {status.ticket: status.stage for status in seen}
    assert [*last.values()] == [Stage.ACTIVE] * 3
    assert Stage.PROCESSING in {status.stage for status in seen}


def test_nothing_is_missed_between_the_first_look_and_the_subscription(
    redis_url: str, make_file: Callable[..., Path], ledger: Ledger
) -> None:
    async def follow() -> dict[str, Stage]:
        async with AsyncUploadQueue(redis_url) as queue:
            tickets = [await queue.submit(make_file()) for _ in range(50)]
            listening = queue.events(tickets, timeout_s=60)
            assert (await anext(listening)).stage is Stage.QUEUED
            for ticket in tickets:
                threading.Thread(target=ledger.cancelled, args=(ticket,)).start()
            return {status.ticket: status.stage async for status in listening}

    last = asyncio.run(follow())
    assert len(last) == 50
    assert set(last.values()) == {Stage.CANCELLED}


class TestManyReaders:
    def test_one_subscription_and_no_threads(
        self, redis_url: str, make_file: Callable[..., Path], ledger: Ledger
    ) -> None:
        async def read_all() -> None:
            async with AsyncUploadQueue(redis_url) as queue:
                ticket = await queue.submit(make_file())
                await until(lambda: subscriptions(ledger.redis) == 0, "nobody")
                threads = names_of_threads()

                async def read() -> list[Stage]:
                    return [status.stage async for status in queue.events([ticket])]

                reading = [asyncio.create_task(read()) for _ in range(100)]
                await until(lambda: subscriptions(ledger.redis) == 1, "the subscription")
                assert names_of_threads() == threads
                assert ledger.cancelled(ticket)
                stages = await asyncio.gather(*reading)
                assert [seen[-1] for seen in stages] == [Stage.CANCELLED] * 100
                await until(lambda: subscriptions(ledger.redis) == 0, "the end of it")

        asyncio.run(read_all())

    def test_those_who_leave_take_nothing_from_those_who_stay(
        self, redis_url: str, make_file: Callable[..., Path], ledger: Ledger
    ) -> None:
        async def read() -> None:
            async with AsyncUploadQueue(redis_url) as queue:
                one, two = [await queue.submit(make_file()) for _ in range(2)]
                streams = [queue.events([one, two], timeout_s=60) for _ in range(10)]
                staying = queue.events([one], timeout_s=60)
                for stream in (*streams, staying):
                    await anext(stream)
                for stream in streams:
                    await stream.close()
                await until(lambda: len(ledger.redis.pubsub_channels()) == 1, "one channel")
                assert ledger.cancelled(one)
                assert (await anext(staying)).stage is Stage.CANCELLED
                again = queue.events([two], timeout_s=60)  # while the last one is being closed
                await anext(again)
                assert ledger.cancelled(two)
                assert (await anext(again)).stage is Stage.CANCELLED

        asyncio.run(read())


class TestTheEndOfAReader:
    @pytest.mark.parametrize("how", ["close", "cancel", "forget", "queue"])
    def test_nobody_stays_subscribed(
        self, redis_url: str, make_file: Callable[..., Path], ledger: Ledger, how: str
    ) -> None:
        async def leave() -> None:
            async with AsyncUploadQueue(redis_url) as queue:
                stream: Any = queue.events([await queue.submit(make_file())])
                await anext(stream)
                reading = asyncio.create_task(anext(stream, None))
                await until(lambda: subscriptions(ledger.redis) == 1, "the subscription")
                if how == "close":
                    await stream.close()
                    assert await asyncio.wait_for(reading, 1) is None
                    await stream.aclose()
                elif how == "queue":
                    await queue.close()
                    assert await asyncio.wait_for(reading, 1) is None
                else:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
                    if how == "cancel":
                        assert subscriptions(ledger.redis) == 1  # it may be read on
                        await stream.close()
                    del stream, reading
                    gc.collect()
                await until(lambda: subscriptions(ledger.redis) == 0, "the end of it")

        asyncio.run(leave())

    def test_a_loop_that_ends_first(self, redis_url: str, make_file: Callable[..., Path]) -> None:
        """Forgotten streams and connections are a nuisance, and no more."""

        async def begin() -> Any:
            queue = AsyncUploadQueue(redis_url)
            stream = queue.events([await queue.submit(make_file())])
            await anext(stream)
            await queue.close()
            return stream

        stream = asyncio.run(begin())
        del stream
        gc.collect()


def test_heartbeats_and_the_end_of_the_wait(redis_url: str, make_file: Callable[..., Path]) -> None:
    async def read() -> None:
        async with AsyncUploadQueue(redis_url) as queue:
            ticket = await queue.submit(make_file())
            stream = queue.events([ticket], timeout_s=1, heartbeat_s=0.1)
            status = await anext(stream)
            assert status is not None
            assert [await anext(stream) for _ in range(3)] == [None] * 3
            waiting = queue.events([ticket], timeout_s=0.5)
            assert (await anext(waiting)).stage is Stage.QUEUED
            with pytest.raises(ResultTimeoutError, match="is QUEUED after"):
                await anext(waiting)

    asyncio.run(read())


class TestRedisTrouble:
    def with_own(self, tmp_path: Path, use: Callable[[RedisProcess], Awaitable[None]]) -> None:
        node = RedisProcess.spawn(tmp_path, aof=True)
        node.ready()
        try:
            asyncio.run(use(node))  # type: ignore[arg-type]
        finally:
            node.kill_now()

    def test_a_restart(self, tmp_path: Path, make_file: Callable[..., Path]) -> None:
        async def use(node: RedisProcess) -> None:
            async with AsyncUploadQueue(node.url) as queue:
                ticket = await queue.submit(make_file())
                stream = queue.events([ticket], timeout_s=60)
                assert (await anext(stream)).stage is Stage.QUEUED
                await asyncio.to_thread(node.kill_now)
                await asyncio.to_thread(node._container.restart)
                await asyncio.to_thread(node.ready)
                ledger = Ledger(node.url)
                assert ledger.cancelled(ticket)
                ledger.close()
                assert (await anext(stream)).stage is Stage.CANCELLED

        self.with_own(tmp_path, use)

    def test_one_that_stays_away(self, tmp_path: Path, make_file: Callable[..., Path]) -> None:
        async def use(node: RedisProcess) -> None:
            async with AsyncUploadQueue(node.url) as queue:
                stream = queue.events([await queue.submit(make_file())], timeout_s=1.5)
                await anext(stream)
                await asyncio.to_thread(node.kill_now)
                with pytest.raises(QueueUnavailableError):
                    await anext(stream)

        self.with_own(tmp_path, use)
