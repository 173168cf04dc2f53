"""The end of an attempt, or of the waiting for ACTIVE, with all that ends at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from provider_uploads.ledger.lease import Lease, lease_key
from provider_uploads.ledger.state import UploadState
from provider_uploads.ledger.steps import Command
from provider_uploads.ledger.upload_steps import LIVING, OPEN_KEY, change, row_key
from provider_uploads.lua import LuaScript
from provider_uploads.schemas import Copy, ProviderFile, Stage

_FINISH: Final = LuaScript("provider_uploads.ledger", "upload_functions", "upload_finish")


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result as Celery stores it: where, what, and for how many seconds."""

    key: str
    text: str
    kept_s: int


@dataclass(frozen=True, slots=True)
class Finish:
    """What ends together with an attempt, or with the waiting for ACTIVE, in one round trip.

    ``at`` is the time of the end on Redis's clock, where ``result`` has to name it.
    """

    at: float | None = None
    lease: Lease | None = None
    result: StoredResult | None = None

    def keys(self, ticket: str) -> list[str]:
        """Return the keys for ``upload_finish.lua``."""
        row = row_key(ticket)
        return [row, OPEN_KEY, lease_key(ticket), self.result.key if self.result else row]

    def args(self, change: str) -> list[Any]:
        """Return the arguments for ``upload_finish.lua``."""
        token, result = self.lease.token if self.lease else "", self.result
        return [change, token, *((result.text, result.kept_s) if result else ("", 0))]

    def command(self, ticket: str, change: str) -> Command:
        """Return the command that writes a change and ends the rest with it."""
        return _FINISH.command(self.keys(ticket), self.args(change))


def activation(
    row: UploadState,
    file: ProviderFile,
    at: float | None,
    *,
    reused: bool = False,
    polled: bool = False,
) -> str:
    """Return the change that records the good end of an upload, as ``upload_steps.change`` does.

    ``reused`` says that another upload sent the file, ``polled`` that one more poll is counted.
    """
    values = {"stage": str(Stage.ACTIVE), **sent(row, file)}
    if reused:
        values |= {"sent_bytes": "0", "reused": "1"}
    return change(
        (Stage.QUEUED,) if reused else LIVING,
        stamp={"ended_at": 0} | ({} if row.processing_at or reused else {"processing_at": 0}),
        values=values,
        unset=("session_url", "source_url", "note"),
        count=("polls",) if polled else (),
        at=at,
    )


def sent(row: UploadState, file: ProviderFile) -> dict[str, str]:
    """Return what a row says of an upload whose bytes the provider has."""
    return {
        "file": file.model_dump_json(),
        "sent_bytes": str(file.size_bytes if row.expected_bytes is None else row.expected_bytes),
        "size_bytes": str(file.size_bytes),
        "copy_at_provider": Copy.PRESENT,
    }
