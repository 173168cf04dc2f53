"""Redis with users of few rights, passwords and TLS: what docs/deploy.md lists is enough."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme

from provider_uploads import QueueUnavailableError, Stage, UploadQueue
from provider_uploads.emulator import LocalGemini
from provider_uploads.local.stack import find_redis_server
from tests.nodes import ROOT, Process, WorkerProcess, free_port, wait_until

pytestmark = pytest.mark.slow

#: As the page has them: ``user client on >PASSWORD …``.
RIGHTS = re.findall(
    r"^ +(user (\w+) on .*)$", (ROOT / "docs" / "deploy.md").read_text("utf-8"), re.MULTILINE
)
SECRET = "a-password-only-tests-know"


class Tls:
    """TLS in front of a port, as stunnel or a cloud's load balancer puts it there."""

    def __init__(self, port: int, folder: Path) -> None:
        self.ca_file = folder / "redis-ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca_file))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self._context)
        self._behind = port
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._context)
        await self._ended.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _serve(self, client: StreamReader, to_client: StreamWriter) -> None:
        redis_, to_redis = await asyncio.open_connection("127.0.0.1", self._behind)
        try:
            ways = ((client, to_redis), (redis_, to_client))
            copies = [asyncio.ensure_future(self._copy(*way)) for way in ways]
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            for copy in copies:
                copy.cancel()
        finally:
            to_redis.close()
            to_client.close()

    async def _copy(self, source: StreamReader, target: StreamWriter) -> None:
        with suppress(OSError):
            while block := await source.read(65536):
                target.write(block)
                await target.drain()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[dict[str, str]]:
    """URLs of a Redis by user; without TLS under ``plain``."""
    acl = tmp_path / "users.acl"
    lines = [line.replace("PASSWORD", SECRET) for line, _ in RIGHTS]
    acl.write_text("\n".join(["user default off", *lines]) + "\n")
    port = free_port()
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    process = Process(
        [find_redis_server(), *arguments, "--aclfile", str(acl)], name="redis", folder=tmp_path
    )
    tls = Tls(port, tmp_path)
    wait_until(lambda: b"Ready to accept" in process.logs(), "Redis")
    query = f"?ssl_ca_certs={tls.ca_file}"
    found = {name: f"rediss://{name}:{SECRET}@127.0.0.1:{tls.port}/0{query}" for _, name in RIGHTS}
    yield found | {"plain": f"redis://127.0.0.1:{port}/0"}
    tls.close()
    process.stop()


@pytest.fixture
def worker(
    urls: dict[str, str], gemini: LocalGemini, default_worker_env: dict[str, str], tmp_path: Path
) -> Iterator[WorkerProcess]:
    env = {**default_worker_env, "PROVIDER_UPLOADS_REDIS_URL": urls["worker"]}
    node = WorkerProcess.spawn(tmp_path, WorkerProcess.command(), env)
    try:
        node.ready()
        yield node
    finally:
        node.teardown()


def test_an_upload_a_question_a_batch_and_a_sweep(
    urls: dict[str, str],
    worker: WorkerProcess,
    make_file: Callable[..., Path],
    quick: dict[str, Any],
) -> None:
    with UploadQueue(urls["client"]) as queue:
        tickets = [queue.submit(make_file("a.mp4"), owner="ann", reuse=True, **quick)]
        tickets += queue.submit_many([make_file("b.txt")] * 3, **quick)
        for ticket in tickets:
            assert queue.result(ticket, timeout_s=60).state == "ACTIVE"
        assert [*queue.events(tickets, timeout_s=5)]
        assert queue.list(owner="ann").uploads[0].ticket == tickets[0]
        asked = queue.ask("What?", tickets=tickets[:1])
        assert queue.answer(asked, timeout_s=60).files == 1
        assert queue.delete(tickets[1]) is Stage.ACTIVE
        waiting = queue.submit(make_file("c.mp4"), poll_s=60)
        queue.cancel(waiting)
    assert "NOPERM" not in worker.logs()
    assert "Traceback" not in worker.logs()


def test_the_client_may_not_reach_others_keys(urls: dict[str, str]) -> None:
    with redis.Redis.from_url(urls["client"]) as client:
        for command in (
            ("SET", "theirs", "1"),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("KEYS", "*"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)


def test_wrong_and_missing_credentials_are_told(
    urls: dict[str, str], make_file: Callable[..., Path]
) -> None:
    for url in (urls["client"].replace(SECRET, "wrong"), urls["plain"]):
        with (
            UploadQueue(url) as queue,
            pytest.raises(QueueUnavailableError, match="Check the user and the password") as told,
        ):
            queue.submit(make_file("a.txt"))
        assert "wrong" not in str(told.value)
