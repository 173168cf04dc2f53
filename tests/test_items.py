"""Messages of our own making are those that Celery and kombu make."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Producer
from kombu.transport import virtual
from kombu.utils.json import dumps

from provider_uploads import messages
from provider_uploads.fleet.items import ITEMS, Item
from provider_uploads.fleet.readable import unreadable
from provider_uploads.isolated_celery import IsolatedApp
from provider_uploads.messages import Writer
from provider_uploads.protocol import KEY_PREFIX
from provider_uploads.requests import request_for
from provider_uploads.schemas import UploadRequest

T = "c" * 32


class _Channel(virtual.Channel):
    """A channel whose queues are one list."""

    do_restore = False
    written: list[tuple[str, dict[str, Any]]]

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.written.append((queue, json.loads(dumps(message))))

    def _size(self, queue: str) -> int:
        return 0

    def _purge(self, queue: str) -> int:
        return 0


class _Transport(virtual.Transport):
    Channel = _Channel


def by_celery(signature: Any) -> tuple[str, dict[str, Any]]:
    """Return the queue and the message that Celery writes."""
    channel: Any = Connection(transport=_Transport).channel()
    channel.written = []
    producer = Producer(channel, auto_declare=False)
    signature.apply_async(producer=producer, retry=False, add_to_parent=False)
    ((queue, message),) = channel.written
    return queue, message


@pytest.fixture(scope="module")
def celery() -> Celery:
    return IsolatedApp("tests")


@pytest.fixture
def request_(make_file: Callable[..., Path]) -> UploadRequest:
    return request_for(make_file("ünï.txt", 10))


Make = Callable[[Writer[Any], UploadRequest], Any]


@pytest.mark.parametrize(
    "make",
    [
        lambda app, request: messages.upload_signature(app, request, "transfer.bulk"),
        lambda app, request: messages.poll_signature(app, request, 3).set(task_id=T),
        lambda app, request: messages.ingest_signature(app, [request]),
        lambda app, request: messages.ingest_signature(app, [request], T),
        lambda app, _: messages.ask_signature(app, T, "transfer.questions"),
        lambda app, _: messages.create_batch_signature(app, T),
        lambda app, _: messages.poll_batch_signature(app, T, 2),
        lambda app, _: messages.wake_batch_signature(app, T),
        lambda app, _: messages.collect_batch_signature(app, T),
        lambda app, _: messages.clean_up_batch_signature(app, T),
        lambda app, _: messages.delete_signature(app, T),
        lambda app, _: messages.unstage_signature(app, T),
        lambda app, _: messages.notify_signature(app, T),
    ],
)
def test_it_is_celerys(make: Make, celery: Celery, request_: UploadRequest) -> None:
    queue, theirs = by_celery(make(celery, request_))
    item: Item = make(ITEMS, request_)
    ours = json.loads(item.text())

    assert item.key == f"{KEY_PREFIX}{queue}"
    assert unreadable(item.text().encode()) == ""
    assert body(ours) == body(theirs)
    for message in (ours, theirs):
        message["body"] = None
        # Random in each message, and what names a client: nobody replies to it.
        message["properties"]["delivery_tag"] = message["properties"]["reply_to"] = None
        if message["headers"]["id"] != T and message["headers"]["id"] != request_.upload_id:
            message["headers"]["id"] = message["headers"]["root_id"] = None
            message["properties"]["correlation_id"] = None
    assert ours == theirs


def body(message: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(message["body"]))


def test_a_countdown_is_a_time(celery: Celery, request_: UploadRequest) -> None:
    _, theirs = by_celery(messages.poll_signature(celery, request_))
    ours = json.loads(messages.poll_signature(ITEMS, request_).text())
    due = [datetime.fromisoformat(message["headers"]["eta"]) for message in (ours, theirs)]
    assert abs(due[0] - due[1]).total_seconds() < 1
    assert all(at.tzinfo == UTC for at in due)


def test_each_time_under_a_tag_of_its_own(request_: UploadRequest) -> None:
    item = messages.upload_signature(ITEMS, request_)
    tags = {json.loads(item.text())["properties"]["delivery_tag"] for _ in range(3)}
    assert len(tags) == 3
