"""A poll's beginning: whose it is, whether there is a permit, and whether anybody is up."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import redis

from provider_uploads import protocol
from provider_uploads.backoff import Backoff
from provider_uploads.errors import NewerPayloadError, UnknownTicketError
from provider_uploads.fleet.breaker import Breaker
from provider_uploads.fleet.limits import Limits
from provider_uploads.fleet.polls import PollBeginning, Polls
from provider_uploads.fleet.tiers import Work
from provider_uploads.ledger import parked
from provider_uploads.ledger.state import ClaimResult, UploadState
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.schemas import PollPolicy, ProviderFile, Stage, UploadRequest

T = "0" * 32
PROFILE = "default"
ROW = f"{protocol.KEY_PREFIX}upload:{T}"
A_MINUTE = {Work.POLL: "60/m"}


@pytest.fixture
def raw(ledger: Ledger) -> redis.Redis:
    return ledger.redis


@pytest.fixture
def rates() -> dict[Work, str]:
    """The tier; tests change it."""
    return {}


@pytest.fixture
def limits(ledger: Ledger, rates: dict[Work, str]) -> Limits:
    return Limits(ledger, lambda profile, work: rates.get(work))


@pytest.fixture
def breaker(ledger: Ledger) -> Breaker:
    return Breaker(ledger, failures=1, probes=Backoff(30.0))


@pytest.fixture
def polls(ledger: Ledger, limits: Limits, breaker: Breaker) -> Polls:
    return Polls(ledger, limits, breaker)


def request() -> UploadRequest:
    return UploadRequest(
        upload_id=T,
        source="/data/clip.mp4",
        display_name="clip.mp4",
        mime_type="video/mp4",
        size_bytes=10,
        poll_policy=PollPolicy(timeout_s=60),
    )


@pytest.fixture
def row(ledger: Ledger) -> UploadState:
    """An upload that is PROCESSING."""
    ledger.open([request()])
    row = ledger.read(T)
    file = ProviderFile(
        name=row.name, uri="u", state="PROCESSING", mime_type="video/mp4", size_bytes=10
    )
    processing = ledger.processing(row, file)
    assert processing is not None
    return processing


def begin(polls: Polls, attempt: int = 0, tag: str = "a", **options: Any) -> PollBeginning:
    return polls.begin(T, PROFILE, attempt, tag, **options)


#: stage, poll and tag in the row; attempt and tag of the message; the verdict.
POLLS: list[tuple[Stage, int | None, str | None, int, str, ClaimResult]] = [
    (Stage.PROCESSING, None, None, 0, "a", ClaimResult.GO),
    (Stage.PROCESSING, 0, "a", 0, "a", ClaimResult.GO),  # again after a crash
    (Stage.PROCESSING, 0, "a", 0, "b", ClaimResult.STALE),  # a copy
    (Stage.PROCESSING, 0, "a", 1, "b", ClaimResult.GO),
    (Stage.PROCESSING, 0, "a", 5, "b", ClaimResult.GO),
    (Stage.PROCESSING, 3, "a", 2, "a", ClaimResult.STALE),
    (Stage.PROCESSING, 3, "a", 2, "b", ClaimResult.STALE),
    (Stage.PROCESSING, 9, "a", 10, "b", ClaimResult.GO),  # numbers, not texts
    (Stage.PROCESSING, 10, "a", 9, "b", ClaimResult.STALE),
    *(
        (stage, poll, "a", attempt, tag, verdict)
        for stage in (Stage.ACTIVE, Stage.FAILED, Stage.TIMED_OUT, Stage.CANCELLED)
        for poll, attempt, tag, verdict in [
            (2, 2, "a", ClaimResult.ANSWER),
            (2, 2, "b", ClaimResult.STALE),
            (2, 1, "a", ClaimResult.STALE),
            (2, 3, "b", ClaimResult.ANSWER if stage is Stage.CANCELLED else ClaimResult.STALE),
        ]
    ),
    (Stage.QUEUED, None, None, 0, "a", ClaimResult.STALE),
    (Stage.UPLOADING, None, None, 0, "a", ClaimResult.STALE),
]


class TestClaims:
    @pytest.mark.parametrize(("stage", "poll", "tag", "attempt", "mine", "verdict"), POLLS)
    def test_polls(
        self,
        ledger: Ledger,
        raw: redis.Redis,
        polls: Polls,
        stage: Stage,
        poll: int | None,
        tag: str | None,
        attempt: int,
        mine: str,
        verdict: ClaimResult,
    ) -> None:
        ledger.open([request()])
        raw.hset(ROW, "stage", stage)
        if poll is not None:
            raw.hset(ROW, mapping={"look": poll, "tag": str(tag), "polls": 4})
        begun = begin(polls, attempt, mine)
        assert begun.claim is verdict
        seconds, micros = raw.time()
        assert begun.now == pytest.approx(seconds + micros / 1e6, abs=5)
        stored = ledger.read(T)
        assert begun.row == stored
        if verdict is ClaimResult.GO:
            assert (stored.claimed_poll, stored.delivery_tag) == (attempt, mine)
            assert stored.polls == (1 if poll is None else 5)
        else:
            assert (stored.claimed_poll, stored.delivery_tag) == (-1 if poll is None else poll, tag)

    def test_an_unknown_ticket(self, polls: Polls, raw: redis.Redis) -> None:
        with pytest.raises(UnknownTicketError):
            begin(polls)
        assert raw.keys("*") == []

    @pytest.mark.parametrize("changes", [{"version": 99}, {"version": 99, "unheard": "of"}])
    def test_a_row_of_a_newer_client(
        self, polls: Polls, row: UploadState, raw: redis.Redis, changes: dict[str, Any]
    ) -> None:
        newer = json.loads(raw.hget(ROW, "request") or "{}") | changes
        raw.hset(ROW, "request", json.dumps(newer))
        with pytest.raises(NewerPayloadError):
            begin(polls)

    def test_of_many_copies_one_goes(self, polls: Polls, row: UploadState) -> None:
        start = threading.Barrier(8)
        said: list[ClaimResult | None] = []

        def claim(tag: str) -> None:
            start.wait()
            said.append(begin(polls, 0, tag).claim)

        threads = [threading.Thread(target=claim, args=(str(n),)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, said)) == [ClaimResult.GO, *[ClaimResult.STALE] * 7]


class TestPermits:
    def test_one_for_now(self, polls: Polls, row: UploadState, rates: dict[Work, str]) -> None:
        rates |= A_MINUTE
        begun = begin(polls)
        assert (begun.claim, begun.wait_s) == (ClaimResult.GO, 0.0)
        assert begun.token.startswith("0:")

    def test_without_one_nothing_changes(
        self, polls: Polls, row: UploadState, rates: dict[Work, str], limits: Limits, ledger: Ledger
    ) -> None:
        rates |= A_MINUTE
        limits.acquire(PROFILE, Work.POLL)
        begun = begin(polls, soon_s=0.1)
        assert begun.claim is None
        assert 0.5 < begun.wait_s < 1.1
        assert begun.token  # reserved: the deadline is later
        assert begun.row == ledger.read(T)
        assert begun.row.polls == 0

    def test_one_that_was_reserved(
        self, polls: Polls, row: UploadState, rates: dict[Work, str], limits: Limits
    ) -> None:
        rates |= {Work.POLL: "6000/m"}
        token = begin(polls).token
        rates |= A_MINUTE
        assert begin(polls, 1, "b", permit=token).token == token

    def test_none_beyond_the_deadline(
        self, polls: Polls, row: UploadState, rates: dict[Work, str], limits: Limits
    ) -> None:
        """It comes at the deadline instead, when it waits for none."""
        rates |= {Work.POLL: "1/m"}
        limits.acquire(PROFILE, Work.POLL)
        limits.acquire(PROFILE, Work.POLL)
        begun = begin(polls)
        assert (begun.claim, begun.token) == (None, "")
        assert begun.wait_s > begun.left_s > 50

    def test_the_last_one_waits_for_none(
        self, polls: Polls, row: UploadState, rates: dict[Work, str], raw: redis.Redis
    ) -> None:
        rates |= {Work.POLL: "0.5/m"}
        begin(polls)
        raw.hset(ROW, "deadline_at", "1")
        begun = begin(polls, 1)
        assert begun.claim is ClaimResult.GO
        assert begun.left_s < 0

    def test_why_everybody_waits(self, polls: Polls, row: UploadState, limits: Limits) -> None:
        limits.set_rate(Work.POLL, "pause", profiles=[PROFILE])
        begun = begin(polls)
        assert (begun.claim, begun.token, begun.why) == (None, "", "paused")


class TestOutages:
    @pytest.fixture(autouse=True)
    def down(self, breaker: Breaker) -> None:
        assert breaker.record_failure(PROFILE, breaker.check(PROFILE))

    def test_nobody_is_asked(
        self, polls: Polls, row: UploadState, rates: dict[Work, str], raw: redis.Redis
    ) -> None:
        """The poll is claimed, so that its copies end, and takes no permit."""
        rates |= A_MINUTE
        begun = begin(polls)
        assert begun.claim is ClaimResult.GO
        assert 0 < begun.breaker.wait_s <= 30
        assert (begun.row.claimed_poll, begun.row.polls, begun.token) == (0, 0, "")
        assert begin(polls, 0, "b").claim is ClaimResult.STALE
        assert not raw.keys("*turns*")

    def test_the_last_one_asks_and_is_no_probe(
        self, polls: Polls, row: UploadState, raw: redis.Redis
    ) -> None:
        raw.hset(ROW, "deadline_at", "1")
        probe_at = raw.hget(f"{protocol.KEY_PREFIX}breaker:{PROFILE}", "probe_at")
        begun = begin(polls)
        assert (begun.claim, begun.row.polls) == (ClaimResult.GO, 1)
        assert (begun.breaker.probe, begun.breaker.wait_s > 0) == (False, True)
        assert raw.hget(f"{protocol.KEY_PREFIX}breaker:{PROFILE}", "probe_at") == probe_at

    def test_one_is_the_probe(self, polls: Polls, row: UploadState, raw: redis.Redis) -> None:
        raw.hset(f"{protocol.KEY_PREFIX}breaker:{PROFILE}", "probe_at", "1")
        begun = begin(polls)
        assert (begun.breaker.probe, begun.breaker.wait_s) == (True, 0.0)
        assert begin(polls, 1).breaker.wait_s > 0


class TestSeen:
    @pytest.fixture
    def seen(self, ledger: Ledger, row: UploadState) -> ProviderFile:
        """The file, as a watcher has seen it."""
        assert row.file is not None
        file = row.file.model_copy(update={"state": "FAILED"})
        ledger.redis.set(parked.seen_key(T), file.model_dump_json())
        return file

    def test_it_needs_no_permit(
        self, polls: Polls, seen: ProviderFile, limits: Limits, breaker: Breaker
    ) -> None:
        limits.set_rate(Work.POLL, "pause", profiles=[PROFILE])
        breaker.record_failure(PROFILE, breaker.check(PROFILE))
        begun = begin(polls, watched=True)
        assert (begun.claim, begun.seen, begun.row.polls) == (ClaimResult.GO, seen, 1)

    def test_a_copy_ends(self, polls: Polls, seen: ProviderFile) -> None:
        begin(polls, watched=True)
        assert begin(polls, 0, "b", watched=True).claim is ClaimResult.STALE

    def test_who_was_not_parked_asks(self, polls: Polls, seen: ProviderFile) -> None:
        assert begin(polls).seen is None
