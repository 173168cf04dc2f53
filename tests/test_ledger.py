"""The ledger: stages, fences, times on Redis's clock, and nothing a user may not see."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from provider_uploads import protocol
from provider_uploads.errors import (
    NewerPayloadError,
    QueueUnavailableError,
    SourceNotFoundError,
    UnknownTicketError,
    UnreadableStateError,
    UploadCancelledError,
    UploadFailedError,
    UploadInactiveError,
)
from provider_uploads.ledger.connection import ROW_KEPT_S
from provider_uploads.ledger.open_uploads import OpenUploads
from provider_uploads.ledger.state import ClaimResult, UploadState
from provider_uploads.ledger.upload_steps import OPEN_KEY
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.schemas import Copy, PollPolicy, ProviderFile, Stage, UploadRequest
from tests.nodes import RedisProcess, free_port

SESSION = "http://h/upload?upload_id=s3cret"
TICKETS = [f"{number:032x}" for number in range(300)]
T = TICKETS[0]


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    """Redis itself, to look and to lie."""
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


def key(ticket: str = T) -> str:
    return f"{protocol.KEY_PREFIX}upload:{ticket}"


def request(ticket: str = T, **changes: Any) -> UploadRequest:
    return UploadRequest.model_validate(
        {
            "upload_id": ticket,
            "source": "/data/clip.mp4",
            "display_name": "clip.mp4",
            "mime_type": "video/mp4",
            "size_bytes": 10,
            "patience": PollPolicy(timeout_s=60),
            **changes,
        }
    )


def file(state: str = "PROCESSING") -> ProviderFile:
    return ProviderFile(
        name=protocol.file_name(T, 0),
        uri="http://h/v1beta/files/x",
        state=state,
        mime_type="video/mp4",
        size_bytes=10,
        sha256="0" * 64,
    )


FAILURE = UploadFailedError("files/x", "FAILED", {"message": "no frames"})
TIMEOUT = UploadInactiveError("files/x", "PROCESSING", 60.0, 3, "deleting")


def brought_to(ledger: Ledger, stage: Stage) -> UploadState:
    """Bring a new upload to a stage by the way uploads go."""
    ledger.open([request()])
    row: UploadState | None = ledger.read(T)
    assert row
    if stage is Stage.CANCELLED:
        ledger.withdrawn([T])
    if stage in (Stage.UPLOADING, Stage.PROCESSING, Stage.ACTIVE):
        row = ledger.uploading(row, SESSION)
        assert row
    if stage in (Stage.PROCESSING, Stage.ACTIVE):
        row = ledger.processing(row, file())
        assert row
    if stage is Stage.ACTIVE:
        assert ledger.active(row, file("ACTIVE"))
    if stage in (Stage.FAILED, Stage.TIMED_OUT):
        ledger.failed(T, FAILURE if stage is Stage.FAILED else TIMEOUT)
    found = ledger.read(T)
    assert found.stage is stage
    return found


class TestTheWay:
    def test_what_each_step_leaves(self, ledger: Ledger, raw: Any) -> None:
        ledger.open([request()])
        queued = ledger.read(T)
        assert (queued.stage, queued.copy_at_provider) == (Stage.QUEUED, Copy.NONE)
        assert queued.request == request()

        uploading = ledger.uploading(queued, SESSION)
        assert uploading
        assert uploading.copy_at_provider is Copy.NONE or ledger.left_behind(T)
        stored = ledger.read(T)
        assert (stored.session_url, stored.copy_at_provider) == (SESSION, Copy.PRESENT)
        assert ledger.progress(T, 7)
        assert ledger.statuses([T])[0].sent_bytes == 7

        processing = ledger.processing(uploading, file())
        assert processing
        stored = ledger.read(T)
        assert (stored.session_url, stored.sent_bytes, stored.file) == (None, 10, file())
        assert stored.processing_at
        assert stored.deadline_at == pytest.approx(stored.processing_at + 60, abs=1e-5)

        active = ledger.active(processing, file("ACTIVE"))
        assert active
        stored = ledger.read(T)
        result = stored.result()
        assert active.result() == result
        assert (result.state, result.id, result.polls) == ("ACTIVE", protocol.file_name(T, 0), 0)
        status = ledger.statuses([T])[0]
        assert (status.stage, status.id, status.uri) == (Stage.ACTIVE, result.id, result.uri)
        assert (status.queued_s, status.upload_s, status.processing_s) == (
            result.queued_s,
            result.upload_s,
            result.processing_s,
        )

    def test_straight_to_active(self, ledger: Ledger) -> None:
        """Texts are ACTIVE when their last byte is there."""
        row = ledger.active(brought_to(ledger, Stage.UPLOADING), file("ACTIVE"))
        assert row
        stored = ledger.read(T)
        assert stored.processing_at == stored.ended_at
        assert stored.result().processing_s == 0.0

    @pytest.mark.parametrize(
        ("error", "stage"), [(FAILURE, Stage.FAILED), (TIMEOUT, Stage.TIMED_OUT)]
    )
    def test_a_bad_end_keeps_the_error(
        self, ledger: Ledger, error: UploadFailedError, stage: Stage
    ) -> None:
        brought_to(ledger, Stage.PROCESSING)
        ledger.failed(T, error)
        row = ledger.read(T)
        assert row.stage is stage
        assert type(row.failure()) is type(error)
        assert row.failure().args == error.args
        assert ledger.statuses([T])[0].error == json.loads(json.dumps(error.as_record()))

    def test_an_end_without_an_error_is_one_all_the_same(self, ledger: Ledger) -> None:
        row = brought_to(ledger, Stage.CANCELLED)
        assert isinstance(row.failure(), UploadCancelledError)

    def test_notes_and_stumbles(self, ledger: Ledger) -> None:
        row = brought_to(ledger, Stage.QUEUED)
        ledger.attempt_failed(T, "first")
        ledger.attempt_failed(T, "second")
        assert (ledger.read(T).note, ledger.read(T).failed_attempts) == ("second", 2)
        ledger.note(T, "waits")
        assert ledger.statuses([T])[0].note == "waits"
        ledger.uploading(row, SESSION)
        assert ledger.read(T).note is None

    def test_the_next_generation_forgets_the_session(self, ledger: Ledger) -> None:
        row = brought_to(ledger, Stage.UPLOADING)
        ledger.progress(T, 7)
        ledger.next_generation(row)
        row = ledger.read(T)
        assert (row.generation, row.session_url, row.sent_bytes) == (1, None, 0)
        assert row.names == [protocol.file_name(T, 0), protocol.file_name(T, 1)]

    def test_the_time_of_the_first_byte_stays(self, ledger: Ledger) -> None:
        row = brought_to(ledger, Stage.UPLOADING)
        again = ledger.uploading(row, SESSION)
        assert again
        assert ledger.read(T).upload_at == row.upload_at == again.upload_at

    @pytest.mark.parametrize("wanted", [True, False])
    def test_what_is_left_behind(self, ledger: Ledger, wanted: bool) -> None:
        ledger.open([request(cleanup_on_timeout=wanted)])
        assert ledger.left_behind(T) is False
        ledger.uploading(ledger.read(T), SESSION)
        assert ledger.left_behind(T) is False  # while it lives
        ledger.failed(T, SourceNotFoundError("/gone"))
        assert ledger.left_behind(T) is wanted
        ledger.deleted(T)
        assert ledger.left_behind(T) is False
        assert ledger.read(T).session_url is None
        assert ledger.left_behind("nonsense") is False


#: Each write, and the stages in which it may happen.
WRITES: dict[str, tuple[Callable[[Ledger, UploadState], Any], set[Stage]]] = {
    "uploading": (
        lambda ledger, row: ledger.uploading(row, SESSION + "-new"),
        {Stage.QUEUED, Stage.UPLOADING},
    ),
    "progress": (lambda ledger, row: ledger.progress(T, 3), {Stage.UPLOADING}),
    "next_generation": (
        lambda ledger, row: ledger.next_generation(row),
        {Stage.QUEUED, Stage.UPLOADING},
    ),
    "processing": (
        lambda ledger, row: ledger.processing(row, file()),
        {Stage.QUEUED, Stage.UPLOADING},
    ),
    "active": (
        lambda ledger, row: ledger.active(row, file("ACTIVE")),
        {Stage.QUEUED, Stage.UPLOADING, Stage.PROCESSING},
    ),
    "failed": (
        lambda ledger, row: ledger.failed(T, FAILURE),
        {Stage.QUEUED, Stage.UPLOADING, Stage.PROCESSING},
    ),
    "withdrawn": (lambda ledger, row: ledger.withdrawn([T]), {Stage.QUEUED}),
    "note": (
        lambda ledger, row: ledger.note(T, "x"),
        {Stage.QUEUED, Stage.UPLOADING, Stage.PROCESSING},
    ),
    "stumbled": (
        lambda ledger, row: ledger.attempt_failed(T, "x"),
        {Stage.QUEUED, Stage.UPLOADING, Stage.PROCESSING},
    ),
}


#: Those that return nothing, done or not.
SILENT = {"next_generation", "withdrawn", "stumbled"}


class TestRefusedWrites:
    @pytest.mark.parametrize("stage", Stage)
    @pytest.mark.parametrize("write", WRITES)
    def test_a_row_that_has_moved_on_is_not_touched(
        self, ledger: Ledger, raw: Any, write: str, stage: Stage
    ) -> None:
        act, allowed = WRITES[write]
        row = brought_to(ledger, stage)
        before = raw.hgetall(key())
        said = act(ledger, row)
        if stage in allowed:
            assert raw.hgetall(key()) != before
            assert said is None if write in SILENT else said
        else:
            assert raw.hgetall(key()) == before
            assert not said

    @pytest.mark.parametrize("write", WRITES)
    def test_a_row_that_is_not_there_is_not_made(
        self, ledger: Ledger, raw: Any, write: str
    ) -> None:
        row = brought_to(ledger, Stage.UPLOADING)
        raw.flushall()
        WRITES[write][0](ledger, row)
        assert raw.keys("*") == []

    def test_a_deletion_does_not_make_half_a_row(self, ledger: Ledger, raw: Any) -> None:
        """A row with one field cannot be read by anybody."""
        ledger.deleted(T)
        with pytest.raises(UnknownTicketError):
            ledger.read(T)

    def test_of_many_enders_one_wins(self, ledger: Ledger) -> None:
        row = brought_to(ledger, Stage.PROCESSING)
        start = threading.Barrier(8)
        won: list[str] = []

        def end(good: bool) -> None:
            start.wait()
            if not good:
                ledger.failed(T, FAILURE)
            elif ledger.active(row, file("ACTIVE")) is not None:
                won.append("active")

        threads = [threading.Thread(target=end, args=(n % 2 == 0,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stored = ledger.read(T)
        assert (len(won), stored.stage, stored.error is None) in {
            (1, Stage.ACTIVE, True),
            (0, Stage.FAILED, False),
        }


class TestClaims:
    @pytest.mark.parametrize(
        ("stage", "poll", "claim"),
        [
            (Stage.QUEUED, -1, ClaimResult.GO),
            (Stage.UPLOADING, -1, ClaimResult.GO),
            (Stage.PROCESSING, -1, ClaimResult.ANSWER),  # the poll may never have been published
            (Stage.PROCESSING, 0, ClaimResult.STALE),
            (Stage.ACTIVE, -1, ClaimResult.ANSWER),
            (Stage.ACTIVE, 3, ClaimResult.STALE),
            (Stage.FAILED, -1, ClaimResult.ANSWER),
            (Stage.FAILED, 0, ClaimResult.STALE),
            (Stage.TIMED_OUT, 5, ClaimResult.STALE),
            (Stage.CANCELLED, -1, ClaimResult.ANSWER),
            (Stage.CANCELLED, 0, ClaimResult.STALE),
        ],
    )
    def test_uploads(self, stage: Stage, poll: int, claim: ClaimResult) -> None:
        assert (
            UploadState(request=request(), stage=stage, claimed_poll=poll).claim_upload() is claim
        )


class TestReading:
    def test_an_unknown_ticket(self, ledger: Ledger) -> None:
        ledger.open([request()])
        for ask in (lambda: ledger.read("nonsense"), lambda: ledger.statuses([T, "nonsense"])):
            with pytest.raises(UnknownTicketError) as caught:
                ask()
            assert caught.value.ticket == "nonsense"

    def test_statuses_keep_the_order_and_come_in_one_go(self, ledger: Ledger, raw: Any) -> None:
        ledger.open([request(ticket, size_bytes=n) for n, ticket in enumerate(TICKETS)])
        asked = [*reversed(TICKETS), TICKETS[5], TICKETS[5]]
        ledger.statuses([T])  # connected
        raw.config_resetstat()
        before = raw.info("clients")["connected_clients"]
        statuses = ledger.statuses(asked)
        assert [status.ticket for status in statuses] == asked
        assert [status.size_bytes for status in statuses[:3]] == [299, 298, 297]
        calls = {
            name.removeprefix("cmdstat_"): stat["calls"]
            for name, stat in raw.info("commandstats").items()
        }
        assert (calls.get("hgetall"), calls.get("time")) == (len(asked), 1)
        # Sent together, they are read in a few pieces; one by one, in as many as there are.
        assert raw.info("stats")["total_reads_processed"] < 20
        assert raw.info("clients")["connected_clients"] == before

    def test_none_asked_for(self, ledger: Ledger) -> None:
        assert ledger.statuses([]) == []
        ledger.open([])

    def test_many_rows_are_opened_together(self, ledger: Ledger, raw: Any) -> None:
        ledger.open([request()])
        raw.config_resetstat()
        ledger.open([request(ticket) for ticket in TICKETS])
        assert raw.info("stats")["total_reads_processed"] < 50
        assert len(raw.keys("*:upload:*")) == raw.zcard(OPEN_KEY) == len(TICKETS)

    def test_scripts_that_redis_forgot_are_sent_again(self, ledger: Ledger, raw: Any) -> None:
        brought_to(ledger, Stage.PROCESSING)
        raw.script_flush()
        ledger.note(T, "x")
        raw.script_flush()
        ledger.failed(T, FAILURE)
        raw.script_flush()
        ledger.open([request(TICKETS[1])])
        assert ledger.read(TICKETS[1]).stage is Stage.QUEUED

    @pytest.mark.parametrize("changes", [{"version": 99}, {"version": 99, "unheard": "of"}])
    def test_a_row_of_a_newer_client(
        self, ledger: Ledger, raw: Any, changes: dict[str, Any]
    ) -> None:
        """It is left for whoever can read it: a poll that fails on it ends the upload."""
        brought_to(ledger, Stage.PROCESSING)
        newer = json.loads(raw.hget(key(), "request")) | changes
        raw.hset(key(), "request", json.dumps(newer))
        for ask in (
            lambda: ledger.read(T),
            lambda: ledger.statuses([T]),
        ):
            with pytest.raises(NewerPayloadError):
                ask()


class TestTimes:
    def test_they_are_redis_s(self, ledger: Ledger, raw: Any) -> None:
        seconds, micros = raw.time()
        before = seconds + micros / 1e6
        brought_to(ledger, Stage.ACTIVE)
        seconds, micros = raw.time()
        after = seconds + micros / 1e6
        row = ledger.read(T)
        times = [row.queued_at, row.upload_at, row.processing_at, row.ended_at]
        assert [before, *times, after] == sorted([before, *times, after])

    @pytest.mark.parametrize(
        ("times", "seconds"),
        [
            ({}, (40, 0, 0)),
            ({"upload_at": 110}, (10, 30, 0)),
            ({"upload_at": 110, "processing_at": 115}, (10, 5, 25)),
            ({"upload_at": 110, "processing_at": 115, "ended_at": 120}, (10, 5, 5)),
            ({"ended_at": 120}, (20, 0, 0)),
            ({"upload_at": 110, "ended_at": 120}, (10, 10, 0)),
            ({"upload_at": 99}, (0, 41, 0)),  # a clock set back
        ],
    )
    def test_seconds_in_each_step(
        self, times: dict[str, float], seconds: tuple[float, float, float]
    ) -> None:
        row = UploadState(request=request(), stage=Stage.QUEUED, queued_at=100, **times)
        assert tuple(row.seconds(140).values()) == seconds

    @pytest.mark.parametrize("stage", Stage)
    def test_every_row_ends_some_day(self, ledger: Ledger, raw: Any, stage: Stage) -> None:
        brought_to(ledger, stage)
        assert ROW_KEPT_S - 10 < raw.ttl(key()) <= ROW_KEPT_S == 3 * 24 * 3600

    def test_a_write_renews_its_life(self, ledger: Ledger, raw: Any) -> None:
        brought_to(ledger, Stage.UPLOADING)
        raw.expire(key(), 5)
        assert ledger.progress(T, 1)
        assert raw.ttl(key()) > 5


class TestSecrets:
    @pytest.mark.parametrize("stage", Stage)
    def test_no_user_sees_the_session_url(self, ledger: Ledger, raw: Any, stage: Stage) -> None:
        brought_to(ledger, stage)
        raw.hset(key(), "session_url", SESSION)
        raw.hset(key(), "file", file("ACTIVE").model_dump_json())
        row = ledger.read(T)
        assert row.session_url == SESSION
        for shown in (ledger.statuses([T])[0], row.result(), row.failure()):
            assert "s3cret" not in f"{shown} {shown!r}"
        assert "s3cret" not in row.result().model_dump_json()

    def test_nor_whoever_prints_a_row(self, ledger: Ledger) -> None:
        """Rows are handed around in workers: a debugger or an error report shows their repr."""
        row = brought_to(ledger, Stage.UPLOADING)
        assert "s3cret" not in f"{row} {row!r}"


class TestRedisTrouble:
    def test_down(self) -> None:
        port = free_port()
        ledger = Ledger(f"redis://user:s3cret@127.0.0.1:{port}/0")
        for call in self.calls(ledger):
            with pytest.raises(QueueUnavailableError, match=rf"127\.0\.0\.1:{port}") as caught:
                call()
            assert "s3cret" not in f"{caught.value} {caught.value!r}"
        ledger.close()

    def test_stalled(self, default_redis_broker: RedisProcess) -> None:
        ledger = Ledger(default_redis_broker.url, timeout_s=0.1)
        ledger.open([request()])
        default_redis_broker._container.kill("SIGSTOP")
        for call in self.calls(ledger):
            with pytest.raises(QueueUnavailableError):
                call()
        default_redis_broker._container.kill("SIGCONT")
        assert ledger.read(T).request == request()
        ledger.close()

    def test_not_redis_s_fault(self, ledger: Ledger, raw: Any) -> None:
        raw.set(key(), "not a hash")
        with pytest.raises(UnreadableStateError, match=f"upload {T} .*WRONGTYPE"):
            ledger.read(T)

    def test_what_redis_refuses_for_a_while(self, ledger: Ledger, raw: Any) -> None:
        ledger.open([request()])
        raw.config_set("maxmemory", 1)
        try:
            with pytest.raises(QueueUnavailableError):
                ledger.note(T, "x")  # by a script
            with pytest.raises(QueueUnavailableError):
                ledger.open([request()])
        finally:
            raw.config_set("maxmemory", 0)

    @staticmethod
    def calls(ledger: Ledger) -> list[Callable[[], Any]]:
        row = UploadState(request=request(), stage=Stage.UPLOADING)
        return [
            lambda: ledger.read(T),
            lambda: ledger.statuses([T]),
            lambda: ledger.left_behind(T),
            lambda: ledger.open([request()]),
            lambda: ledger.uploading(row, SESSION),
            lambda: ledger.next_generation(row),
            lambda: ledger.progress(T, 1),
            lambda: ledger.note(T, "x"),
            lambda: ledger.attempt_failed(T, "x"),
            lambda: ledger.processing(row, file()),
            lambda: ledger.active(row, file()),
            lambda: ledger.failed(T, FAILURE),
            lambda: ledger.withdrawn([T]),
            lambda: ledger.deleted(T),
            lambda: ledger.lease(T, 1).__enter__(),
        ]


def test_the_oldest_that_has_not_begun(ledger: Ledger, raw: Any) -> None:
    assert OpenUploads(ledger).oldest_queued() is None
    ledger.open([request(ticket) for ticket in TICKETS[:4]])
    for ticket, ago_s in zip(TICKETS, (10, 30, 20, 90), strict=False):
        raw.hset(key(ticket), "queued_at", raw.time()[0] - ago_s)
    ledger.cancelled(TICKETS[3])
    ledger.attempt_failed(TICKETS[1], "it comes back")  # its row is the last that changed
    found = OpenUploads(ledger).oldest_queued()
    assert found
    ticket, waited_s, said = found
    assert (ticket, said) == (TICKETS[1], "it comes back")
    assert 29 < waited_s < 35
    assert OpenUploads(ledger).oldest_queued(most=2) is not None
