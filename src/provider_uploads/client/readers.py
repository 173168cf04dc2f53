"""Who follows which upload, and whether what they follow it by is still there."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Final, Generic, TypeVar

ReaderT = TypeVar("ReaderT")

#: A subscription that was quiet for so long is asked whether it is there, and answers within so
#: many seconds.
_QUIET_S: Final = 10.0
_ANSWER_S: Final = 5.0


class Readers(Generic[ReaderT]):
    """The readers of a subscription by the tickets they follow; not thread-safe by itself."""

    def __init__(self) -> None:
        self._of: dict[str, set[ReaderT]] = {}
        self._tickets: dict[ReaderT, Collection[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._tickets)

    @property
    def tickets(self) -> list[str]:
        """All that somebody follows."""
        return [*self._of]

    def add(self, reader: ReaderT, tickets: Collection[str]) -> None:
        """Let a reader follow uploads."""
        self._tickets[reader] = tickets
        for ticket in tickets:
            self._of.setdefault(ticket, set()).add(reader)

    def remove(self, reader: ReaderT) -> list[str]:
        """Forget a reader; return the tickets that nobody follows any more."""
        gone = []
        for ticket in self._tickets.pop(reader, ()):
            self._of[ticket].discard(reader)
            if not self._of[ticket]:
                del self._of[ticket]
                gone.append(ticket)
        return gone

    def clear(self) -> list[ReaderT]:
        """Forget all readers; return them."""
        readers = self.all()
        self._of.clear()
        self._tickets.clear()
        return readers

    def all(self) -> list[ReaderT]:
        """Return all readers."""
        return [*self._tickets]

    def following(self, tickets: Iterable[str]) -> dict[str, list[ReaderT]]:
        """Return the readers of those tickets that have any."""
        return {ticket: [*self._of[ticket]] for ticket in tickets if ticket in self._of}


class Pulse:
    """Whether the other side of a connection that only listens is still there.

    A router or a virtual machine that vanishes closes nothing: such a connection is quiet for ever.
    """

    def __init__(self) -> None:
        self.heard()

    def heard(self) -> None:
        """Note that something arrived."""
        self._heard_at = time.monotonic()
        self._asked_at: float | None = None

    def asks(self) -> bool:
        """Whether to send a ping now; raises ConnectionError when the last one was not answered."""
        now = time.monotonic()
        if self._asked_at is not None and now - self._asked_at > _ANSWER_S:
            raise ConnectionError("a ping was not answered")
        due = self._asked_at is None and now - self._heard_at > _QUIET_S
        if due:
            self._asked_at = now
        return due
