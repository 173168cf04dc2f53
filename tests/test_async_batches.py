"""``AsyncUploadQueue`` and batches: the calls of ``UploadQueue``, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from provider_uploads import AsyncUploadQueue
from provider_uploads.emulator import BatchConfig, EmulatorConfig, LocalGemini
from provider_uploads.errors import BatchCancelledError, UnknownTicketError
from provider_uploads.schemas import BatchAnswer, BatchStage
from tests.conftest import KEY
from tests.nodes import RedisProcess

pytestmark = pytest.mark.usefixtures("celery_setup")

MODEL = "gemini-2.5-flash"
REQUESTS = [{"contents": f"Question {n}", "metadata": {"key": f"k{n}"}} for n in range(3)]
_POLICY = ("POLL_FIRST_S", "POLL_MAX_S", "LOOK_FIRST_S", "LOOK_MAX_S", "LIST_EVERY_S")


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    batches = BatchConfig(pending_s=0.05, running_s=0.1)
    return EmulatorConfig(api_keys=frozenset({KEY}), batches=batches)


@pytest.fixture
def policy() -> dict[str, str]:
    return {f"PROVIDER_UPLOADS_BATCH_{name}": "0.1" for name in _POLICY}


async def keys(answers: AsyncIterator[BatchAnswer]) -> list[str]:
    return [answer.key async for answer in answers]


def test_to_the_end(default_redis_broker: RedisProcess, tmp_path: Path) -> None:
    async def run() -> None:
        async with AsyncUploadQueue(default_redis_broker.url) as queue:
            kept = await queue.batch(REQUESTS, model=MODEL)
            place = tmp_path / "out.jsonl"
            written = await queue.batch(REQUESTS, model=MODEL, results=place)
            for ticket in (kept, written):
                result = await queue.batch_result(ticket, timeout_s=60)
                assert (result.state, result.counts.failed) == ("SUCCEEDED", 0)
                assert await keys(queue.batch_answers(ticket)) == ["k0", "k1", "k2"]
                assert (await queue.batch_status(ticket)).stage is BatchStage.SUCCEEDED
            listed = await queue.batch_list(stage="SUCCEEDED")
            assert [one.ticket for one in listed] == [written, kept]
            assert await queue.batch_delete(kept) is BatchStage.SUCCEEDED
            assert await queue.batch_wake("batches/unknown") is None

    asyncio.run(run())


def test_cancelled(default_redis_broker: RedisProcess, gemini: LocalGemini) -> None:
    async def run() -> None:
        gemini.batches.order(stuck="running")
        async with AsyncUploadQueue(default_redis_broker.url) as queue:
            ticket = await queue.batch(REQUESTS, model=MODEL)
            assert not (await queue.batch_cancel(ticket)).ended
            with pytest.raises(BatchCancelledError):
                await queue.batch_result(ticket, timeout_s=60)
            with pytest.raises(UnknownTicketError, match="no batch is known"):
                await queue.batch_status("f" * 32)
            with pytest.raises(UnknownTicketError, match="no upload or batch is known"):
                await anext(queue.events(["f" * 32]))

    asyncio.run(run())
