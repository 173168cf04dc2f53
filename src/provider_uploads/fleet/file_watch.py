"""Many files at once: the provider's list, read again and again for all that wait.

A hundred files cost one request, where each by itself costs one. Whether that is cheaper depends on
how many pages hold those that wait: a list comes from the newest file mostly, which no provider
promises, so it is measured. What a watch remembers only saves requests; another one may take its
place at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from provider_uploads.ledger import parked
from provider_uploads.ledger.connection import Connection
from provider_uploads.ledger.parked import ParkedFile
from provider_uploads.providers.base import FilePages
from provider_uploads.schemas import ProviderFile, Stage

#: The next poll of a file that is seen in each reading is put off by so many readings.
_READINGS = 3
_FILES_A_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often to read the list; seconds."""

    every_s: float
    page_s: float
    file_s: float
    #: How long a list that does not pay, or that cannot be read, is left alone.
    measure_s: float
    retry_s: float

    def gap_s(self, pages: int, waiting: int) -> float:
        """Return the seconds from the beginning of one reading to the next."""
        return max(self.every_s + pages * self.page_s, self.file_s * pages / max(waiting, 1))


class FileWatch:
    """The watch over one profile's parked polls; ``read`` may run beside the other calls.

    ``admitted`` is entered for each request, and raises where it may not be sent. ``settle`` gets
    ACTIVE files by their tickets, and returns those tickets whose end it recorded. Raises
    QueueUnavailableError as the ledger does.
    """

    def __init__(
        self,
        connection: Connection,
        profile: str,
        pages: FilePages,
        admitted: Callable[[], AbstractContextManager[object]],
        settle: Callable[[Mapping[str, ProviderFile]], Collection[str]],
        *,
        pace: Pace,
        seen_s: int,
    ) -> None:
        self._connection = connection
        self._profile = profile
        self._pages = pages
        self._admitted = admitted
        self._settle = settle
        self._pace = pace
        self._seen_s = seen_s
        self._files: dict[str, ParkedFile] = {}
        #: Those that the last complete list did not have.
        self._absent: frozenset[str] = frozenset()
        #: Pages that held all that waited; at least so many where it was given up.
        self._needed = 0
        #: By this process's clock, and by Redis's.
        self._begun = self._begun_at = 0.0
        self._gap_s = 0.0
        #: Since when a page is waited for.
        self._asked = 0.0
        self._alone_until = 0.0
        #: So many waited when their list did not pay.
        self._too_few = 0

    def next_in_s(self, waiting: int) -> float:
        """Return the seconds until the list is to be read."""
        now = time.monotonic()
        if self._too_few and waiting > 2 * self._too_few:
            self._too_few, self._alone_until = 0, 0.0
        gap_s = self._pace.gap_s(self._needed or _pages_of(waiting), waiting)
        return max(self._begun + max(gap_s, self._gap_s), self._alone_until) - now

    def put_off(self, wait_s: float) -> None:
        """Read the list in ``wait_s`` seconds at the earliest: it was refused for that long."""
        self._gap_s = time.monotonic() + wait_s - self._begun

    def leave_alone(self) -> None:
        """Poll each file by itself for a while: the list cannot be read."""
        self._too_few, self._alone_until = 0, time.monotonic() + self._pace.retry_s

    def unlisted(self, tickets: Sequence[str]) -> list[str]:
        """Return those of these tickets whose files no list answers for: poll them alone."""
        now = time.monotonic()
        silent = bool(self._asked) and now > self._asked + self._pace.retry_s
        if silent or now < self._alone_until:
            return [*tickets]
        return [ticket for ticket in tickets if ticket in self._absent]

    def read(self, goes_on: Callable[[], bool] = lambda: True) -> int:
        """Read the list once, as far as it holds files that wait; return the pages it took.

        ACTIVE files are settled; failed ones, and what cannot be settled, are handed to their
        polls. Raises what the provider raises.
        """
        self._begun, self._gap_s, self._asked = time.monotonic(), 0.0, 0.0
        self._begun_at = self._connection.now()
        files = self._files = self._connection.run(parked.files(self._profile, self._files))
        missing, pages, token = dict(files), 0, ""
        while missing and goes_on():
            with self._admitted():
                self._asked = time.monotonic()
                try:
                    listed, token = self._pages.page(token)
                finally:
                    self._asked = 0.0
            pages += 1
            self._found(missing, listed, max(pages, _pages_of(len(files))))
            if not token:
                self._absent = frozenset(one.ticket for one in missing.values())
                break
            if missing and pages >= len(files):  # asking for each would have cost less
                self._too_few = len(files)
                self._alone_until = time.monotonic() + self._pace.measure_s
                break
        self._needed = pages
        return pages

    def _found(
        self, missing: dict[str, ParkedFile], listed: Sequence[ProviderFile], pages: int
    ) -> None:
        """Take a page's files out of those that are missing, and do what their state calls for."""
        took_s = time.monotonic() - self._begun
        now = self._begun_at + took_s
        again_s = _READINGS * max(self._pace.gap_s(pages, len(self._files)), took_s)
        ended: dict[str, ProviderFile] = {}
        later: dict[str, float] = {}
        for file in listed:
            one = missing.pop(file.name, None)
            if one is None:
                continue
            if file.state == Stage.ACTIVE or file.failed:
                ended[one.ticket] = file
            elif one.due_at < now + again_s:
                later[one.ticket] = one.due_at = now + max(one.wait_s, 2 * again_s)
        active = {ticket: file for ticket, file in ended.items() if file.state == Stage.ACTIVE}
        settled = self._settle(active) if active else ()
        if woken := {ticket: file for ticket, file in ended.items() if ticket not in settled}:
            self._connection.run(parked.wake(self._profile, [*woken], woken, self._seen_s))
        self._connection.run(parked.postpone(self._profile, later))


def _pages_of(files: int) -> int:
    return -(-files // _FILES_A_PAGE)
