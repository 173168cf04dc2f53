"""Parked polls in the ledger, and the watch over them by a real list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from celery import Celery

from provider_uploads import messages, protocol
from provider_uploads.emulator import EmulatorConfig, FaultKind, LocalGemini, Operation
from provider_uploads.errors import ProviderUnavailableError
from provider_uploads.fleet.file_watch import FileWatch, Pace
from provider_uploads.fleet.items import ITEMS
from provider_uploads.fleet.readable import unreadable
from provider_uploads.ledger import parked
from provider_uploads.ledger.finish import Finish, StoredResult
from provider_uploads.ledger.state import UploadState
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.providers.base import FilePages, pages_of
from provider_uploads.providers.gemini import Gemini
from provider_uploads.schemas import ProviderFile, Stage, UploadRequest
from provider_uploads.sources.open import open_source
from provider_uploads.sweep import Kind, Sweep
from tests.conftest import KEY, profile_at

QUEUE = f"{protocol.KEY_PREFIX}{protocol.CONTROL_QUEUE}"
PACE = Pace(every_s=0.5, page_s=0.1, file_s=10.0, measure_s=60.0, retry_s=5.0)


def request(number: int) -> UploadRequest:
    return UploadRequest(
        upload_id=f"{number:032x}",
        source=f"/videos/{number}.mp4",
        display_name=f"{number}.mp4",
        mime_type="video/mp4",
        size_bytes=1,
    )


def processing(ledger: Ledger, number: int, name: str | None = None) -> UploadState:
    """An upload whose file is PROCESSING."""
    made = request(number)
    ledger.open([made])
    row = ledger.read(made.upload_id)
    file = ProviderFile(
        name=name or row.name, uri="u", state="PROCESSING", mime_type="video/mp4", size_bytes=1
    )
    ledger.processing(row, file)
    return ledger.read(made.upload_id)


def parked_one(ledger: Ledger, number: int, wait_s: float = 60.0) -> UploadState:
    row = processing(ledger, number)
    text = messages.parked_poll_signature(ITEMS, row.request, 0).text()
    assert ledger.run(parked.park(row, text, wait_s, park_from=1))
    return row


def sent(ledger: Ledger) -> list[str]:
    """The tickets of the messages in the queue."""
    found = map(json.loads, reversed(ledger.redis.lrange(QUEUE, 0, -1)))
    return [message["headers"]["id"] for message in found]


def test_the_message_is_one_that_every_worker_reads(ledger: Ledger) -> None:
    row = parked_one(ledger, 1)
    ticket = row.request.upload_id
    ledger.run(parked.wake("default", [ticket]))
    (text,) = map(str, ledger.redis.lrange(QUEUE, 0, -1))
    message = json.loads(text)
    assert unreadable(text.encode()) == ""
    assert [*messages.tickets_of(message)] == [ticket]
    headers = message["headers"]
    assert (headers["task"], headers["retries"], headers["eta"]) == (protocol.POLL, 0, None)
    assert headers["root_id"] == ticket
    assert message["properties"]["delivery_info"]["routing_key"] == protocol.CONTROL_QUEUE


def test_the_row_holds_nothing_of_it(ledger: Ledger) -> None:
    """A worker of the previous version refuses a row with a field that it does not know."""
    row = parked_one(ledger, 1)
    assert ledger.read(row.request.upload_id) == row


def test_what_was_seen_goes_with_the_poll(ledger: Ledger) -> None:
    row = parked_one(ledger, 1)
    ticket = row.request.upload_id
    assert row.file
    file = row.file.model_copy(update={"state": "FAILED"})
    assert ledger.run(parked.wake("default", [ticket], {ticket: file})) == 1
    text = ledger.redis.get(parked.seen_key(ticket))
    assert ProviderFile.model_validate_json(text or "") == file


class TestSettle:
    def ends(self, rows: Iterable[UploadState], now: float) -> list[tuple[UploadState, Finish]]:
        found = []
        for row in rows:
            assert row.file
            ended = row.model_copy(update={"polls": row.polls + 1}).activated(row.file, now)
            ticket = row.request.upload_id
            found.append((ended, Finish(now, result=StoredResult(f"r:{ticket}", "{}", 60))))
        return found

    def test_all_that_ends_ends_at_once(self, ledger: Ledger) -> None:
        tickets = [parked_one(ledger, number).request.upload_id for number in (1, 2, 3)]
        unknown = "f" * 32
        now, rows = ledger.run(parked.processing([*tickets[:2], unknown]))
        assert [*rows] == tickets[:2]
        assert ledger.run(parked.settle("default", self.ends(rows.values(), now))) == {*rows}
        for ticket in tickets[:2]:
            row = ledger.read(ticket)
            assert (row.stage, row.polls) == (Stage.ACTIVE, 1)
            assert row.ended_at == pytest.approx(now)
            assert ledger.redis.get(f"r:{ticket}") == "{}"
        assert ledger.run(parked.tickets()) == {tickets[2]}
        assert sent(ledger) == []

    def test_what_ended_otherwise_stays_so(self, ledger: Ledger) -> None:
        ticket = parked_one(ledger, 1).request.upload_id
        now, rows = ledger.run(parked.processing([ticket]))
        ledger.cancelled(ticket)
        assert ledger.run(parked.settle("default", self.ends(rows.values(), now))) == set()
        assert ledger.read(ticket).stage is Stage.CANCELLED
        assert not ledger.redis.exists(f"r:{ticket}")
        assert ledger.run(parked.tickets()) == {ticket}  # its poll is still to be sent

    def test_a_row_that_cannot_be_read_is_left_alone(self, ledger: Ledger) -> None:
        ticket = parked_one(ledger, 1).request.upload_id
        ledger.redis.hset(f"{protocol.KEY_PREFIX}upload:{ticket}", "unheard", "of")
        assert ledger.run(parked.processing([ticket]))[1] == {}


def test_last_polls_are_sent_whatever_was_put_off(ledger: Ledger) -> None:
    row = parked_one(ledger, 1, wait_s=1.0)
    ticket = row.request.upload_id
    ledger.run(parked.postpone("default", {ticket: ledger.now() + 3600}))
    seen = ledger.run(parked.overview("default"))
    assert seen.next_at > seen.now + 3000
    assert seen.last_at == pytest.approx(row.deadline_at)
    assert ledger.run(parked.wake_last("default", seen.last_at - 1)) == 0
    assert ledger.run(parked.wake_last("default", seen.last_at + 1)) == 1
    assert sent(ledger) == [ticket]


def test_one_that_has_left_is_not_put_off(ledger: Ledger) -> None:
    row = parked_one(ledger, 1)
    ledger.run(parked.wake("default", [row.request.upload_id]))
    ledger.run(parked.postpone("default", {row.request.upload_id: ledger.now()}))
    assert ledger.run(parked.tickets()) == set()


class TestSweep:
    @pytest.fixture
    def sweep(self, ledger: Ledger) -> Sweep:
        return Sweep(ledger, Celery(set_as_current=False), lambda message: None, quiet_s=0.0)

    def findings(self, sweep: Sweep) -> list[tuple[Kind, str]]:
        found = [*sweep.unmoved()]
        for finding in found:
            sweep.mend(finding, {})
        return [(finding.kind, finding.subject) for finding in found]

    def test_parked_ones_are_not_lost(self, ledger: Ledger, sweep: Sweep) -> None:
        rows = [parked_one(ledger, number) for number in range(3)]
        assert self.findings(sweep) == []
        for key in ledger.redis.scan_iter(f"{protocol.KEY_PREFIX}parked:*"):
            ledger.redis.delete(key)
        lost = {(Kind.LOST, row.request.upload_id) for row in rows}
        assert {(f.kind, f.subject) for f in sweep.unmoved()} == lost

    def test_ended_ones_are_sent(self, ledger: Ledger, sweep: Sweep) -> None:
        """As one that a client of the previous version cancelled."""
        ticket = parked_one(ledger, 1).request.upload_id
        ledger.cancelled(ticket)
        assert (Kind.PARKED, ticket) in self.findings(sweep)
        assert sent(ledger) == [ticket]

    def test_overdue_ones_are_sent_where_nobody_watches(self, ledger: Ledger, sweep: Sweep) -> None:
        ticket = parked_one(ledger, 1, wait_s=-2.0).request.upload_id
        ledger.redis.set(parked.watcher_key("default"), "control-1@app-1 token")
        assert self.findings(sweep) == []
        assert ledger.run(parked.counts()) == {"default": (1, "control-1@app-1")}
        ledger.redis.delete(parked.watcher_key("default"))
        assert self.findings(sweep) == [(Kind.PARKED, ticket)]
        assert sent(ledger) == [ticket]


# -- the watch -------------------------------------------------------------------------------------


class SmallPages:
    """A provider's list, two files a page."""

    def __init__(self, pages: FilePages) -> None:
        self._pages = pages

    def page(self, token: str = "", size: int = 2) -> tuple[Sequence[ProviderFile], str]:
        return self._pages.page(token, size)


def nobody(active: Mapping[str, ProviderFile]) -> set[str]:
    """Settles nothing: each end is left to its poll."""
    return set()


@pytest.fixture
def gemini_config() -> EmulatorConfig:
    return EmulatorConfig(processing_s=3600, api_keys=frozenset({KEY}))


class TestWatch:
    @pytest.fixture
    def provider(self, gemini: LocalGemini) -> Iterator[Gemini]:
        with Gemini(profile_at(gemini.url)) as made:
            yield made

    @pytest.fixture
    def watch(self, ledger: Ledger, provider: Gemini) -> FileWatch:
        return self.watch_over(ledger, provider)

    def watch_over(
        self,
        ledger: Ledger,
        provider: Gemini,
        admitted: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> FileWatch:
        pages = pages_of(provider)
        assert pages is not None
        small = SmallPages(pages)
        return FileWatch(ledger, "default", small, admitted, nobody, pace=PACE, seen_s=60)

    @pytest.fixture
    def upload(self, provider: Gemini, tmp_path: Any) -> Callable[..., None]:
        """Send a file as the upload of this number would."""

        def send(number: int, mime_type: str = "video/mp4") -> None:
            path = tmp_path / "file"
            path.write_bytes(b"x")
            name = protocol.file_name(f"{number:032x}", 0)
            made = request(number).model_copy(update={"mime_type": mime_type})
            with open_source(str(path)) as source:
                provider.send(provider.start(name, made, 1), source, name=name)

        return send

    def lists(self, gemini: LocalGemini) -> int:
        return int(gemini.counters()["operations"]["list"]["requests"])

    def test_it_reads_as_far_as_files_wait(
        self, ledger: Ledger, watch: FileWatch, upload: Any, gemini: LocalGemini
    ) -> None:
        for number in range(20):
            upload(number, "text/plain")  # ACTIVE, and older than those that wait
        for number in range(20, 26):
            upload(number, "text/plain" if number == 22 else "video/mp4")
            parked_one(ledger, number)
        assert watch.read() == 3
        assert sent(ledger) == [f"{22:032x}"]
        assert self.lists(gemini) == 3
        assert watch.read() == 3

    def test_few_that_wait_among_many_pages_are_asked_for_alone(
        self, ledger: Ledger, watch: FileWatch, upload: Any, gemini: LocalGemini
    ) -> None:
        for number in range(20):
            upload(number, "video/mp4" if number < 3 else "text/plain")
        rows = [parked_one(ledger, number, wait_s=-1.0) for number in range(3)]
        tickets = [row.request.upload_id for row in rows]
        assert watch.unlisted(tickets) == []
        assert watch.read() == 3  # of ten
        assert watch.unlisted(tickets) == tickets
        assert watch.next_in_s(3) > 50
        assert watch.next_in_s(30) < 50  # now the list may be worth it

    def test_one_that_no_page_has_is_asked_for_alone(
        self, ledger: Ledger, watch: FileWatch, upload: Any
    ) -> None:
        for number in range(4):
            upload(number)
        rows = [parked_one(ledger, number, wait_s=1.0) for number in range(6)]
        assert watch.read() == 2
        tickets = [row.request.upload_id for row in rows]
        assert watch.unlisted(tickets) == tickets[4:]
        due = ledger.run(parked.due("default", ledger.now() + 1.5, 10))
        assert sorted(due) == tickets[4:]  # the others were put off
        assert sent(ledger) == []

    def test_a_list_that_fails_leaves_each_to_itself(
        self, ledger: Ledger, watch: FileWatch, upload: Any, gemini: LocalGemini
    ) -> None:
        upload(1)
        ticket = parked_one(ledger, 1).request.upload_id
        gemini.order_fault(Operation.LIST, FaultKind.INTERNAL)
        with pytest.raises(ProviderUnavailableError):
            watch.read()
        watch.leave_alone()
        assert watch.unlisted([ticket]) == [ticket]
        assert 4 < watch.next_in_s(30) <= 5
        watch.put_off(30.0)
        assert 29 < watch.next_in_s(30) <= 30

    def test_it_stops_when_told(
        self, ledger: Ledger, watch: FileWatch, upload: Any, gemini: LocalGemini
    ) -> None:
        upload(1)
        parked_one(ledger, 1)
        assert watch.read(lambda: False) == 0
        assert self.lists(gemini) == 0

    def test_generations_are_told_apart(
        self, ledger: Ledger, watch: FileWatch, upload: Any
    ) -> None:
        """An older copy of the same upload is ACTIVE; the one that counts is not listed."""
        upload(1, "text/plain")
        row = processing(ledger, 1, protocol.file_name(f"{1:032x}", 1))
        text = messages.parked_poll_signature(ITEMS, row.request, 0).text()
        assert ledger.run(parked.park(row, text, 60.0, park_from=1))
        watch.read()
        assert sent(ledger) == []


def test_facts_that_nobody_can_read_hold_up_no_other(ledger: Ledger) -> None:
    rows = [parked_one(ledger, number) for number in range(2)]
    bad, good = (row.request.upload_id for row in rows)
    ledger.redis.hset(f"{protocol.KEY_PREFIX}parked:default:facts", bad, "a newer version's")
    found = ledger.run(parked.files("default"))
    assert {name: one.ticket for name, one in found.items()} == {bad: bad, rows[1].name: good}


@pytest.mark.parametrize(
    ("pages", "waiting", "gap_s"), [(1, 100, 0.6), (10, 1000, 1.5), (30, 40, 7.5), (1, 1, 10.0)]
)
def test_pace(pages: int, waiting: int, gap_s: float) -> None:
    assert PACE.gap_s(pages, waiting) == pytest.approx(gap_s)
