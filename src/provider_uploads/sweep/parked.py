"""Parked polls in a sweep: they hold their tickets, and somebody has to send them."""

from __future__ import annotations

from collections.abc import Iterator

from provider_uploads.errors import UnreadableStateError
from provider_uploads.ledger import parked
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.sweep.findings import Finding, Kind


class ParkedSweep:
    """The parked polls of all profiles."""

    def __init__(self, ledger: Ledger, quiet_s: float) -> None:
        """Leave alone what is overdue by less than ``quiet_s`` seconds."""
        self._ledger = ledger
        self._quiet_s = quiet_s

    def tickets(self) -> set[str]:
        """Return the tickets that wait there: their messages are not lost."""
        return self._ledger.run(parked.tickets())

    def findings(self) -> Iterator[Finding]:
        """Yield polls that nobody sends though they are due, and some whose uploads have ended."""
        for profile in self._ledger.run(parked.profiles()):
            overdue = self._ledger.run(parked.overdue(profile, self._quiet_s))
            why = dict.fromkeys(overdue, "its poll is parked and overdue, and nobody watches")
            for ticket in self._ended(self._ledger.run(parked.sample(profile))):
                why.setdefault(ticket, "it has ended, and its poll is still parked")
            for ticket, text in why.items():
                yield Finding(kind=Kind.PARKED, subject=ticket, profile=profile, why=text)

    def _ended(self, tickets: list[str]) -> list[str]:
        try:
            living = self._ledger.living_among(tickets)
        except UnreadableStateError:  # of one of them; the sweep names it
            return []
        return [ticket for ticket in tickets if ticket not in living]

    def mend(self, finding: Finding) -> None:
        """Send a poll: it ends where its upload has ended."""
        self._ledger.run(parked.wake(finding.profile or "", [finding.subject]))
