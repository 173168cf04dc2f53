"""Changes as they happen, instead of asking again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from provider_uploads import ResultTimeoutError, Stage, UploadQueue
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import QueueUnavailableError, UnknownTicketError
from provider_uploads.ledger.uploads import Ledger
from tests.conftest import KEY
from tests.nodes import RedisProcess, wait_until

MIB = 1024**2


class TestARoad:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=0.3, bandwidth_mib_s=4, api_keys=frozenset({KEY}))

    def test_each_stage_and_the_bytes(
        self, queue: UploadQueue, make_file: Callable[..., Path]
    ) -> None:
        ticket = queue.submit(make_file("a.mp4", 6 * MIB), poll_s=0.1)
        seen = list(queue.events([ticket], timeout_s=60))
        stages = list(dict.fromkeys(status.stage for status in seen))
        assert stages[-3:] == [Stage.UPLOADING, Stage.PROCESSING, Stage.ACTIVE]
        sent = [status.sent_bytes for status in seen]
        assert sent == sorted(sent)
        assert len({n for n in sent if 0 < n < 6 * MIB}) >= 2  # 1.5 s of bytes, four notes a second
        assert seen[-1].uri

    def test_many_until_the_last_has_ended(
        self, queue: UploadQueue, make_file: Callable[..., Path], gemini: LocalGemini
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_FAILED, match="1.mp4")
        tickets = queue.submit_many([make_file(f"{n}.mp4") for n in range(3)], poll_s=0.1)
        last = {status.ticket: status.stage for status in queue.events(tickets, timeout_s=60)}
        assert [last[ticket] for ticket in tickets] == [Stage.ACTIVE, Stage.FAILED, Stage.ACTIVE]
        # What has ended is said once, and nothing is waited for.
        assert [status.stage for status in queue.events(tickets)] == [last[t] for t in tickets]

    def test_the_wait_can_end_first(
        self, queue: UploadQueue, make_file: Callable[..., Path], gemini: LocalGemini
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_STUCK)
        ticket = queue.submit(make_file("a.mp4"), timeout_s=60)
        with pytest.raises(ResultTimeoutError):
            list(queue.events([ticket], timeout_s=1))
        assert not queue.status(ticket).stage.ended


def test_nothing_is_missed_between_the_first_look_and_the_subscription(
    redis_url: str, make_file: Callable[..., Path], ledger: Ledger
) -> None:
    with UploadQueue(redis_url) as queue:
        path = make_file()
        tickets = [queue.submit(path) for _ in range(50)]
        enders = [threading.Thread(target=ledger.cancelled, args=(ticket,)) for ticket in tickets]
        listening = queue.events(tickets, timeout_s=60)
        first = next(listening)
        assert first.stage is Stage.QUEUED
        for ender in enders:
            ender.start()
        last = {status.ticket: status.stage for status in listening}
        for ender in enders:
            ender.join()
        assert set(last.values()) == {Stage.CANCELLED}
        assert len(last) == 50


def test_nobody_stays_subscribed(redis_url: str, make_file: Callable[..., Path]) -> None:
    with UploadQueue(redis_url) as queue, redis.Redis.from_url(redis_url) as client:
        listening = queue.events([queue.submit(make_file())])
        next(listening)
        assert client.pubsub_channels() != []
        listening.close()  # a browser went away
        wait_until(lambda: client.pubsub_channels() == [], "the end of the subscription")


def test_unknown_and_unreachable(redis_url: str, make_file: Callable[..., Path]) -> None:
    with UploadQueue(redis_url) as queue:
        with pytest.raises(UnknownTicketError):
            next(queue.events(["0" * 32]))
        assert list(queue.events([])) == []


def test_redis_that_goes_away(tmp_path: Path, make_file: Callable[..., Path]) -> None:
    node = RedisProcess.spawn(tmp_path)
    node.ready()
    with UploadQueue(node.url) as queue:
        listening = queue.events([queue.submit(make_file())], timeout_s=1.0)
        next(listening)
        node.teardown()
        with pytest.raises(QueueUnavailableError):
            next(listening)
