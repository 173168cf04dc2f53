"""No secret travels: everything that ever reaches Redis and the logs is searched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import redis
from pytest_celery import CeleryTestSetup

from provider_uploads import UploadInactiveError, UploadQueue, protocol
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from tests.conftest import KEY
from tests.nodes import RedisProcess, WorkerProcess, wait_until

SECOND_KEY = "a-second-key-only-tests-know"
VIRTUAL_KEY = "a-key-of-the-gateway"
KEYS = (KEY, SECOND_KEY, VIRTUAL_KEY)


@pytest.fixture
def default_worker_command() -> list[str]:
    """The most talkative worker: debug log, events on."""
    command = WorkerProcess.command("--task-events")
    return [*command[: command.index("INFO")], "DEBUG", *command[command.index("INFO") + 1 :]]


@pytest.fixture
def default_worker_env(default_worker_env: dict[str, str], gemini: LocalGemini) -> dict[str, str]:
    """A second account, whose key and header are other ones."""
    return {
        **default_worker_env,
        "PROVIDER_UPLOADS_PROFILES__SECOND__API_KEY": SECOND_KEY,
        "PROVIDER_UPLOADS_PROFILES__SECOND__BASE_URL": f"{gemini.url}/genai",
        "PROVIDER_UPLOADS_PROFILES__SECOND__HEADERS": f'{{"x-bf-vk": "{VIRTUAL_KEY}"}}',
    }


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return EmulatorConfig(processing_s=0.3, api_keys=frozenset({KEY, SECOND_KEY}))


@pytest.fixture
def traffic(default_redis_broker: RedisProcess) -> Iterator[list[str]]:
    """Every command that Redis gets from here on, as text."""
    seen: list[str] = []
    client = redis.Redis(port=default_redis_broker.port, decode_responses=True, socket_timeout=None)
    monitor = client.monitor()  # type: ignore[no-untyped-call]
    monitor.__enter__()

    def listen() -> None:
        try:
            for command in monitor.listen():
                seen.append(command["command"])
        except (redis.RedisError, ValueError, OSError):
            return  # the test is over

    threading.Thread(target=listen, daemon=True).start()
    yield seen
    client.shutdown(nosave=True)  # ends the stream, and the node with it
    client.close()


def test_neither_a_key_nor_a_session_url(
    traffic: list[str],
    queue: UploadQueue,
    celery_setup: CeleryTestSetup,
    flower: httpx2.Client,
    gemini: LocalGemini,
    make_file: Callable[..., Path],
) -> None:
    """A road with everything on it: retries, a resume, polls, a failure, a deletion."""
    gemini.order_fault(Operation.START, FaultKind.INTERNAL, match="a.mp4")
    gemini.order_fault(Operation.UPLOAD, FaultKind.RESET, match="b.mp4", after_bytes=300_000)
    gemini.order_fault(Operation.UPLOAD, FaultKind.FILE_STUCK, match="c.mp4")
    tickets = [
        queue.submit(make_file(name, 700_000), poll_s=0.1, timeout_s=3, jitter_s=0)
        for name in ("a.mp4", "b.mp4", "c.mp4")
    ]
    tickets.append(queue.submit(make_file("d.mp4", 700_000), profile="second", poll_s=0.1))
    asked = queue.ask("Anything?", tickets=tickets[:2])
    assert queue.answer(asked, timeout_s=60).files == 2
    for ticket in (*tickets[:2], tickets[3]):
        assert queue.result(ticket, timeout_s=60).state == "ACTIVE"
    with pytest.raises(UploadInactiveError):
        queue.result(tickets[2], timeout_s=60)
    wait_until(lambda: len(gemini.files()) == 3, "the deletion")
    wait_until(lambda: any("celery-task-meta" in command for command in traffic), "a result")

    everything = "\n".join(traffic)
    assert "task-succeeded" in everything or "celeryev" in everything  # events were on
    assert [key for key in KEYS if key in everything] == []
    outside_the_ledger = [
        command for command in traffic if f"{protocol.KEY_PREFIX}upload:" not in command
    ]
    assert len(outside_the_ledger) < len(traffic)
    assert "upload_id=" in everything  # the session URL is in the ledger, and only there
    assert "upload_id=" not in "\n".join(outside_the_ledger)

    log = celery_setup.worker.logs()
    assert "DEBUG" in log
    assert [key for key in KEYS if key in log] == []
    assert "upload_id=" not in log
    wait_until(lambda: tickets[2] in flower.get("/api/tasks").text, "Flower to have seen it")
    shown = "".join(
        flower.get(path).raise_for_status().text
        for path in (
            *("/api/tasks", "/api/workers?refresh=1", "/workers", "/tasks", "/broker", "/metrics"),
            *(f"/task/{ticket}" for ticket in (*tickets, asked)),
            *(f"/api/task/info/{ticket}" for ticket in (*tickets, asked)),
            *(f"/api/task/result/{ticket}" for ticket in tickets[:2]),
            *(f"/worker/{name}" for name in flower.get("/api/workers").json()),
        )
    )
    assert tickets[0] in shown
    assert "registered" in shown
    assert [key for key in KEYS if key in shown] == []
    assert "upload_id=" not in shown
    for ticket in tickets:
        assert "upload_id=" not in queue.status(ticket).model_dump_json()
