"""One line of the doctor's: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Self

from provider_uploads.schemas import Record


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
    """All that was found, and the worst of it: OK, WARNING or FAILURE."""

    verdict: Verdict
    checks: tuple[Check, ...]

    @classmethod
    def of(cls, checks: Iterable[Check]) -> Self:
        """Sum checks up."""
        checks = tuple(checks)
        found = {check.verdict for check in checks}
        worse = (verdict for verdict in (Verdict.FAILURE, Verdict.WARNING) if verdict in found)
        return cls(verdict=next(worse, Verdict.OK), checks=checks)


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
