"""Workers that hold on, die, or stop: the work goes on, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_celery import CeleryTestSetup

from provider_uploads import Stage, UploadQueue, protocol
from provider_uploads.emulator import EmulatorConfig, LocalGemini
from tests.conftest import KEY
from tests.nodes import ROOT, RedisProcess, WorkerProcess, wait_until


def test_a_worker_that_died_looking_for_messages_is_soon_out_of_the_way(
    default_redis_broker: RedisProcess,
) -> None:
    """Before, nothing a dead worker held came back for five minutes."""
    dying = (
        "import os, signal\n"
        "from kombu.transport.redis import Mutex\n"
        "from tasks.celery import app\n"
        "channel = app.connection_for_write().default_channel\n"
        "with channel.conn_or_acquire() as client:\n"
        "    with Mutex(client, channel.unacked_mutex_key, channel.unacked_mutex_expire):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    env = {**os.environ, "PROVIDER_UPLOADS_REDIS_URL": default_redis_broker.url}
    done = subprocess.run([sys.executable, "-c", dying], cwd=ROOT, env=env)
    assert done.returncode == -signal.SIGKILL
    with default_redis_broker.client as client:
        assert 0 < client.ttl(f"{protocol.KEY_PREFIX}unacked_mutex") <= 5


@pytest.mark.slow
class TestShortVisibility:
    """A visibility timeout far below what the work takes."""

    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(
            processing_s=3.5, latency_ms=0, bandwidth_mib_s=1, api_keys=frozenset({KEY})
        )

    @pytest.fixture
    def policy(self) -> dict[str, str]:
        return {
            "PROVIDER_UPLOADS_VISIBILITY_TIMEOUT_S": "1",
            "PROVIDER_UPLOADS_RESTORE_EVERY_S": "1",
            "PROVIDER_UPLOADS_LEASE_S": "3",
            "PROVIDER_UPLOADS_LEASE_HELD_RETRY_S": "0.5",
        }

    def test_a_living_worker_keeps_what_it_holds(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        more_workers: Callable[..., WorkerProcess],
        gemini: LocalGemini,
        make_file: Callable[..., Path],
    ) -> None:
        """A long upload and a long countdown, each several timeouts long: one delivery each."""
        other = more_workers()
        tickets = [
            queue.submit(make_file("long.mp4", 4 * 1024 * 1024), poll_s=3.6, jitter_s=0),
            queue.submit(make_file("short.mp4", 1000), poll_s=3.6, jitter_s=0),
        ]
        results = [queue.result(ticket, timeout_s=30) for ticket in tickets]
        assert results[0].upload_s > 3
        assert [result.polls for result in results] == [1, 1]
        logs = celery_setup.worker.logs() + other.logs()
        for ticket in tickets:
            assert logs.count(f"{protocol.UPLOAD}[{ticket}] received") == 1
            assert logs.count(f"{protocol.POLL}[{ticket}] received") == 1
        operations = gemini.counters()["operations"]
        assert operations["upload"]["requests"] == operations["get"]["requests"] == 2

    def test_what_a_killed_worker_held_goes_on_elsewhere(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        more_workers: Callable[..., WorkerProcess],
        gemini: LocalGemini,
        make_file: Callable[..., Path],
    ) -> None:
        size = 6 * 1024 * 1024
        waiting = [
            queue.submit(make_file(f"{n}.mp4", 1000), poll_s=2, jitter_s=0) for n in range(5)
        ]
        moving = queue.submit(make_file("long.mp4", size), poll_s=0.2, jitter_s=0)
        wait_until(
            lambda: (
                all(s.stage is Stage.PROCESSING for s in queue.statuses(waiting))
                and queue.status(moving).sent_bytes > 0
            ),
            "five polls waiting, one upload moving",
        )
        received = gemini.sessions()[0]["received_bytes"]
        celery_setup.worker.kill()  # SIGKILL, no good-bye
        more_workers()
        for ticket in [*waiting, moving]:
            assert queue.result(ticket, timeout_s=40).id == f"files/pu-{ticket}-0"
        assert len(gemini.files()) == 6
        assert gemini.counters()["sessions_open"] == 0
        operations = gemini.counters()["operations"]
        assert operations["start"]["requests"] == 1  # the others are small
        # The second worker asked the server where it stood and sent only the rest.
        assert operations["query"]["requests"] >= 1
        resent = gemini.counters()["bytes_received"] - size - 5 * 1000
        assert resent <= 1024 * 1024, f"{received} bytes were there, {resent} came twice"

    def test_sigterm_hands_a_transfer_over_at_once(
        self,
        queue: UploadQueue,
        celery_setup: CeleryTestSetup,
        more_workers: Callable[..., WorkerProcess],
        gemini: LocalGemini,
        make_file: Callable[..., Path],
    ) -> None:
        ticket = queue.submit(make_file("long.mp4", 6 * 1024 * 1024), poll_s=0.2, jitter_s=0)
        wait_until(lambda: queue.status(ticket).sent_bytes > 0, "bytes moving")
        begun = time.monotonic()
        celery_setup.worker.kill("SIGTERM")
        wait_until(lambda: celery_setup.worker.container.exit_code is not None, "it stops", 5)
        assert time.monotonic() - begun < 5  # six seconds of bytes were still to go
        more_workers()
        assert queue.result(ticket, timeout_s=40).state == "ACTIVE"
        assert gemini.counters()["operations"]["start"]["requests"] == 1
