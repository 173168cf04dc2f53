"""Parked polls: the next polls of uploads that are PROCESSING, where many of a profile wait.

    provider_uploads:parked                      the profiles that have had any
    provider_uploads:parked:<profile>            tickets by the time of their next poll
    provider_uploads:parked:<profile>:last       tickets by the time of their last poll
    provider_uploads:parked:<profile>:facts      seconds between polls and the file's name
    provider_uploads:parked:<profile>:messages   the message of that poll
    provider_uploads:parked:<profile>:few        those that wait by countdown, as long as few do
    provider_uploads:watcher:<profile>           who watches the parked ones, for ten seconds
    provider_uploads:seen:<ticket>               the file as a watcher saw it, for a minute

A ticket leaves by one script, which also puts its message into the queue. Nothing of this is in
the upload's row, which older workers read, and the message is one that they can handle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from provider_uploads import errors, protocol
from provider_uploads.ledger.connection import ROW_KEPT_S
from provider_uploads.ledger.finish import Finish, activation
from provider_uploads.ledger.state import UploadState
from provider_uploads.ledger.steps import Command, Steps, reply
from provider_uploads.ledger.upload_steps import row_key
from provider_uploads.lua import LuaScript
from provider_uploads.schemas import ProviderFile, Stage

_PROFILES: Final = f"{protocol.KEY_PREFIX}parked"
_QUEUE: Final = f"{protocol.KEY_PREFIX}{protocol.CONTROL_QUEUE}"
#: Tickets in one command.
_PAGE: Final = 500

#: The scripts; tests kill workers before and after each.
PARK: Final = LuaScript("provider_uploads.ledger", "parked_park")
WAKE: Final = LuaScript("provider_uploads.ledger", "parked_functions", "parked_wake")


@dataclass(frozen=True, slots=True)
class Overview:
    """A profile's parked polls; times are seconds since 1970 on Redis's clock."""

    now: float
    parked: int
    #: When the first of them is due, and the first last poll.
    next_at: float
    last_at: float


@dataclass(slots=True)
class ParkedFile:
    """A file that somebody waits for; its next poll is due at ``due_at``."""

    ticket: str
    due_at: float
    #: Seconds between its polls now.
    wait_s: float
    name: str


def park(row: UploadState, message: str, wait_s: float, *, park_from: int) -> Steps[bool]:
    """Park a row's next poll, due in ``wait_s`` seconds, if so many of its profile wait.

    Without a message, only say whether they do; one that is not parked is counted among the few.
    The row is as its last claim returned it: one that has moved on since is not parked.
    """
    if row.file is None:
        return False
    ticket, profile = row.request.upload_id, row.request.profile
    claimed = "" if row.claimed_poll < 0 else row.claimed_poll
    key = _key(profile)
    command = PARK.command(
        [*_keys(profile), f"{key}:few", _PROFILES, row_key(ticket)],
        [
            *(ticket, profile, wait_s, claimed, row.delivery_tag or "", park_from),
            *(f"{wait_s:.3f} {row.file.name}", message, ROW_KEPT_S),
        ],
    )
    return bool((yield from reply(command)))


def wake(
    profile: str, tickets: Sequence[str], seen: Mapping[str, ProviderFile] = {}, seen_s: int = 60
) -> Steps[int]:
    """Send the polls of those tickets that are parked, at once; return how many.

    ``seen`` are files by ticket as the provider has just described them, kept for ``seen_s``
    seconds: those polls need no request.
    """
    sent = 0
    for start in range(0, len(tickets), _PAGE):
        some = tickets[start : start + _PAGE]
        args: list[Any] = [seen_s]
        for ticket in some:
            args += [ticket, seen[ticket].model_dump_json() if ticket in seen else ""]
        keys = [*_keys(profile), _QUEUE, *map(seen_key, some)]
        sent += yield from reply(WAKE.command(keys, args))
    return sent


def wake_last(profile: str, until: float) -> Steps[int]:
    """Send all polls that are their uploads' last and due by ``until``; return how many."""
    sent = 0
    command = (
        *("ZRANGEBYSCORE", f"{_key(profile)}:last", "-inf", f"{until:.6f}"),
        *("LIMIT", 0, _PAGE),
    )
    while some := [*map(str, (yield from reply(command)))]:
        sent += yield from wake(profile, some)
    return sent


def postpone(profile: str, due_at: Mapping[str, float]) -> Steps[None]:
    """Put the next polls of tickets off; those that are no longer parked stay so."""
    if due_at:
        flat = [part for ticket, at in due_at.items() for part in (f"{at:.3f}", ticket)]
        yield [("ZADD", _key(profile), "XX", *flat)]


def processing(tickets: Sequence[str]) -> Steps[tuple[float, dict[str, UploadState]]]:
    """Return Redis's time, and the rows of those uploads that wait and can be read here."""
    (seconds, micros), *rows = yield [
        ("TIME",),
        *(("HGETALL", row_key(ticket)) for ticket in tickets),
    ]
    waiting: dict[str, UploadState] = {}
    for ticket, fields in zip(tickets, rows, strict=True):
        if fields and fields.get("stage") == Stage.PROCESSING:
            with suppress(errors.NewerRowError, errors.UnreadableStateError):
                waiting[ticket] = UploadState.of(ticket, fields)
    return seconds + micros / 1e6, waiting


def settle(profile: str, ends: Sequence[tuple[UploadState, Finish]]) -> Steps[set[str]]:
    """Record the good ends of uploads, with the results of all; they are parked no longer.

    Each row is as it ends. Returns the tickets; the others have ended otherwise meanwhile. Whoever
    dies in between leaves ended uploads parked, whose polls do nothing.
    """
    ended: set[str] = set()
    for start in range(0, len(ends), _PAGE):
        some = ends[start : start + _PAGE]
        commands = []
        for row, finish in some:
            if row.file is None:
                raise ValueError("an upload that waits has a file")
            wanted = activation(row, row.file, finish.at, polled=True)
            commands.append(finish.command(row.request.upload_id, wanted))
        answers = yield commands
        done = [
            row.request.upload_id
            for (row, _), at in zip(some, answers, strict=True)
            if at is not None
        ]
        if done:
            key, last, facts, texts = _keys(profile)
            yield [
                *(("ZREM", where, *done) for where in (key, last)),
                *(("HDEL", where, *done) for where in (facts, texts)),
            ]
        ended.update(done)
    return ended


# -- what is parked --------------------------------------------------------------------------------


def profiles() -> Steps[list[str]]:
    """Return the profiles that have had parked polls."""
    return sorted(map(str, (yield from reply(("SMEMBERS", _PROFILES)))))


def overview(profile: str) -> Steps[Overview]:
    """Return how many polls are parked, and when the first ones are due."""
    key = _key(profile)
    (seconds, micros), parked, *first = yield [
        ("TIME",),
        ("ZCARD", key),
        ("ZRANGE", key, 0, 0, "WITHSCORES"),
        ("ZRANGE", f"{key}:last", 0, 0, "WITHSCORES"),
    ]
    next_at, last_at = (next((at for _, at in _scored(one)), math.inf) for one in first)
    return Overview(seconds + micros / 1e6, int(parked), next_at, last_at)


def due(profile: str, until: float, most: int) -> Steps[list[str]]:
    """Return tickets whose next poll is due by ``until``, the longest overdue first."""
    command = ("ZRANGEBYSCORE", _key(profile), "-inf", f"{until:.6f}", "LIMIT", 0, most)
    return [*map(str, (yield from reply(command)))]


def files(profile: str, known: Mapping[str, ParkedFile] = {}) -> Steps[dict[str, ParkedFile]]:
    """Return the parked files by the provider's name; ``known`` are those of the last time."""
    scored = _scored((yield from reply(("ZRANGE", _key(profile), 0, -1, "WITHSCORES"))))
    names = {one.ticket: name for name, one in known.items()}
    found: dict[str, ParkedFile] = {}
    new: list[tuple[str, float]] = []
    for ticket, at in scored:
        if ticket in names:
            one = found[names[ticket]] = known[names[ticket]]
            one.due_at = at
        else:
            new.append((ticket, at))
    for start in range(0, len(new), _PAGE):
        some = new[start : start + _PAGE]
        command: Command = ("HMGET", f"{_key(profile)}:facts", *(ticket for ticket, _ in some))
        for (ticket, at), facts in zip(some, (yield from reply(command)), strict=True):
            if facts is not None:  # else it has left in between
                one = _file(ticket, at, str(facts))
                found[one.name] = one
    return found


def _file(ticket: str, at: float, facts: str) -> ParkedFile:
    """Return what is known of a file; no list has one of which nothing can be read."""
    wait_s, _, name = facts.partition(" ")
    try:
        return ParkedFile(ticket, at, float(wait_s), name or ticket)
    except ValueError:
        return ParkedFile(ticket, at, 0.0, ticket)


def tickets() -> Steps[set[str]]:
    """Return all parked tickets."""
    found: set[str] = set()
    for profile in (yield from profiles()):
        found.update(map(str, (yield from reply(("ZRANGE", _key(profile), 0, -1)))))
    return found


def overdue(profile: str, quiet_s: float, most: int = _PAGE) -> Steps[list[str]]:
    """Return tickets whose poll has been due for so many seconds, where nobody watches."""
    watcher, (seconds, _) = yield [("GET", watcher_key(profile)), ("TIME",)]
    return [] if watcher else (yield from due(profile, seconds - quiet_s, most))


def sample(profile: str, most: int = _PAGE) -> Steps[list[str]]:
    """Return some parked tickets, others each time."""
    return [*map(str, (yield from reply(("ZRANDMEMBER", _key(profile), most))))]


def counts() -> Steps[dict[str, tuple[int, str]]]:
    """Return, for each profile with parked polls, how many, and who watches them ('': nobody)."""
    found: dict[str, tuple[int, str]] = {}
    for profile in (yield from profiles()):
        count, watcher = yield [("ZCARD", _key(profile)), ("GET", watcher_key(profile))]
        if count:
            found[profile] = (int(count), str(watcher or "").partition(" ")[0])
    return found


def watcher_key(profile: str) -> str:
    """Return the key of the lock that a profile's watcher holds; its value begins with who."""
    return f"{protocol.KEY_PREFIX}watcher:{profile}"


def _scored(flat: Sequence[Any]) -> list[tuple[str, float]]:
    """Return members with their scores, whichever way redis-py gives them."""
    if flat and isinstance(flat[0], list | tuple):
        return [(str(member), float(score)) for member, score in flat]
    return [(str(m), float(s)) for m, s in zip(flat[::2], flat[1::2], strict=True)]


def _key(profile: str) -> str:
    return f"{_PROFILES}:{profile}"


def _keys(profile: str) -> list[str]:
    key = _key(profile)
    return [key, f"{key}:last", f"{key}:facts", f"{key}:messages"]


def seen_key(ticket: str) -> str:
    """Return the key of what a watcher saw of a ticket's file."""
    return f"{protocol.KEY_PREFIX}seen:{ticket}"
