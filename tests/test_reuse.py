"""Claims and users of shared files, in a real Redis, without a provider."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from provider_uploads import protocol
from provider_uploads.errors import QueueUnavailableError, SourceChangedError
from provider_uploads.ledger.connection import ROW_KEPT_S
from provider_uploads.ledger.deduplication import (
    ClaimState,
    Deduplication,
    claim_key,
    claim_state,
    content_of,
    usable,
    users_key,
)
from provider_uploads.ledger.open_uploads import OpenUploads
from provider_uploads.ledger.state import UploadState
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.schemas import Copy, ProviderFile, Stage, UploadRequest
from provider_uploads.sources.base import Source, Version
from provider_uploads.sources.open import open_source
from tests.nodes import free_port

A, B, C = (f"{number:032x}" for number in range(3))
SHA256 = hashlib.sha256(b"ten bytes!").hexdigest()
HOUR_S = 3600.0


@pytest.fixture
def reuse(ledger: Ledger) -> Deduplication:
    return Deduplication(ledger)


def request(ticket: str, **changes: Any) -> UploadRequest:
    return UploadRequest.model_validate(
        {
            "upload_id": ticket,
            "source": "/data/clip.mp4",
            "display_name": "clip.mp4",
            "mime_type": "video/mp4",
            "size_bytes": 10,
            "reuse": True,
            **changes,
        }
    )


def file(owner: str, **changes: Any) -> ProviderFile:
    given = ProviderFile(
        name=protocol.file_name(owner, 0),
        uri="http://h/v1beta/files/x",
        state="ACTIVE",
        mime_type="video/mp4",
        size_bytes=10,
        sha256=SHA256,
        expires_at=datetime.now(UTC) + timedelta(hours=48),
    )
    return given.model_copy(update=changes)


def queued(ledger: Ledger, ticket: str) -> UploadState:
    ledger.open([request(ticket)])
    row = ledger.content(ledger.read(ticket), SHA256, 10)
    assert row
    return row


def active(ledger: Ledger, ticket: str) -> UploadState:
    row = ledger.active(queued(ledger, ticket), file(ticket))
    assert row
    return row


def took(ledger: Ledger, row: UploadState, giver: str) -> UploadState | None:
    given = ledger.read(giver).file
    assert given
    return ledger.active(row, given, sender=giver, sharing_key=users_key("default", given.name))


class TestClaims:
    def test_the_first_has_it_and_keeps_it(self, ledger: Ledger, reuse: Deduplication) -> None:
        first, second = queued(ledger, A), queued(ledger, B)
        assert reuse.claim(first) == reuse.claim(second) == reuse.claim(first) == A
        assert ledger.redis.ttl(claim_key(first)) > ROW_KEPT_S - 60

    def test_a_void_one_goes_to_one_taker(self, ledger: Ledger, reuse: Deduplication) -> None:
        first, second, third = queued(ledger, A), queued(ledger, B), queued(ledger, C)
        reuse.claim(first)
        assert reuse.claim(second, over=A) == B
        assert reuse.claim(third, over=A) == B
        assert reuse.claim(first) == B

    def test_of_many_at_once_one_gets_it(self, ledger: Ledger, reuse: Deduplication) -> None:
        rows = [queued(ledger, f"{n:032x}") for n in range(20)]
        found: list[str] = []
        threads = [
            threading.Thread(target=lambda row=row: found.append(reuse.claim(row))) for row in rows
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 20
        assert len(set(found)) == 1

    @pytest.mark.parametrize(
        "changes", [{"profile": "other"}, {"mime_type": "video/webm"}, {"size_bytes": 11}]
    )
    def test_what_differs_is_another_claim(self, changes: dict[str, Any]) -> None:
        rows = [
            UploadState(request=request(A), stage=Stage.QUEUED, content=SHA256) for _ in range(2)
        ]
        other = rows[0].model_copy(update={"request": request(A, **changes)})
        assert claim_key(rows[0]) == claim_key(rows[1]) != claim_key(other)
        assert claim_key(rows[0].model_copy(update={"content": "0" * 64})) != claim_key(rows[0])

    def test_redis_out_of_reach(self) -> None:
        away = Ledger(f"redis://127.0.0.1:{free_port()}/0", timeout_s=0.2)
        row = UploadState(request=request(A), stage=Stage.ACTIVE, content=SHA256, file=file(A))
        for call in (
            lambda: Deduplication(away).claim(row),
            lambda: Deduplication(away).release(row),
            lambda: Deduplication(away).shared("default", "files/x"),
        ):
            with pytest.raises(QueueUnavailableError):
                call()
        away.close()


class TestStanding:
    def row(self, stage: Stage = Stage.ACTIVE, **changes: Any) -> UploadState:
        made = UploadState(request=request(A), stage=stage, content=SHA256, file=file(A))
        return made.model_copy(update=changes)

    @pytest.mark.parametrize("stage", [Stage.QUEUED, Stage.UPLOADING, Stage.PROCESSING])
    def test_living(self, stage: Stage) -> None:
        assert claim_state(self.row(stage), SHA256, HOUR_S) is ClaimState.LIVING

    @pytest.mark.parametrize("stage", [Stage.FAILED, Stage.TIMED_OUT, Stage.CANCELLED])
    def test_ended_badly(self, stage: Stage) -> None:
        assert claim_state(self.row(stage), SHA256, HOUR_S) is ClaimState.VOID

    def test_active_let_go_or_of_other_bytes(self) -> None:
        assert claim_state(self.row(), SHA256, HOUR_S) is ClaimState.ACTIVE
        assert claim_state(self.row(released_at=1.0), SHA256, HOUR_S) is ClaimState.VOID
        assert claim_state(self.row(file=None), SHA256, HOUR_S) is ClaimState.VOID
        assert claim_state(self.row(), "0" * 64, HOUR_S) is ClaimState.VOID
        living = self.row(Stage.QUEUED, content="0" * 64)
        assert claim_state(living, SHA256, HOUR_S) is ClaimState.VOID

    @pytest.mark.parametrize(
        ("changes", "good"),
        [
            ({}, True),
            ({"state": "PROCESSING"}, False),
            ({"sha256": "0" * 64}, False),
            ({"sha256": None}, False),
        ],
    )
    def test_which_files_are_of_use(self, changes: dict[str, Any], good: bool) -> None:
        assert usable(file(A, **changes), self.row(), HOUR_S) is good

    @pytest.mark.parametrize(("minutes", "good"), [(61, True), (59, False), (-1, False)])
    def test_it_must_not_expire_within_the_hour(self, minutes: int, good: bool) -> None:
        expires_at = datetime.now(UTC) + timedelta(minutes=minutes)
        assert usable(file(A, expires_at=expires_at), self.row(), HOUR_S) is good

    @pytest.mark.parametrize(("age_s", "good"), [(46.9 * 3600, True), (47.1 * 3600, False)])
    def test_without_an_expiry_it_is_48_hours_after_the_bytes(
        self, age_s: float, good: bool
    ) -> None:
        row = self.row(processing_at=datetime.now(UTC).timestamp() - age_s)
        assert usable(file(A, expires_at=None), row, HOUR_S) is good


class TestUsers:
    def test_the_row_takes_the_file_as_it_is(self, ledger: Ledger) -> None:
        active(ledger, A)
        moved = took(ledger, queued(ledger, B), A)
        stored = ledger.read(B)
        assert moved
        assert moved.result() == stored.result()
        assert (stored.stage, stored.sent_bytes, stored.reused) == (Stage.ACTIVE, 0, True)
        assert (stored.copy_at_provider, stored.names) == (
            Copy.PRESENT,
            [protocol.file_name(A, 0)],
        )
        assert ledger.redis.smembers(users_key("default", stored.names[0])) == {A, B}
        assert OpenUploads(ledger).unmoved(-60) == []

    def test_not_from_one_that_let_go_or_lives(self, ledger: Ledger, reuse: Deduplication) -> None:
        row = queued(ledger, B)
        active(ledger, A)
        assert ledger.release_copy(A)
        assert took(ledger, row, A) is None
        queued(ledger, C)
        name = protocol.file_name(C, 0)
        assert ledger.active(row, file(C), sender=C, sharing_key=users_key("default", name)) is None
        assert ledger.read(B).stage is Stage.QUEUED
        assert not reuse.shared("default", name)
        assert not reuse.shared("default", protocol.file_name(A, 0))

    def test_not_by_one_that_was_cancelled(self, ledger: Ledger, reuse: Deduplication) -> None:
        row = queued(ledger, B)
        active(ledger, A)
        ledger.cancelled(B)
        assert took(ledger, row, A) is None
        assert ledger.read(B).stage is Stage.CANCELLED
        assert not reuse.shared("default", protocol.file_name(A, 0))

    def test_the_last_one_is_told(self, ledger: Ledger, reuse: Deduplication) -> None:
        owner = active(ledger, A)
        reuse.claim(owner)
        second = took(ledger, queued(ledger, B), A)
        assert second
        assert reuse.release(owner) == 1
        assert reuse.release(owner) == 1  # twice is once
        assert reuse.claim(queued(ledger, C)) == B  # it inherits the claim
        assert reuse.shared("default", protocol.file_name(A, 0))
        assert reuse.release(second) == 0
        assert reuse.release(owner) == reuse.release(second) == 0
        assert not reuse.shared("default", protocol.file_name(A, 0))
        assert reuse.claim(queued(ledger, C)) == C

    def test_alone(self, ledger: Ledger, reuse: Deduplication) -> None:
        owner = active(ledger, A)
        reuse.claim(owner)
        assert reuse.release(owner) == 0
        assert reuse.claim(queued(ledger, B)) == B

    def test_who_leaves_takes_no_other_s_claim_along(
        self, ledger: Ledger, reuse: Deduplication
    ) -> None:
        owner = active(ledger, A)
        reuse.claim(queued(ledger, B))
        assert reuse.release(owner) == 0
        assert reuse.claim(queued(ledger, C)) == B

    def test_let_go_is_work_left_to_do_until_it_is_done(self, ledger: Ledger) -> None:
        active(ledger, A)
        assert not ledger.left_behind(A)
        assert OpenUploads(ledger).unmoved(-60) == []
        assert ledger.release_copy(A)
        assert ledger.left_behind(A)
        assert OpenUploads(ledger).unmoved(-60) == [A]
        ledger.deleted(A)
        assert not ledger.left_behind(A)
        assert OpenUploads(ledger).unmoved(-60) == []
        queued(ledger, B)
        assert not ledger.release_copy(B)


class TestContent:
    def test_the_hash_of_a_file(self, make_file: Callable[..., Path]) -> None:
        path = make_file(size_bytes=2_500_000)
        told: list[int] = []
        with open_source(path) as source:
            assert content_of(source, told.append) == hashlib.sha256(path.read_bytes()).hexdigest()
        assert told == [1024**2, 2 * 1024**2, 2_500_000]

    def test_who_watches_may_stop_it(self, make_file: Callable[..., Path]) -> None:
        def stop(_: int) -> None:
            raise InterruptedError

        with open_source(make_file()) as source, pytest.raises(InterruptedError):
            content_of(source, stop)

    def test_one_that_changes_meanwhile(self, make_file: Callable[..., Path]) -> None:
        path = make_file()

        def change(_: int) -> None:
            path.write_bytes(b"something else")

        with open_source(path) as source, pytest.raises(SourceChangedError):
            content_of(source, change)

    def test_one_that_ends_early(self) -> None:
        version = Version(11, None)
        stream: Any = io.BytesIO(b"ten bytes!")
        with Source("x", stream, version, lambda: version) as source:
            with pytest.raises(SourceChangedError) as caught:
                content_of(source, lambda _: None)
            assert caught.value.args == ("x", 11, 10)
