"""What a profile holds at its provider, so that no upload begins that would not fit.

A provider gives a project a number of bytes for all its files, and refuses uploads beyond it.
Every upload reserves its bytes here before it begins, and releases them when its file is deleted or
expires; what others put there is known from the last listing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final, cast

from provider_uploads import protocol
from provider_uploads.errors import NewerPayloadError, UnknownTicketError
from provider_uploads.ledger import upload_steps
from provider_uploads.ledger.deduplication import Deduplication
from provider_uploads.ledger.state import UploadState
from provider_uploads.ledger.steps import Command, commands
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.lua import LuaScript
from provider_uploads.protocol import KEPT_S
from provider_uploads.schemas import ProviderFile, Stage

_RELEASE: Final = LuaScript("provider_uploads.ledger", "storage_functions", "storage_release")

#: Files that one call reconciles, for about 10 ms of Redis's time (100,000 took half a second).
_PAGE = 2_000


@dataclass(frozen=True, slots=True)
class Reservation:
    """One of our files at the provider."""

    ticket: str
    size_bytes: int


class Storage:
    """Reservations of all profiles; thread-safe; raises QueueUnavailableError like the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._deduplication = Deduplication(ledger)
        self._reserve = ledger.script("storage_functions", "storage_reserve")
        self._reconcile = ledger.script("storage_functions", "storage_reconcile")
        self._held = ledger.script("storage_functions", "storage_held")

    def reserve(self, profile: str, ticket: str, size_bytes: int, limit_bytes: int) -> int:
        """Reserve bytes for an upload; return how many are missing, 0 when they are reserved.

        Twice is once.
        """
        with self._ledger.reached():
            missing = self._reserve(
                keys=storage_keys(profile), args=[ticket, size_bytes, limit_bytes, KEPT_S]
            )
        return int(missing)

    def release(self, profile: str, ticket: str) -> None:
        """Release an upload's reservation; twice is once."""
        self._ledger.run(commands([_releasing(profile, ticket)]))

    def deleted(self, row: UploadState, senders: Iterable[str]) -> None:
        """Record that nothing of an upload is at the provider, and release what it reserved.

        ``senders`` are the uploads, itself or others, that sent its files.
        """
        releasing = [_releasing(row.request.profile, ticket) for ticket in senders]
        self._ledger.run(commands([*releasing, upload_steps.deleting(row.request.upload_id)]))

    def held_bytes(self, profile: str) -> int:
        """Return what is held and under way, ours and others'."""
        with self._ledger.reached():
            return int(self._held(keys=storage_keys(profile), args=[]))

    def oldest(self, profile: str) -> list[Reservation]:
        """Return our files, those that expire first in front."""
        by_expiry, by_ticket = storage_keys(profile)
        with self._ledger.reached(), self._ledger.redis.pipeline(transaction=False) as pipe:
            pipe.zrange(by_expiry, 0, -1)
            pipe.hgetall(by_ticket)
            tickets, sizes = pipe.execute()
        return [Reservation(ticket, int(sizes[ticket])) for ticket in tickets if ticket in sizes]

    def evictable(self, profile: str, missing_bytes: int) -> list[UploadState]:
        """Return the oldest of our finished files whose deletion would free so many bytes.

        Files that are being deleted already count; files that other uploads share do not. Empty
        if evicting everything is insufficient.
        """
        found: list[UploadState] = []
        for holding in self.oldest(profile):
            if missing_bytes <= 0:
                break
            try:
                row = self._ledger.read(holding.ticket)
            except (UnknownTicketError, NewerPayloadError):
                continue
            if row.stage is not Stage.ACTIVE or row.file is None:
                continue
            if self._deduplication.shared(row.request.profile, row.file.name):
                continue
            if row.released_at is None:
                found.append(row)
            missing_bytes -= holding.size_bytes
        return found if missing_bytes <= 0 else []

    def reconcile(self, profile: str, files: Iterable[ProviderFile], listed_from: float) -> int:
        """Correct reservations by a listing begun at ``listed_from``; return the bytes reserved."""
        ours: dict[str, ProviderFile] = {}
        others_bytes = 0
        for file in files:
            label = protocol.upload_of(file.name) or protocol.upload_of(file.display_name or "")
            if label is None:
                others_bytes += file.size_bytes
            else:
                ours[label[0]] = file
        by_expiry, _ = storage_keys(profile)
        with self._ledger.reached():
            known = cast(
                "list[tuple[str, float]]",
                self._ledger.redis.zrange(by_expiry, 0, -1, withscores=True),
            )
        gone = [
            ticket
            for ticket, expires_at in known
            if ticket not in ours
            and expires_at - KEPT_S < listed_from
            and not self._ledger.living(ticket)
        ]
        changes: list[tuple[str, str | int, float]] = [(ticket, "", 0.0) for ticket in gone]
        for ticket, file in ours.items():
            expires_at = file.expires_at.timestamp() if file.expires_at else time.time() + KEPT_S
            changes.append((ticket, file.size_bytes, expires_at))
        keys = storage_keys(profile)
        with self._ledger.reached():
            self._ledger.redis.hset(keys[1], "others", others_bytes)
            for at in range(0, len(changes), _PAGE):
                self._reconcile(keys=keys, args=[*chain.from_iterable(changes[at : at + _PAGE])])
        return self.held_bytes(profile)


def _releasing(profile: str, ticket: str) -> Command:
    return _RELEASE.command(storage_keys(profile), [ticket])


def storage_keys(profile: str) -> list[str]:
    """Return the keys that ``storage_at`` of storage_functions.lua takes."""
    return [
        f"{protocol.KEY_PREFIX}stored:{profile}",
        f"{protocol.KEY_PREFIX}stored_bytes:{profile}",
    ]
