"""One line of the doctor's: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import computed_field

from provider_uploads.records import Record


class Verdict(StrEnum):
    """How it is; the later, the worse."""

    OK = "ok"
    #: Worth knowing, and nothing to do.
    NOTE = "note"
    #: It works, but not as it should.
    WARNING = "warning"
    #: Uploads do not work, or get lost.
    FAILURE = "failure"


class Check(Record):
    """What was found about one thing; ``remedy`` says what to do, where there is something."""

    name: str
    verdict: Verdict
    says: str
    remedy: str = ""


class Examination(Record):
    """All that was found; its JSON is ``{"checks": [...], "verdict": "ok"}``."""

    checks: tuple[Check, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Verdict:
        """The worst of all: OK, WARNING or FAILURE."""
        found = {check.verdict for check in self.checks}
        worse = (verdict for verdict in (Verdict.FAILURE, Verdict.WARNING) if verdict in found)
        return next(worse, Verdict.OK)


def ok(name: str, says: str) -> Check:
    """All is well."""
    return Check(name=name, verdict=Verdict.OK, says=says)


def note(name: str, says: str, remedy: str = "") -> Check:
    """Worth knowing."""
    return Check(name=name, verdict=Verdict.NOTE, says=says, remedy=remedy)


def warning(name: str, says: str, remedy: str) -> Check:
    """It works, but not as it should."""
    return Check(name=name, verdict=Verdict.WARNING, says=says, remedy=remedy)


def failure(name: str, says: str, remedy: str) -> Check:
    """It does not work."""
    return Check(name=name, verdict=Verdict.FAILURE, says=says, remedy=remedy)
