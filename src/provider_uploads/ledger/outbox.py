"""The outbox: what is to be sent once an upload or a question has ended, until it was sent.

A hash under ``provider_uploads:outbox:<ticket>`` holds the notifications, written before the upload
itself, and how each delivery fares; a sorted set holds the tickets that have one to send, by the
time somebody last took care of them. A delivery is recorded once it was made: whoever receives may
see one twice, never none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Final, cast

from provider_uploads import protocol
from provider_uploads.errors import UnreadableStateError
from provider_uploads.ledger.connection import ROW_KEPT_S, Connection
from provider_uploads.ledger.steps import Command, Steps
from provider_uploads.schemas import Delivery, DeliveryState, Notification, stored

#: Tickets with something to send, now or when they have ended.
OUTBOX_KEY: Final = f"{protocol.KEY_PREFIX}outbox"


def writing(ticket: str, notifications: Sequence[Notification]) -> list[Command]:
    """Return the commands that write notifications down; none for none."""
    if not notifications:
        return []
    wanted = json.dumps([one.model_dump(mode="json") for one in notifications])
    return [
        ("HSET", key_of(ticket), "notifications", wanted),
        ("EXPIRE", key_of(ticket), ROW_KEPT_S),
        ("ZADD", OUTBOX_KEY, time.time(), ticket),
    ]


def forgetting(tickets: Sequence[str]) -> list[Command]:
    """Return the commands that take notifications back."""
    return [
        command
        for ticket in tickets
        for command in (("DEL", key_of(ticket)), ("ZREM", OUTBOX_KEY, ticket))
    ]


def deliveries(tickets: Sequence[str]) -> Steps[dict[str, tuple[Delivery, ...]]]:
    """Return how the notifications of these tickets fare."""
    if not tickets:
        return {}
    rows = yield [("HGETALL", key_of(ticket)) for ticket in tickets]
    return {
        ticket: tuple(_deliveries(ticket, fields))
        for ticket, fields in zip(tickets, rows, strict=True)
    }


class Outbox:
    """The notifications in a ledger's Redis; raises QueueUnavailableError as the ledger does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._redis = connection.redis

    def read(self, ticket: str) -> list[tuple[Notification, Delivery]]:
        """Return a ticket's notifications, each with how it fares."""
        with self._connection.reached():
            fields = cast("dict[str, str]", self._redis.hgetall(key_of(ticket)))
        return [*zip(_wanted(ticket, fields), _deliveries(ticket, fields), strict=True)]

    def record(self, ticket: str, index: int, delivery: Delivery) -> None:
        """Record how the delivery of a ticket's notification number ``index`` fares."""
        with self._connection.reached(), self._redis.pipeline() as pipe:
            pipe.hset(key_of(ticket), str(index), delivery.model_dump_json())
            pipe.zadd(OUTBOX_KEY, {ticket: time.time()}, xx=True)
            pipe.execute()

    def settled(self, ticket: str) -> None:
        """Record that nothing of a ticket is to be sent any more."""
        with self._connection.reached():
            self._redis.zrem(OUTBOX_KEY, ticket)

    def touch(self, tickets: Sequence[str]) -> None:
        """Record that somebody takes care of these tickets."""
        if tickets:
            now = time.time()
            with self._connection.reached():
                self._redis.zadd(OUTBOX_KEY, dict.fromkeys(tickets, now), xx=True)

    def unmoved(self, quiet_s: float, most: int = 10_000) -> list[str]:
        """Return the tickets nobody has taken care of for ``quiet_s`` seconds."""
        until = time.time() - quiet_s
        with self._connection.reached():
            found = self._redis.zrangebyscore(OUTBOX_KEY, 0, until, start=0, num=most)
        return [str(ticket) for ticket in found]

    def refused(self, most: int = 1000) -> dict[str, str]:
        """Return who did not take a notification that is still to be sent, and the last error.

        Of the ``most`` tickets that somebody took care of last.
        """
        with self._connection.reached():
            recent = self._redis.zrevrange(OUTBOX_KEY, 0, most - 1)
        found = self._connection.run(deliveries([str(ticket) for ticket in recent]))
        return {
            one.to: one.error
            for some in found.values()
            for one in some
            if one.state is DeliveryState.RETRYING and one.error
        }


def _wanted(ticket: str, fields: dict[str, str]) -> list[Notification]:
    wanted = _json(ticket, fields.get("notifications", "[]"))
    return [stored(Notification, f"outbox of {ticket}", one) for one in wanted]


def _deliveries(ticket: str, fields: dict[str, str]) -> list[Delivery]:
    return [
        stored(Delivery, f"outbox of {ticket}", _json(ticket, fields[str(index)]))
        if str(index) in fields
        else Delivery(to=one.to, state=DeliveryState.WAITING)
        for index, one in enumerate(_wanted(ticket, fields))
    ]


def _json(ticket: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise UnreadableStateError(f"outbox of {ticket}", "no JSON") from None


def key_of(ticket: str) -> str:
    """Return the key of a ticket's notifications."""
    return f"{OUTBOX_KEY}:{ticket}"
