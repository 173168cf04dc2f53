"""Nothing that stands in a queue stops a worker: what cannot be read is set aside, others go on."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from pytest_celery import CeleryTestSetup

from provider_uploads import Stage, UploadQueue, protocol
from provider_uploads.cli import main
from provider_uploads.doctor import Verdict, examine
from provider_uploads.fleet.dead_letters import DeadLetters
from provider_uploads.ledger.connection import Connection
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.settings import settings
from tests.nodes import RedisProcess, wait_until

pytestmark = pytest.mark.slow

TRANSFER, CONTROL = (f"{protocol.KEY_PREFIX}{name}" for name in ("transfer", "control"))


@pytest.fixture
def raw(default_redis_broker: RedisProcess) -> Iterator[redis.Redis]:
    with redis.Redis(port=default_redis_broker.port) as client:
        yield client


@pytest.fixture
def dead(default_redis_broker: RedisProcess) -> Iterator[DeadLetters]:
    connection = Connection(default_redis_broker.url)
    yield DeadLetters(connection)
    connection.close()


def item(
    task: str = protocol.DELETE, *args: Any, headers: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """A message as kombu writes it, with changes."""
    body = base64.b64encode(json.dumps([args, {}, {}]).encode()).decode()
    return {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"id": "f" * 32, "task": task, "lang": "py", **(headers or {})},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": f"tag-{time.monotonic_ns()}",
            "delivery_info": {"exchange": "", "routing_key": "control"},
            "delivery_mode": 2,
            "priority": 0,
        },
        **changes,
    }


def without(message: dict[str, Any], *path: str) -> dict[str, Any]:
    inner = message
    for part in path[:-1]:
        inner = inner[part]
    del inner[path[-1]]
    return message


#: Each of the first seven ended its worker, and was put back for the next one or lost.
POISON: dict[str, bytes] = {
    "not base64": json.dumps(item(body="!!!")).encode(),
    "not JSON": b"{",
    "not text": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
    "a number": b"7",
    "no properties": json.dumps(without(item(), "properties")).encode(),
    "no delivery tag": json.dumps(without(item(), "properties", "delivery_tag")).encode(),
    "no body": json.dumps(without(item(), "body")).encode(),
    "no id": json.dumps(without(item(), "headers", "id")).encode(),
    "no task": json.dumps(without(item(), "headers", "task")).encode(),
    "a number as id": json.dumps(item(headers={"id": 7})).encode(),
    "headers that are a list": json.dumps(item(headers=None) | {"headers": [1]}).encode(),
    "a body that is no list": json.dumps(item(body="e30=")).encode(),
    "a body of two": json.dumps(item(body=base64.b64encode(b"[[], {}]").decode())).encode(),
    "a pickle": json.dumps(item() | {"content-type": "application/x-python-serialize"}).encode(),
    "an ETA that is no time": json.dumps(item(headers={"eta": "soon"})).encode(),
    "retries that are no number": json.dumps(item(headers={"retries": "x"})).encode(),
    "somebody else's task": json.dumps(item("shop.tasks.pay")).encode(),
    "compressed, and not": json.dumps(item(headers={"compression": "application/x-gzip"})).encode(),
}


class TestPoison:
    def test_it_is_set_aside_and_others_go_on(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        raw: Any,
        dead: DeadLetters,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        for one in POISON.values():
            raw.lpush(TRANSFER, one)
            raw.lpush(CONTROL, one)
        tickets = [queue.submit(make_file(f"{n}.mp4"), **quick) for n in range(4)]
        for ticket in tickets:
            assert queue.result(ticket, timeout_s=10).state == "ACTIVE"
        wait_until(lambda: dead.count() == 2 * len(POISON), "all poison to be set aside")
        assert celery_setup.worker.container.exit_code is None
        assert raw.hlen(f"{protocol.KEY_PREFIX}unacked") == 0
        assert raw.llen(CONTROL) == raw.llen(TRANSFER) == 0
        kept = {letter.queue: letter for letter in dead.read()}
        assert set(kept) == {"transfer", "control"}
        assert b"!!!" in dead.read()[-1].item.encode()
        logs = celery_setup.worker.logs()
        assert "Traceback" not in logs
        assert logs.count("set aside") == 2 * len(POISON)

    def test_one_that_stands_among_the_messages_of_workers_holds_up_no_other(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        raw: Any,
        dead: DeadLetters,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        """kombu takes overdue ones in turn, and stopped at the first that it could not read."""
        unacked, index = (f"{protocol.KEY_PREFIX}unacked{end}" for end in ("", "_index"))
        ticket = queue.submit(make_file(), **quick)
        assert queue.result(ticket, timeout_s=10).state == "ACTIVE"
        lost = item(protocol.DELETE, ticket)
        whole = json.dumps([lost, "", "control"]).encode()
        for number, held in enumerate((b"{", b"\xff", b"[]", whole)):
            raw.hset(unacked, f"held-{number}", held)
            raw.zadd(index, {f"held-{number}": 1000 - number})
        wait_until(lambda: raw.hlen(unacked) == 0, "all to be taken", 20)
        wait_until(lambda: "nothing deleted" in celery_setup.worker.logs(), "the last to be done")
        assert dead.count() == 3


def rows_that_nobody_can_read(raw: Any, readable: dict[Any, Any]) -> dict[str, str]:
    """Write rows of each kind beside ``readable``; return their tickets and why."""
    changes: dict[str, dict[str, str | bytes]] = {
        "Input should be 'QUEUED'": {"stage": "ARCHIVING"},
        "Extra inputs": {"archived_at": "17"},
        "JSONDecodeError": {"request": "{"},
        "InvalidRequestError": {"request": "{}"},
        "AttributeError": {"request": "[]"},
        "version 99": {"request": json.dumps({"version": 99, "place": "new"})},
        "valid string": {"queued_at": b"\xff"},
    }
    found = {}
    for number, (why, change) in enumerate(changes.items()):
        ticket = f"{number:032x}"
        own = {**readable, "request": readable["request"].replace("REPLACED", ticket), **change}
        raw.hset(ROW + ticket, mapping=own)
        found[ticket] = why
    raw.set(ROW + "d" * 32, "not a hash")
    found["d" * 32] = "WRONGTYPE"
    return found


ROW = f"{protocol.KEY_PREFIX}upload:"
OPEN = f"{protocol.KEY_PREFIX}open"


class TestRows:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {
            "PROVIDER_UPLOADS_SWEEP_QUIET_S": "0.01",
            "PROVIDER_UPLOADS_NEWER_PAYLOAD_RETRY_S": "0.5",
        }

    def row(self, raw: Any, queue: UploadQueue, path: Path) -> dict[Any, Any]:
        """A QUEUED row as the client writes it."""
        ticket = queue.submit(path)
        queue.result(ticket, timeout_s=10)
        request = raw.hget(ROW + ticket, "request") or b""
        return {
            "stage": "QUEUED",
            "request": request.decode().replace(ticket, "REPLACED"),
            "queued_at": "1",
        }

    def test_unreadable_ones_are_lines_of_the_report_and_the_sweep_goes_on(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        default_worker_app: Celery,
        default_redis_broker: RedisProcess,
        raw: Any,
        make_file: Callable[..., Path],
        monkeypatch: pytest.MonkeyPatch,
        default_worker_env: dict[str, str],
    ) -> None:
        readable = self.row(raw, queue, make_file("a.txt"))
        bad = rows_that_nobody_can_read(raw, readable)
        for ticket in bad:
            raw.zadd(OPEN, {ROW + ticket: 1})
        raw.zadd(OPEN, {b"\xff\xfe": 1, "nonsense": 1})
        raw.zadd(f"{protocol.KEY_PREFIX}open_questions", {b"\xff": 1, "e" * 32: 1})
        raw.set(f"{protocol.KEY_PREFIX}question:" + "e" * 32, "not a hash")
        raw.zadd(f"{protocol.KEY_PREFIX}outbox", {b"\xff": 1, "b" * 32: 1})
        raw.set(ROW + "b" * 32, "not a hash")
        lost = "c" * 32
        own = readable | {"request": readable["request"].replace("REPLACED", lost)}
        raw.hset(ROW + lost, mapping=own)
        raw.zadd(OPEN, {ROW + lost: time.time() - 10})

        def swept() -> bool:
            default_worker_app.send_task(protocol.SWEEP, queue="control")
            time.sleep(0.3)
            return queue.status(lost).stage is Stage.ACTIVE

        wait_until(swept, "the lost one to be submitted again")
        swept()
        logs = celery_setup.worker.logs()
        for ticket, why in bad.items():
            (line,) = (one for one in logs.splitlines() if f"upload {ticket}" in one)
            assert why in line
        assert logs.count("stands among the tickets") == 3
        assert "Traceback" not in logs
        for name, value in default_worker_env.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        found = {check.name: check for check in examine().checks}
        assert found["sweep"].verdict is Verdict.OK
        assert found["unreadable"].verdict is Verdict.WARNING
        assert "the sweep leaves 14 items in Redis alone" in found["unreadable"].says

    def test_a_newer_row_waits_for_a_newer_worker_with_every_task(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        default_worker_app: Celery,
        raw: Any,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        ticket, newer = "7" * 32, {"archived_at": "17"}
        readable = self.row(raw, queue, make_file("a.txt"))
        own = {**readable, "request": readable["request"].replace("REPLACED", ticket), **newer}
        raw.hset(ROW + ticket, mapping=own)
        question: dict[str, Any] = {
            "version": 1,
            "question_id": "8" * 32,
            "prompt": "?",
            "uploads": [ticket],
        }
        newer_question = {**question, "question_id": "9" * 32, "version": 99}
        for one in (question, newer_question):
            key = f"{protocol.KEY_PREFIX}question:{one['question_id']}"
            raw.hset(key, "question", json.dumps(one))
        raw.hset(f"{protocol.KEY_PREFIX}outbox:{ticket}", "notifications", "[]")
        sent = [
            default_worker_app.send_task(name, args=args, queue="control", kwargs=kwargs).id
            for name, args, kwargs in (
                (protocol.POLL, (ticket,), {}),
                (protocol.DELETE, (ticket,), {}),
                (protocol.NOTIFY, (ticket,), {}),
                (protocol.GENERATE, ("9" * 32,), {}),
                (protocol.UPLOAD, ({"version": 99, "upload_id": "6" * 32},), {}),
                (protocol.INGEST, ([{"version": 99, "upload_id": "6" * 32}],), {}),
                (protocol.UNSTAGE, ("6" * 32,), {"place": "an argument of a newer version"}),
                ("provider_uploads.archive", (ticket,), {}),
            )
        ]
        said = celery_setup.worker
        wait_until(
            lambda: all(f"{one} waits for a newer worker" in said.logs() for one in sent),
            "all to wait",
        )
        assert queue.result(queue.submit(make_file(), **quick), timeout_s=10).state == "ACTIVE"
        time.sleep(1.2)  # two more turns of each
        logs = said.logs()
        for told in sent:
            assert logs.count(f"{told} waits for a newer worker") == 1
        assert "Traceback" not in logs
        # A newer worker comes: here, the row becomes one that this one can read.
        raw.hset(ROW + ticket, "stage", "CANCELLED")
        raw.hdel(ROW + ticket, "archived_at")
        wait_until(lambda: f"{protocol.DELETE}[{sent[1]}] succeeded" in said.logs(), "deletion")


class TestHotLoop:
    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {
            "PROVIDER_UPLOADS_RETURNS_PER_MINUTE": "20",
            "PROVIDER_UPLOADS_LEASE_HELD_RETRY_S": "0.01",
        }

    def test_what_fails_in_redis_ends_and_others_go_on(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        default_worker_app: Celery,
        raw: Any,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        """Each of them came back 8,000 times a minute."""
        broken = queue.submit(make_file("broken.txt"))
        queue.result(broken, timeout_s=10)
        request = json.loads(raw.hget(ROW + broken, "request") or b"")
        raw.delete(ROW + broken)
        raw.set(ROW + broken, "not a hash")
        raw.set(f"{protocol.KEY_PREFIX}question:" + "e" * 32, "not a hash")
        sent = [
            default_worker_app.send_task(name, args=args, queue=place)
            for name, args, place in (
                (protocol.GENERATE, ([1],), "transfer.questions"),
                (protocol.GENERATE, ("e" * 32,), "transfer.questions"),
                (protocol.UPLOAD, (request,), "transfer"),
                (protocol.POLL, (broken,), "control"),
                (protocol.POLL, (7, [], {}), "control"),
                (protocol.DELETE, (broken,), "control"),
                (protocol.NOTIFY, (broken,), "control"),
                (protocol.INGEST, ([{"upload_id": broken}, 3],), "control"),
            )
        ]
        for one in sent:
            wait_until(lambda: f"[{one.id}] raised" in celery_setup.worker.logs(), one.id)  # noqa: B023
        assert queue.result(queue.submit(make_file(), **quick), timeout_s=10).state == "ACTIVE"
        logs = celery_setup.worker.logs()
        assert [logs.count(f"[{one.id}] received") for one in sent] == [1] * len(sent)
        assert len(logs) < 50_000

    def test_what_comes_back_again_and_again_is_slowed_down(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        default_worker_app: Celery,
        default_redis_broker: RedisProcess,
        raw: Any,
        make_file: Callable[..., Path],
        quick: dict[str, Any],
    ) -> None:
        """A copy of a message that meets a lease which is never let go."""
        ticket = queue.submit(make_file("held.txt"))
        queue.result(ticket, timeout_s=10)
        request = json.loads(raw.hget(ROW + ticket, "request"))
        raw.hset(ROW + ticket, "stage", "UPLOADING")
        ledger = Ledger(default_redis_broker.url)

        def returned() -> int:
            held = [json.loads(one)[0] for one in raw.hvals(f"{protocol.KEY_PREFIX}unacked")]
            return max((one["headers"]["retries"] for one in held), default=0)

        with ledger.lease(ticket, 60) as lease:
            assert lease is not None
            default_worker_app.send_task(protocol.UPLOAD, args=(request,), queue="transfer")
            wait_until(lambda: returned() >= 20, "it to come back")
            time.sleep(2)
            assert returned() <= 22
            assert queue.result(queue.submit(make_file(), **quick), timeout_s=10).state == "ACTIVE"
        ledger.close()
        wait_until(lambda: raw.hlen(f"{protocol.KEY_PREFIX}unacked") == 0, "it to end")
        assert celery_setup.worker.logs().count("received") < 100


def test_an_operator_sees_dead_letters_and_drops_them(
    default_redis_broker: RedisProcess,
    dead: DeadLetters,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PROVIDER_UPLOADS_REDIS_URL", default_redis_broker.url)
    dead.put("transfer", b"\x1b[31m secret \xff", "the item: Invalid JSON")

    def said(*options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["dead-letters", *options])
        assert ended.value.code == 0
        read = capsys.readouterr()
        return read.out + read.err

    shown = said()
    assert "queue transfer  14 bytes  the item: Invalid JSON" in shown
    assert "1 in all, 1 kept" in shown
    assert "secret" not in shown
    assert "secret" in (dropping := said("--items", "--drop"))
    assert "\x1b[31m secret" not in dropping
    assert "0 in all" in said()
