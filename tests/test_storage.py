"""The books of what is at the provider."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from provider_uploads import protocol
from provider_uploads.ledger.storage import Reservation, Storage
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.protocol import KEPT_S
from provider_uploads.schemas import ProviderFile, UploadRequest

A, B, C = (letter * 32 for letter in "abc")


@pytest.fixture
def storage(ledger: Ledger) -> Storage:
    return Storage(ledger)


def request(ticket: str) -> UploadRequest:
    return UploadRequest(
        upload_id=ticket,
        source="/files/a.txt",
        display_name="a.txt",
        mime_type="text/plain",
        size_bytes=10,
    )


def file(name: str, size_bytes: int, expires_in_s: float = KEPT_S) -> ProviderFile:
    expires_at = datetime.now(UTC) + timedelta(seconds=expires_in_s)
    return ProviderFile(
        name=name,
        uri="",
        state="ACTIVE",
        mime_type="text/plain",
        size_bytes=size_bytes,
        expires_at=expires_at,
    )


def ours(ticket: str, size_bytes: int) -> ProviderFile:
    return file(protocol.file_name(ticket, 0), size_bytes)


class TestRoom:
    def test_is_taken_once_and_given_back_once(self, storage: Storage) -> None:
        for _ in range(2):
            assert storage.reserve("default", A, 60, 100) == 0
        assert storage.reserve("default", B, 50, 100) == 10
        assert storage.held_bytes("default") == 60
        for _ in range(2):
            storage.release("default", A)
        assert storage.held_bytes("default") == 0
        assert storage.reserve("default", B, 50, 100) == 0

    def test_each_profile_has_its_own(self, storage: Storage) -> None:
        assert storage.reserve("default", A, 100, 100) == 0
        assert storage.reserve("batch", B, 100, 100) == 0

    def test_what_has_grown_takes_more(self, storage: Storage) -> None:
        storage.reserve("default", A, 60, 100)
        assert storage.reserve("default", A, 90, 100) == 0
        assert storage.held_bytes("default") == 90

    def test_what_expired_is_gone(self, storage: Storage, ledger: Ledger) -> None:
        storage.reserve("default", A, 100, 100)
        ledger.redis.zadd("provider_uploads:stored:default", {A: time.time() - 1})
        assert storage.reserve("default", B, 100, 100) == 0
        assert storage.oldest("default") == [Reservation(B, 100)]


class TestListing:
    def test_what_is_not_ours_counts(self, storage: Storage) -> None:
        held = storage.reconcile("default", [file("files/theirs", 70), ours(A, 20)], time.time())
        assert held == 90
        assert storage.reserve("default", B, 20, 100) == 10
        storage.reconcile("default", [ours(A, 20)], time.time())
        assert storage.reserve("default", B, 20, 100) == 0

    def test_what_is_gone_and_not_under_way_is_struck_out(
        self, storage: Storage, ledger: Ledger
    ) -> None:
        ledger.open([request(B)])
        for ticket in (A, B):
            storage.reserve("default", ticket, 10, 100)
        assert storage.reconcile("default", [], time.time() + 1) == 10  # B is under way

    def test_what_began_after_the_listing_stays(self, storage: Storage) -> None:
        storage.reserve("default", A, 10, 100)
        assert storage.reconcile("default", [], time.time() - 1) == 10

    def test_a_gateways_files_are_known_by_their_labels(self, storage: Storage) -> None:
        label = f"{protocol.NAME_PREFIX}{A}-0-clip.mp4"
        theirs = file("file-abc", 30).model_copy(update={"display_name": label})
        storage.reconcile("default", [theirs], time.time())
        assert storage.oldest("default") == [Reservation(A, 30)]


class TestSpare:
    def active(self, storage: Storage, ledger: Ledger, size_bytes: int, taken_ago_s: float) -> str:
        ticket = uuid.uuid4().hex
        ledger.open([request(ticket)])
        ledger.active(ledger.read(ticket), ours(ticket, size_bytes))
        storage.reserve("default", ticket, size_bytes, 10**9)
        expires_at = time.time() + KEPT_S - taken_ago_s
        ledger.redis.zadd("provider_uploads:stored:default", {ticket: expires_at})
        return ticket

    def names(self, storage: Storage, missing_bytes: int) -> list[str]:
        return [row.request.upload_id for row in storage.evictable("default", missing_bytes)]

    def test_the_oldest_that_do(self, storage: Storage, ledger: Ledger) -> None:
        young = self.active(storage, ledger, 30, 10)
        old = self.active(storage, ledger, 30, 1000)
        middle = self.active(storage, ledger, 30, 100)
        assert self.names(storage, 20) == [old]
        assert self.names(storage, 31) == [old, middle]
        assert self.names(storage, 90) == [old, middle, young]
        assert self.names(storage, 91) == []  # all of them would not do

    def test_what_is_on_its_way_out_counts(self, storage: Storage, ledger: Ledger) -> None:
        old = self.active(storage, ledger, 30, 1000)
        young = self.active(storage, ledger, 30, 10)
        ledger.release_copy(old)
        assert self.names(storage, 30) == []
        assert self.names(storage, 31) == [young]

    def test_never_one_that_is_under_way_or_not_ours(
        self, storage: Storage, ledger: Ledger
    ) -> None:
        ledger.open([request(C)])
        storage.reserve("default", C, 50, 100)
        storage.reconcile("default", [file("files/theirs", 50)], time.time() - 100)
        assert self.names(storage, 10) == []

    def test_never_one_that_others_use(self, storage: Storage, ledger: Ledger) -> None:
        shared = self.active(storage, ledger, 50, 10)
        name = protocol.file_name(shared, 0)
        ledger.redis.sadd(f"{protocol.KEY_PREFIX}users:default:{name}", shared, "another")
        assert self.names(storage, 10) == []
