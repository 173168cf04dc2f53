"""``provider-uploads batch``, and who is told of a batch's end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from provider_uploads import UploadQueue
from provider_uploads.cli import main
from provider_uploads.emulator import EmulatorConfig, LocalGemini
from provider_uploads.schemas import DeliveryState
from provider_uploads.settings import settings
from tests.batching import MODEL, QUICK, WAIT_S, asked, local_gemini, write
from tests.nodes import RedisProcess, wait_until
from tests.receiver import SECRET, Receiver


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return local_gemini()


@pytest.fixture
def policy(receiver: Receiver, default_redis_broker: RedisProcess) -> dict[str, str]:
    receiver.told.clear()
    return {
        **QUICK,
        "PROVIDER_UPLOADS_CALLBACKS__ORDERS__URL": receiver.url,
        "PROVIDER_UPLOADS_CALLBACKS__ORDERS__SECRET": SECRET,
        "PROVIDER_UPLOADS_BROKERS__SHOP__URL": default_redis_broker.url[:-1] + "1",
        "PROVIDER_UPLOADS_BROKERS__SHOP__QUEUE": "shop",
    }


class TestCommands:
    @pytest.fixture(autouse=True)
    def environment(
        self, monkeypatch: pytest.MonkeyPatch, default_redis_broker: RedisProcess
    ) -> None:
        monkeypatch.setenv("PROVIDER_UPLOADS_REDIS_URL", default_redis_broker.url)
        settings.cache_clear()

    def run(self, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["batch", *arguments])
        said = capsys.readouterr()
        assert ended.value.code == code, said.err
        return said.out if code == 0 else said.out + said.err

    def test_from_submit_to_results(
        self,
        queue: UploadQueue,
        gemini: LocalGemini,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
    ) -> None:
        gemini.batches.order(failed_keys=["k1"])
        path = str(write(tmp_path / "in.jsonl", 3))
        said = self.run(capsys, "submit", path, "--model", MODEL, "--wait", "--json", "--keep")
        status = json.loads(said.splitlines()[-1])
        assert (status["stage"], status["counts"]["failed"]) == ("SUCCEEDED", 1)
        ticket = status["ticket"]
        lines = self.run(capsys, "results", ticket).splitlines()
        assert [json.loads(line)["key"] for line in lines] == ["k0", "k1", "k2"]
        assert "error" in json.loads(lines[1])
        place = str(tmp_path / "out.jsonl")
        self.run(capsys, "results", ticket, "-o", place)
        assert Path(place).read_text("utf-8").splitlines() == lines
        assert ticket in self.run(capsys, "list")
        assert ticket in self.run(capsys, "status", ticket)
        assert "is being deleted" in self.run(capsys, "delete", ticket)

    def test_lines_where_it_is_no_terminal(
        self, queue: UploadQueue, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        path = str(write(tmp_path / "in.jsonl", 2))
        said = self.run(capsys, "submit", path, "--model", MODEL, "--wait")
        assert "RUNNING" in said
        assert "SUCCEEDED" in said

    def test_a_bad_line_is_a_sentence(
        self, queue: UploadQueue, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        path = tmp_path / "in.jsonl"
        path.write_text('{"key": "a", "request": {"contents": "x"}}\n{"key": "a"\n')
        said = self.run(capsys, "submit", str(path), "--model", MODEL, code=2)
        assert "line 2, column 12" in " ".join(said.split())

    def test_cancel(
        self, queue: UploadQueue, gemini: LocalGemini, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gemini.batches.order(running_s=3600)
        ticket = queue.batch(asked(1), model=MODEL)
        wait_until(lambda: queue.batch_status(ticket).jobs, "created")
        assert "cancelled, was RUNNING" in self.run(capsys, "cancel", ticket)
        assert "was cancelled" in self.run(capsys, "status", ticket, code=1)
        assert "had ended" in self.run(capsys, "cancel", ticket)


class TestWhoIsTold:
    def test_a_callback(self, queue: UploadQueue, receiver: Receiver) -> None:
        ticket = queue.batch(asked(1), model=MODEL, callback="orders")
        result = queue.batch_result(ticket, timeout_s=WAIT_S)
        wait_until(lambda: receiver.told, "told")
        (body,) = receiver.bodies()
        assert (body["type"], body["data"]["ticket"]) == ("batch.succeeded", ticket)
        assert body["data"] == result.model_dump(mode="json")
        wait_until(
            lambda: queue.batch_status(ticket).deliveries[0].state is DeliveryState.SENT, "recorded"
        )

    def test_a_task_of_the_host_s(
        self, queue: UploadQueue, gemini: LocalGemini, default_redis_broker: RedisProcess
    ) -> None:
        host = Celery("shop", broker=default_redis_broker.url[:-1] + "1", set_as_current=False)
        gemini.batches.order(state="BATCH_STATE_FAILED", error={"code": 3, "message": "no"})
        ticket = queue.batch(
            asked(1),
            model=MODEL,
            broker="shop",
            on_success=host.signature("shop.good"),
            on_failed=host.signature("shop.bad", args=(42,), queue="shop"),
        )
        with default_redis_broker.client as client:
            client.select(1)
            message = wait_until(lambda: client.lpop("shop"), "the host's task")
            client.select(0)
        assert json.loads(str(message))["headers"]["task"] == "shop.bad"
        assert queue.batch_status(ticket).error
        host.close()
