"""One attempt at a transfer, whatever earlier attempts left behind."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import (
    NameTakenError,
    ProviderUnavailableError,
    QueueUnavailableError,
    SessionLostError,
    SourceChangedError,
    UploadFailedError,
    VerificationError,
)
from provider_uploads.ledger.state import UploadState
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.providers.gemini import Gemini
from provider_uploads.providers.verification import BLOCK_BYTES
from provider_uploads.schemas import Copy, ProviderFile, Stage, UploadRequest
from provider_uploads.sources.open import open_source
from provider_uploads.transfer import Ended, Interrupted, transfer
from tests.conftest import KEY, profile_at
from tests.nodes import free_port, wait_until
from tests.test_resumable import SECRET, Say, Wire, active, final, refused, resource

TICKET = "0123456789abcdef" * 2
SIZE = 40 * BLOCK_BYTES


class Held:
    """What transfer asks of a lease."""

    def __init__(self) -> None:
        self.lost = False


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return EmulatorConfig(processing_s=0, api_keys=frozenset({KEY}))


@pytest.fixture
def path(make_file: Callable[..., Path]) -> Path:
    return make_file("clip.mp4", SIZE)


@pytest.fixture
def row(ledger: Ledger, path: Path) -> UploadState:
    request = UploadRequest(
        upload_id=TICKET,
        source=str(path),
        display_name="clip.mp4",
        mime_type="video/mp4",
        size_bytes=SIZE,
    )
    ledger.open([request])
    return ledger.read(TICKET)


@pytest.fixture
def client_at() -> Iterator[Callable[[str], Gemini]]:
    made: dict[str, Gemini] = {}

    def make(base_url: str) -> Gemini:
        if base_url not in made:
            made[base_url] = Gemini(profile_at(base_url), timeout_s=5)
        return made[base_url]

    yield make
    for client in made.values():
        client.close()


@pytest.fixture
def attempt(
    ledger: Ledger, path: Path, row: UploadState, client_at: Callable[[str], Gemini]
) -> Callable[..., tuple[UploadState, ProviderFile]]:
    """Run one attempt from what the ledger says, as a worker does."""

    def run(
        base_url: str,
        lease: Any = None,
        stopping: Callable[[], bool] = lambda: False,
        progress_every_s: float = 0.0,
    ) -> tuple[UploadState, ProviderFile]:
        with open_source(path) as source:
            return transfer(
                ledger,
                client_at(base_url),
                ledger.read(TICKET),
                source,
                lease=lease or Held(),
                stopping=stopping,
                progress_every_s=progress_every_s,
            )

    return run


Attempt = Callable[..., tuple[UploadState, ProviderFile]]


def name(generation: int) -> str:
    return f"files/pu-{TICKET}-{generation}"


class TestTheGoodWay:
    def test_one_session_one_file(
        self, gemini: LocalGemini, attempt: Attempt, ledger: Ledger, path: Path
    ) -> None:
        row, file = attempt(gemini.url)
        assert file.name == row.name == name(0)
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        stored = ledger.read(TICKET)
        assert stored.stage is row.stage is Stage.UPLOADING
        assert stored.sent_bytes == SIZE
        assert stored.copy_at_provider is Copy.PRESENT
        assert stored.upload_at == pytest.approx(row.upload_at, abs=1e-5)

    def test_progress_is_noted_as_seldom_as_asked(
        self, gemini: LocalGemini, attempt: Attempt, ledger: Ledger
    ) -> None:
        attempt(gemini.url, progress_every_s=3600)
        assert ledger.read(TICKET).sent_bytes == 0

    def test_it_goes_on_where_the_provider_stands(
        self, gemini: LocalGemini, attempt: Attempt, ledger: Ledger
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.RESET, after_bytes=SIZE // 2)
        with pytest.raises(ProviderUnavailableError):
            attempt(gemini.url)
        before = ledger.read(TICKET)
        row, file = attempt(gemini.url)
        assert gemini.counters()["operations"]["start"]["requests"] == 1
        assert gemini.counters()["operations"]["query"]["requests"] == 1
        assert file.name == name(0)
        assert row.upload_at == before.upload_at
        assert len(gemini.files()) == 1


class TestAfterALostAnswer:
    def test_a_live_session_gives_it_again(self, attempt: Attempt, path: Path) -> None:
        done = final(path.read_bytes(), name=name(0))
        with Wire(upload=Say(hang_up=True), query=done) as wire:
            with pytest.raises(ProviderUnavailableError):
                attempt(wire.url)
            _, file = attempt(wire.url)
            assert wire.commands() == ["start", "upload", "query"]
        assert file.name == name(0)

    @pytest.mark.parametrize("code", [404, 410])
    def test_a_file_whose_session_is_gone_is_adopted(
        self, attempt: Attempt, ledger: Ledger, path: Path, code: int
    ) -> None:
        found = said(resource(path.read_bytes(), name=name(0)))
        lost = refused(code, None)
        with Wire(upload=Say(hang_up=True), query=lost, get=found) as wire:
            with pytest.raises(ProviderUnavailableError):
                attempt(wire.url)
            row, file = attempt(wire.url)
            assert wire.commands() == ["start", "upload", "query", "get"]
        assert (row.generation, file.name) == (0, name(0))
        assert ledger.read(TICKET).generation == 0

    def test_a_finished_file_under_our_taken_name_is_adopted(
        self, gemini: LocalGemini, attempt: Attempt, ledger: Ledger, path: Path, row: UploadState
    ) -> None:
        """The ledger forgot the session, for example, because a worker died before it noted it."""
        attempt(gemini.url)
        ledger.redis.hdel(f"provider_uploads:upload:{TICKET}", "session_url")
        _, file = attempt(gemini.url)
        assert file.name == name(0)
        assert len(gemini.files()) == 1
        assert ledger.read(TICKET).generation == 0

    def test_a_provider_that_cannot_say_is_asked_again(
        self, attempt: Attempt, ledger: Ledger, path: Path
    ) -> None:
        found = said(resource(path.read_bytes(), name=name(0)))
        with Wire(upload=refused(404, None), query=refused(404, None), get=[Say(503), found]) as w:
            with pytest.raises(ProviderUnavailableError):
                attempt(w.url)
            assert ledger.read(TICKET).generation == 0
            _, file = attempt(w.url)
            assert w.commands() == ["start", "upload", "get", "query", "get"]
        assert file.name == name(0)


class TestNextGeneration:
    def check(self, ledger: Ledger) -> None:
        row = ledger.read(TICKET)
        assert (row.generation, row.session_url, row.sent_bytes) == (1, None, 0)
        assert (row.name, row.names) == (name(1), [name(0), name(1)])

    def test_after_a_lost_session_without_a_file(
        self, gemini: LocalGemini, attempt: Attempt, ledger: Ledger
    ) -> None:
        gemini.order_fault(Operation.UPLOAD, FaultKind.RESET, after_bytes=1000)
        with pytest.raises(ProviderUnavailableError):
            attempt(gemini.url)
        gemini.reset()
        with pytest.raises(SessionLostError):
            attempt(gemini.url)
        self.check(ledger)
        _, file = attempt(gemini.url)
        assert [stored["name"] for stored in gemini.files()] == [file.name] == [name(1)]

    def test_after_a_name_that_is_somebody_else_s(
        self, gemini: LocalGemini, attempt: Attempt, ledger: Ledger, path: Path
    ) -> None:
        with Wire(upload=refused(409, "final"), get=refused(403, None)) as wire:
            with pytest.raises(NameTakenError):
                attempt(wire.url)
            assert wire.commands() == ["start", "upload", "get"]
        self.check(ledger)
        assert attempt(gemini.url)[1].name == name(1)

    def test_after_a_conflict_at_start(
        self, gemini: LocalGemini, attempt: Attempt, ledger: Ledger
    ) -> None:
        """Observed at finalize only, but the same name again would be refused for ever."""
        with (
            Wire(start=refused(409, None), get=refused(403, None)) as wire,
            pytest.raises(NameTakenError),
        ):
            attempt(wire.url)
        row = ledger.read(TICKET)
        assert row.name == name(1)

    @pytest.mark.parametrize("deletion", [Say(body=b"{}"), refused(403, None)])
    def test_after_a_damaged_copy_which_is_deleted(
        self, attempt: Attempt, ledger: Ledger, deletion: Say
    ) -> None:
        with Wire(upload=final(b"x" * SIZE, name=name(0)), delete=deletion) as wire:
            with pytest.raises(VerificationError, match="sha256"):
                attempt(wire.url)
            assert wire.commands() == ["start", "upload", "delete"]
            assert wire.got[-1].path == f"/v1beta/{name(0)}"
        self.check(ledger)

    def test_a_damaged_copy_that_cannot_be_deleted_is_not_left_behind(
        self, attempt: Attempt, ledger: Ledger
    ) -> None:
        """The next attempt meets it again: its session still answers with the finished file."""
        damaged = final(b"x" * SIZE, name=name(0))
        with Wire(upload=damaged, query=damaged, delete=Say(503)) as wire:
            with pytest.raises(ProviderUnavailableError):
                attempt(wire.url)
            assert ledger.read(TICKET).name == name(0)
            wire.says(query=damaged, delete=Say(body=b"{}"))
            with pytest.raises(VerificationError):
                attempt(wire.url)
            assert wire.commands() == ["query", "delete"]
        self.check(ledger)

    def test_after_another_file_under_our_name(self, attempt: Attempt, ledger: Ledger) -> None:
        found = said(resource(b"other bytes", name=name(0)))
        wire = Wire(upload=refused(409, "final"), get=found, delete=Say(body=b"{}"))
        with wire, pytest.raises(VerificationError):
            attempt(wire.url)
        assert wire.commands() == ["start", "upload", "get", "delete"]
        self.check(ledger)


class TestInterruptions:
    def test_a_stopping_worker(self, gemini: LocalGemini, attempt: Attempt, ledger: Ledger) -> None:
        with pytest.raises(Interrupted, match="stopping"):
            attempt(gemini.url, stopping=lambda: True)
        assert gemini.files() == []
        row = ledger.read(TICKET)
        assert row.stage is Stage.UPLOADING
        assert row.session_url is not None
        _, file = attempt(gemini.url)  # elsewhere, in the same session
        assert file.size_bytes == SIZE
        assert gemini.counters()["operations"]["start"]["requests"] == 1

    def test_a_lost_lease(self, gemini: LocalGemini, attempt: Attempt, ledger: Ledger) -> None:
        lease, asked = Held(), 0

        def stopping() -> bool:
            nonlocal asked
            asked += 1
            lease.lost = asked == 3
            return False

        with pytest.raises(Interrupted, match="lease"):
            attempt(gemini.url, lease, stopping)
        assert asked == 3  # no further block
        assert ledger.read(TICKET).generation == 0

    def test_an_upload_that_ended_meanwhile(
        self, gemini: LocalGemini, attempt: Attempt, ledger: Ledger
    ) -> None:
        def end() -> bool:
            ledger.failed(TICKET, UploadFailedError("x", "FAILED"))
            return False

        with pytest.raises(Ended):
            attempt(gemini.url, stopping=end)
        assert gemini.files() == []
        assert ledger.read(TICKET).stage is Stage.FAILED

    def test_a_session_that_could_not_be_noted_is_given_up(
        self, gemini: LocalGemini, path: Path, row: UploadState, client_at: Callable[[str], Gemini]
    ) -> None:
        """Nobody could ever find it again."""
        nowhere = Ledger(f"redis://127.0.0.1:{free_port()}/0")
        with open_source(path) as source, pytest.raises(QueueUnavailableError):
            transfer(
                nowhere,
                client_at(gemini.url),
                row,
                source,
                lease=Held(),
                stopping=lambda: False,
                progress_every_s=0,
            )
        nowhere.close()
        assert gemini.counters()["operations"]["start"]["requests"] == 1
        assert gemini.sessions() == []

    def test_an_upload_that_ended_before_its_session_was_noted(
        self,
        gemini: LocalGemini,
        ledger: Ledger,
        path: Path,
        row: UploadState,
        client_at: Callable[[str], Gemini],
    ) -> None:
        ledger.withdrawn([TICKET])
        with open_source(path) as source, pytest.raises(Ended):
            transfer(
                ledger,
                client_at(gemini.url),
                row,  # as it was read before
                source,
                lease=Held(),
                stopping=lambda: False,
                progress_every_s=0,
            )
        assert gemini.sessions() == []
        assert gemini.counters()["operations"]["cancel"]["requests"] == 1
        assert ledger.read(TICKET).session_url is None

    def test_a_source_that_shrinks_is_no_provider_s_fault(
        self, gemini: LocalGemini, attempt: Attempt, path: Path
    ) -> None:
        def shrink() -> bool:
            with path.open("r+b") as out:
                out.truncate(10)
            return False

        with pytest.raises(SourceChangedError):
            attempt(gemini.url, stopping=shrink)

        def hung_up() -> bool:
            return "disconnected" in gemini.counters()["operations"]["upload"]["by_status"]

        wait_until(hung_up, "the provider sees the end")
        assert gemini.files() == []


def test_no_error_tells_the_session_url(attempt: Attempt) -> None:
    for say in (Say(hang_up=True), refused(404, None), refused(503, "final"), active(0)):
        with (
            Wire(upload=say, query=say, get=Say(503)) as wire,
            pytest.raises(ProviderUnavailableError) as caught,
        ):
            attempt(wire.url)
        assert SECRET not in f"{caught.value} {caught.value!r}"


def said(file: dict[str, Any]) -> Say:
    return Say(body=json.dumps(file).encode())


class TestAgain:
    """A later attempt, perhaps of another worker."""

    def interrupted(self, gemini: LocalGemini, attempt: Attempt, blocks: int = 2) -> None:
        """Begin, and stop when so many blocks are sent."""
        seen = iter(range(100))
        with pytest.raises(Interrupted):
            attempt(gemini.url, stopping=lambda: next(seen) >= blocks - 1)

    @pytest.mark.parametrize("same_size", [True, False])
    def test_another_version_is_not_mixed_in(
        self, gemini: LocalGemini, attempt: Attempt, path: Path, same_size: bool
    ) -> None:
        self.interrupted(gemini, attempt)
        before = path.stat()
        path.write_bytes(b"x" * (SIZE if same_size else SIZE + 1))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        with pytest.raises(SourceChangedError):
            attempt(gemini.url)
        assert gemini.files() == []

    def test_a_copied_file_is_the_same_one_if_it_says_so(
        self, gemini: LocalGemini, attempt: Attempt, path: Path
    ) -> None:
        self.interrupted(gemini, attempt)
        content, before = path.read_bytes(), path.stat()
        path.unlink()
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert attempt(gemini.url)[1].size_bytes == SIZE
        assert gemini.counters()["operations"]["start"]["requests"] == 1

    @pytest.mark.parametrize("finished", [True, False])
    def test_reading_it_once_more_can_be_stopped(
        self, gemini: LocalGemini, attempt: Attempt, finished: bool
    ) -> None:
        """The hash needs all bytes, also those that are there; for 2 GiB that takes seconds."""
        if finished:
            attempt(gemini.url)
        else:
            self.interrupted(gemini, attempt)
        with pytest.raises(Interrupted, match="stopping"):
            attempt(gemini.url, stopping=lambda: True)
        assert gemini.counters()["operations"]["upload"]["requests"] == 1
        assert attempt(gemini.url)[1].size_bytes == SIZE
        assert len(gemini.files()) == 1
