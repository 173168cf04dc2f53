"""Uploads as steps of a host's own chains, groups and chords: examples/celery is the host."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from celery import chain, group
from celery.result import AsyncResult

from provider_uploads import UploadQueue, canvas
from provider_uploads.emulator import EmulatorConfig, LocalGemini
from provider_uploads.errors import (
    BatchFailedError,
    InvalidRequestError,
    SourceNotAllowedError,
    UploadCancelledError,
)
from tests.batching import MODEL, nothing_left, write
from tests.conftest import KEY
from tests.nodes import Process, RedisProcess, WorkerProcess, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "celery"


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return EmulatorConfig(processing_s=0.1, api_keys=frozenset({KEY}))


@pytest.fixture
def policy(default_redis_broker: RedisProcess) -> dict[str, str]:
    server = default_redis_broker.url.rpartition("/")[0]
    return {"PROVIDER_UPLOADS_BROKERS__SHOP__URL": f"{server}/1"}


@cache
def shop_module(redis: str) -> Any:
    """Import the example once: two of its apps in one process would share their tasks."""
    spec = util.spec_from_file_location("shop", FOLDER / "shop.py")
    assert spec
    assert spec.loader
    sys.modules["shop"] = module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert redis in module.app.conf.broker_url
    return module


@pytest.fixture
def shop(
    queue: UploadQueue,
    default_redis_broker: RedisProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    """The example's module, with a worker of its own that serves one queue."""
    monkeypatch.setenv("SHOP_REDIS", default_redis_broker.url.rpartition("/")[0])
    module = shop_module(os.environ["SHOP_REDIS"])
    with default_redis_broker.client as client:
        client.execute_command("SELECT", 1)
        client.execute_command("FLUSHDB")
        client.execute_command("SELECT", 0)
    env = {
        "PROVIDER_UPLOADS_REDIS_URL": default_redis_broker.url,
        "PROVIDER_UPLOADS_ENV_FILE": "",
    }
    command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "-P", "threads"]
    command += ["--concurrency", "4", "--loglevel", "INFO", "--without-gossip"]
    worker = Process(command, name="shop", folder=tmp_path, env=env, cwd=FOLDER)
    wait_until(lambda: b" ready." in worker.logs(), "the shop's worker is ready")
    module.worker = worker
    yield module
    worker.stop()


def parent_of(result: Any) -> str:
    """Return the id of the step before."""
    return str(result.parent.id)


def test_a_chain_goes_on_with_the_result(shop: Any, make_file: Callable[..., Path]) -> None:
    done = shop.upload_and_describe(str(make_file("clip.mp4")))
    assert done.get(timeout=20).startswith("clip.mp4 is ACTIVE as files/pu")


def test_an_upload_takes_its_path_from_the_step_before(
    shop: Any, queue: UploadQueue, make_file: Callable[..., Path]
) -> None:
    path = str(make_file("a.txt"))
    done = chain(shop.receipt.s(path), canvas.upload(broker="shop", owner="ann"), shop.describe.s())
    step = done.apply_async()
    assert step.get(timeout=20).startswith("a.txt is ACTIVE")
    (status,) = queue.list(owner="ann").uploads
    assert status.ticket == canvas.ticket_of(parent_of(step))
    wrong = chain(shop.receipt.s(7), canvas.upload(broker="shop")).apply_async()
    with pytest.raises(InvalidRequestError, match="is no path"):
        wrong.get(timeout=20)


def test_a_chord_of_uploads(shop: Any, make_file: Callable[..., Path]) -> None:
    paths = [str(make_file(f"{n}.mp4")) for n in range(5)]
    assert shop.upload_all(paths).get(timeout=30) == "5 files, 5000 bytes"


def test_a_question_as_the_body_of_a_chord(shop: Any, make_file: Callable[..., Path]) -> None:
    paths = [str(make_file(f"{n}.txt")) for n in range(2)]
    answer = shop.ask_about(paths, "What are these?").get(timeout=30)
    assert answer["files"] == 2
    assert answer["text"]


def test_a_group(shop: Any, make_file: Callable[..., Path]) -> None:
    steps = [canvas.upload(str(make_file(f"{n}.txt")), broker="shop") for n in range(3)]
    found = group(steps).apply_async().get(timeout=30)
    assert {one["state"] for one in found} == {"ACTIVE"}


def test_an_error_reaches_link_error_and_the_chain_ends(
    shop: Any, queue: UploadQueue, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The worker may not read it; the shop, which sets no roots, may."""
    outside = Path("/etc/hostname")
    done = shop.upload_and_describe(str(outside))
    with pytest.raises(SourceNotAllowedError):
        done.parent.get(timeout=20)
    wait_until(lambda: b"SourceNotAllowedError: " in shop.worker.logs(), "link_error ran")
    with pytest.raises(SourceNotAllowedError):
        done.get(timeout=20)


class TestWaiting:
    @pytest.fixture
    def gemini_config(self) -> EmulatorConfig:
        return EmulatorConfig(processing_s=3600, api_keys=frozenset({KEY}))

    def test_a_step_says_its_ticket_and_its_cancellation_ends_it(
        self, shop: Any, queue: UploadQueue, make_file: Callable[..., Path]
    ) -> None:
        step = canvas.upload(str(make_file()), broker="shop", timeout_s=600).apply_async()
        state: Any = AsyncResult(step.id, app=shop.app)
        wait_until(lambda: state.state == canvas.SUBMITTED, "the step is submitted")
        ticket = canvas.ticket_of(step.id)
        assert state.info == {"ticket": ticket}
        wait_until(lambda: queue.list(stage="PROCESSING").uploads, "it is PROCESSING")
        queue.cancel(ticket)
        with pytest.raises(UploadCancelledError):
            step.get(timeout=20)


def test_a_step_survives_both_workers(
    shop: Any,
    queue: UploadQueue,
    gemini: LocalGemini,
    default_worker_container: WorkerProcess,
    make_file: Callable[..., Path],
) -> None:
    """The shop's worker dies once it has submitted; the message waits at its broker."""
    step = chain(canvas.upload(str(make_file("a.txt")), broker="shop"), shop.describe.s())
    done = step.apply_async()
    ticket = canvas.ticket_of(parent_of(done))
    wait_until(lambda: [u for u in queue.list().uploads if u.ticket == ticket], "submitted")
    shop.worker.kill("SIGKILL")
    queue.result(ticket, timeout_s=60)
    shop.worker.restart()
    assert done.get(timeout=40).startswith("a.txt is ACTIVE")


def test_our_tasks_cannot_be_a_host_s(tmp_path: Path, default_redis_broker: RedisProcess) -> None:
    """They need our queues and their settings: said in one sentence, and nothing is served."""
    (tmp_path / "other.py").write_text(
        "from celery import Celery\n"
        f"app = Celery('other', broker='{default_redis_broker.url}', include=['tasks.upload'])\n"
    )
    env = {
        "PROVIDER_UPLOADS_REDIS_URL": default_redis_broker.url,
        "PROVIDER_UPLOADS_ENV_FILE": "",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
    }
    command = [sys.executable, "-m", "celery", "-A", "other", "worker", "-P", "solo"]
    worker = Process(command, name="other", folder=tmp_path, env=env)
    wait_until(lambda: worker.status == "exited", "it ends")
    said = worker.logs().decode()
    assert "provider_uploads.canvas" in said
    assert "docs/celery.md" in said
    assert "Traceback" not in said


def test_a_batch_between_two_tasks(
    shop: Any, queue: UploadQueue, gemini: LocalGemini, tmp_path: Path
) -> None:
    """The guide's workflow: write the input, run it, see it in the list, have all deleted."""
    path = write(tmp_path / "in.jsonl", 3)
    made = canvas.batch(model=MODEL, broker="shop")
    step = chain(shop.receipt.s(str(path)), made).apply_async()
    result = step.get(timeout=60)
    assert (result["state"], result["counts"]["succeeded"]) == ("SUCCEEDED", 3)
    assert [answer.key for answer in queue.batch_answers(result["ticket"])] == ["k0", "k1", "k2"]
    assert queue.batch_list()[0].ticket == canvas.ticket_of(step.id) == result["ticket"]
    wait_until(lambda: nothing_left(gemini), "nothing left")
    inline = canvas.batch([{"contents": "Hi"}], model=MODEL, broker="shop").apply_async()
    assert inline.get(timeout=60)["counts"]["requests"] == 1
    gemini.batches.order(state="BATCH_STATE_FAILED", error={"code": 3, "message": "bad"})
    bad = canvas.batch([{"contents": "Hi"}], model=MODEL, broker="shop").apply_async()
    with pytest.raises(BatchFailedError, match="bad"):
        bad.get(timeout=60)
