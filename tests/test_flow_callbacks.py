"""Host applications are told of an end: by a signed POST, or by a task of their own."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from celery import Celery, chain, chord, group, signature

from provider_uploads import UploadQueue
from provider_uploads.emulator import EmulatorConfig
from provider_uploads.errors import InvalidRequestError
from provider_uploads.ledger import outbox
from provider_uploads.ledger.steps import commands
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.schemas import DeliveryState, Notification, UploadStatus
from tests.conftest import KEY
from tests.nodes import RedisProcess, wait_until
from tests.receiver import SECRET, Receiver

HOST_DB = 1


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def forgetful(receiver: Receiver) -> None:
    receiver.told.clear()
    receiver.orders.clear()


@pytest.fixture
def policy(receiver: Receiver, default_redis_broker: RedisProcess) -> dict[str, str]:
    host_broker = default_redis_broker.url.rpartition("/")[0] + f"/{HOST_DB}"
    return {
        "PROVIDER_UPLOADS_CALLBACKS__ORDERS__URL": receiver.url,
        "PROVIDER_UPLOADS_CALLBACKS__ORDERS__SECRET": SECRET,
        "PROVIDER_UPLOADS_BROKERS__SHOP__URL": host_broker,
        "PROVIDER_UPLOADS_BROKERS__SHOP__QUEUE": "shop",
        "PROVIDER_UPLOADS_BROKERS__DOWN__URL": "redis://127.0.0.1:1/0",
        # Celery lets this one win over an app's configuration: not for the hosts' brokers.
        "CELERY_BROKER_URL": default_redis_broker.url,
        "PROVIDER_UPLOADS_NOTIFY_RETRY_FIRST_S": "0.05",
        "PROVIDER_UPLOADS_NOTIFY_RETRY_MAX_S": "0.3",
        "PROVIDER_UPLOADS_NOTIFY_TIMEOUT_S": "1",
    }


def settled(queue: UploadQueue, ticket: str) -> UploadStatus:
    """Wait until all who are told of an upload were told."""

    def told() -> UploadStatus | None:
        status = queue.status(ticket)
        return status if all(one.state.ended for one in status.deliveries) else None

    return wait_until(told, "the notifications are settled")  # type: ignore[return-value]


class TestWebhooks:
    def test_active(
        self, queue: UploadQueue, receiver: Receiver, make_file: Callable[..., Path]
    ) -> None:
        ticket = queue.submit(make_file("a.txt"), callback="orders", owner="ann", tags={"k": "v"})
        (delivery,) = settled(queue, ticket).deliveries
        assert (delivery.to, delivery.state, delivery.attempts, delivery.error) == (
            *("callback orders", DeliveryState.SENT, 1),
            None,
        )
        ((webhook_id, body),) = receiver.told
        assert webhook_id.startswith("msg_")
        assert body["type"] == "upload.active"
        assert body["data"] == queue.result(ticket).model_dump(mode="json")

    def test_tried_again_under_the_same_id_until_it_is_taken(
        self, queue: UploadQueue, receiver: Receiver, make_file: Callable[..., Path]
    ) -> None:
        receiver.orders = [500, 302, (503, {"Retry-After": "9999"})]
        ticket = queue.submit(make_file("a.txt"), callback="orders")
        (delivery,) = settled(queue, ticket).deliveries
        assert (delivery.state, delivery.attempts) == (DeliveryState.SENT, 4)
        assert len({told.webhook_id for told in receiver.told}) == 1

    def test_gone_is_not_tried_again(
        self, queue: UploadQueue, receiver: Receiver, make_file: Callable[..., Path]
    ) -> None:
        receiver.orders = [410]
        (delivery,) = settled(queue, queue.submit(make_file("a.txt"), callback="orders")).deliveries
        assert delivery.state is DeliveryState.GIVEN_UP
        assert "410 Gone" in (delivery.error or "")
        assert len(receiver.told) == 1

    def test_a_receiver_that_hangs_holds_no_other_upload(
        self,
        queue: UploadQueue,
        receiver: Receiver,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        receiver.orders = ["hang"] * 20
        waiting = queue.submit_many([make_file("a.txt") for _ in range(20)], callback="orders")
        wait_until(lambda: receiver.told, "the receiver hangs")
        begun = time.monotonic()
        for _ in range(3):
            assert queue.result(queue.submit(make_file(), **quick), timeout_s=10).state == "ACTIVE"
        assert time.monotonic() - begun < 5
        receiver.orders.clear()
        receiver.go_on.set()
        assert all(settled(queue, t).deliveries[0].state is DeliveryState.SENT for t in waiting)
        receiver.go_on.clear()

    def test_a_name_that_the_workers_do_not_know(
        self, queue: UploadQueue, make_file: Callable[..., Path]
    ) -> None:
        ticket = queue.submit(make_file("a.txt"), callback="nobody")
        (delivery,) = wait_until(
            lambda: [d for d in queue.status(ticket).deliveries if d.attempts > 1], "it is tried"
        )
        assert delivery.state is DeliveryState.RETRYING
        assert "PROVIDER_UPLOADS_CALLBACKS__NOBODY__URL" in (delivery.error or "")
        assert "(known: orders)" in (delivery.error or "")

    def test_of_a_question(
        self, queue: UploadQueue, receiver: Receiver, make_file: Callable[..., Path]
    ) -> None:
        asked = queue.ask("What is it?", [make_file("a.txt")], callback="orders")
        answer = queue.answer(asked, timeout_s=15)
        wait_until(lambda: receiver.told, "it was told")
        (body,) = receiver.bodies()
        assert (body["type"], body["data"]["text"]) == ("question.answered", answer.text)
        wait_until(lambda: queue.deliveries(asked)[0].state.ended, "it is recorded")

    def test_what_no_message_tells_is_found_by_the_sweep(
        self,
        queue: UploadQueue,
        receiver: Receiver,
        default_redis_broker: RedisProcess,
        make_file: Callable[..., Path],
    ) -> None:
        """As if the worker had died between the ledger and the message."""
        ticket = queue.submit(make_file("a.txt"))
        queue.result(ticket, timeout_s=15)
        ledger = Ledger(default_redis_broker.url)
        ledger.run(commands(outbox.writing(ticket, [Notification(callback="orders")])))
        found = [one for one in queue.sweep(dry_run=False, quiet_s=0) if one.subject == ticket]
        assert [one.kind for one in found] == ["untold"]
        wait_until(lambda: receiver.told, "it was told")
        wait_until(lambda: not ledger.redis.zcard(outbox.OUTBOX_KEY), "nothing is left to send")
        ledger.close()

    def test_many_are_each_told_of(
        self, queue: UploadQueue, receiver: Receiver, make_file: Callable[..., Path]
    ) -> None:
        tickets = queue.submit_many([make_file("a.txt")] * 100, callback="orders")
        for ticket in tickets:
            settled(queue, ticket)
        assert {told.body["data"]["ticket"] for told in receiver.told} == set(tickets)


class TestBadEnds:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=3600, api_keys=frozenset({KEY}))

    def test_time_is_up_and_cancelled(
        self,
        queue: UploadQueue,
        receiver: Receiver,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        slow = queue.submit(make_file(), callback="orders", **{**quick, "timeout_s": 0.2})
        assert settled(queue, slow).deliveries[0].state is DeliveryState.SENT
        cancelled = queue.submit(make_file(), callback="orders", poll_s=30)
        queue.cancel(cancelled)
        settled(queue, cancelled)
        bodies = receiver.bodies()
        assert [body["type"] for body in bodies] == ["upload.timed_out", "upload.cancelled"]
        assert [body["data"]["ticket"] for body in bodies] == [slow, cancelled]
        assert bodies[1]["data"]["error"]["type"] == "UploadCancelledError"


@pytest.fixture
def shop(default_redis_broker: RedisProcess) -> Celery:
    """A host's own app, with routes of its own."""
    broker = default_redis_broker.url.rpartition("/")[0] + f"/{HOST_DB}"
    app = Celery("shop", broker=broker, set_as_current=False)
    app.conf.task_routes = {"shop.routed": {"queue": "routed"}}

    def never_run(*_: Any, **__: Any) -> None:
        """Only sent."""

    for name in ("shop.done", "shop.routed", "shop.failed"):
        app.task(name=name, shared=False)(never_run)
    return app


def received(broker: RedisProcess, queue: str) -> dict[str, Any]:
    """Wait for a message at the host's broker; return it."""
    with broker.client as client:
        client.select(HOST_DB)
        raw = wait_until(lambda: client.rpop(queue), f"a message in {queue}")
        client.select(0)
    return cast("dict[str, Any]", json.loads(str(raw)))


def arguments(message: dict[str, Any]) -> Any:
    """Return a message's [args, kwargs, embed]."""
    return json.loads(base64.b64decode(message["body"]))


class TestTasksOfTheHost:
    def test_on_active_goes_to_the_host_s_broker_and_queue(
        self,
        queue: UploadQueue,
        shop: Celery,
        default_redis_broker: RedisProcess,
        make_file: Callable[..., Path],
    ) -> None:
        ticket = queue.submit(
            make_file("a.txt"),
            on_active=shop.tasks["shop.routed"].s(7, colour="red"),
            on_failed=shop.tasks["shop.failed"].s(),
            broker="shop",
        )
        message = received(default_redis_broker, "routed")
        (result, seven), kwargs, _ = arguments(message)
        assert result == queue.result(ticket).model_dump(mode="json")
        assert (seven, kwargs) == (7, {"colour": "red"})
        assert message["headers"]["task"] == "shop.routed"
        states = [one.state for one in settled(queue, ticket).deliveries]
        assert states == [DeliveryState.SENT, DeliveryState.NOT_NEEDED]

    def test_on_failed_gets_the_status(
        self,
        queue: UploadQueue,
        shop: Celery,
        default_redis_broker: RedisProcess,
        make_file: Callable[..., Path],
    ) -> None:
        path = make_file("a.mp4")
        bare = signature("elsewhere.failed", kwargs={"n": 1})
        ticket = queue.submit(path, poll_s=30, on_failed=bare, broker="shop")
        queue.cancel(ticket)
        message = received(default_redis_broker, "shop")
        (status,), kwargs, _ = arguments(message)
        assert (status["ticket"], status["stage"], kwargs) == (ticket, "CANCELLED", {"n": 1})
        assert message["headers"]["task"] == "elsewhere.failed"

    def test_immutable_and_a_chain(
        self,
        queue: UploadQueue,
        shop: Celery,
        default_redis_broker: RedisProcess,
        make_file: Callable[..., Path],
    ) -> None:
        done, routed = shop.tasks["shop.done"], shop.tasks["shop.routed"]
        queue.submit(make_file("a.txt"), on_active=done.si(1), broker="shop")
        assert arguments(received(default_redis_broker, "celery"))[0] == [1]
        queue.submit(make_file("a.txt"), on_active=chain(routed.s(), done.s()), broker="shop")
        _, _, rest = arguments(received(default_redis_broker, "routed"))
        assert rest["chain"][0]["task"] == "shop.done"

    def test_a_broker_that_is_down_is_tried_again(
        self, queue: UploadQueue, shop: Celery, make_file: Callable[..., Path]
    ) -> None:
        ticket = queue.submit(
            make_file("a.txt"), on_active=shop.tasks["shop.done"].s(), broker="down"
        )
        wait_until(
            lambda: [d for d in queue.status(ticket).deliveries if d.attempts > 1], "tried again"
        )
        assert queue.status(ticket).deliveries[0].state is DeliveryState.RETRYING

    def test_what_cannot_be_sent_is_refused(
        self, queue: UploadQueue, shop: Celery, make_file: Callable[..., Path]
    ) -> None:
        done, path = shop.tasks["shop.done"], make_file("a.txt")
        for bad, what in (
            (chord([done.s()], done.s()), "begins with a chord"),
            (chain(group(done.s(), done.s()), done.s()), "begins with a chord"),
            ("shop.done", "must be a Celery signature"),
            (done.s(object()), "must be JSON"),
        ):
            with pytest.raises(InvalidRequestError, match=what):
                queue.submit(path, on_active=bad, broker="shop")
        with pytest.raises(InvalidRequestError, match="callback"):
            queue.submit(path, callback="Not a name!")
        assert not queue.list().uploads


def test_one_request_made_twice_is_one_upload(
    queue: UploadQueue, make_file: Callable[..., Path]
) -> None:
    path, ticket = make_file("a.txt"), uuid.uuid4().hex
    assert queue.submit(path, ticket=ticket) == ticket
    first = queue.result(ticket, timeout_s=15)
    assert queue.submit(path, ticket=ticket) == ticket
    assert queue.result(ticket, timeout_s=0) == first
    with pytest.raises(InvalidRequestError, match="32 hexadecimal"):
        queue.submit(path, ticket="order-1")
