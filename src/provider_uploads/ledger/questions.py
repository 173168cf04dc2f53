"""Questions in Redis, from asked to answered.

A question is a Redis hash under ``provider_uploads:question:<id>``. It names the uploads it waits
for by their tickets; their rows say when the files are ACTIVE.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Final, cast

from provider_uploads import errors, protocol
from provider_uploads.ledger.connection import ROW_KEPT_S, Connection
from provider_uploads.ledger.finish import StoredResult
from provider_uploads.ledger.lease import Lease, lease_key
from provider_uploads.ledger.steps import Command, Steps, reply
from provider_uploads.lua import LuaScript
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.questions import Answer, Question
from provider_uploads.schemas import stored

_FINISH: Final = LuaScript("provider_uploads.ledger", "question_finish")

#: The questions without an end, by the time somebody last took care of them.
OPEN_KEY: Final = f"{protocol.KEY_PREFIX}open_questions"


def opening(question: Question) -> list[Command]:
    """Return the commands that write a question down."""
    key = _key(question.question_id)
    return [
        ("HSET", key, "question", question.to_json()),
        ("EXPIRE", key, ROW_KEPT_S),
        ("ZADD", OPEN_KEY, time.time(), question.question_id),
    ]


def read(ticket: str) -> Steps[tuple[Question, Answer | None]]:
    """Return a question and its answer, if there is one by now; raise what ended it."""
    try:
        fields = yield from reply(("HGETALL", _key(ticket)))
    except errors.UnreadableStateError as error:
        raise errors.UnreadableStateError(f"question {ticket}", error.problem) from None
    if "question" not in fields:
        raise errors.UnknownTicketError(ticket, "question")
    if "error" in fields:
        raise errors.from_record(_json(ticket, fields["error"]))
    asked, answered = _json(ticket, fields["question"]), fields.get("answer")
    if (asked.get("version") or 0) > protocol.PAYLOAD_VERSION:
        raise errors.NewerRowError(f"question {ticket}", f"version {asked['version']}")
    return (
        stored(Question, f"question {ticket}", asked),
        stored(Answer, f"question {ticket}", _json(ticket, answered)) if answered else None,
    )


def _json(ticket: str, text: str) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", dict(json.loads(text)))
    except (ValueError, TypeError):
        raise errors.UnreadableStateError(f"question {ticket}", "no JSON object") from None


class Questions:
    """The questions in a ledger's Redis; raises QueueUnavailableError as the ledger does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self, ticket: str) -> tuple[Question, Answer | None]:
        """Return a question and its answer, if there is one by now.

        Raises UnknownTicketError, NewerRowError, UnreadableStateError, or what ended it without
        an answer.
        """
        return self._connection.run(read(ticket))

    def profile_of(self, ticket: str) -> str:
        """Return whose account a question is for; of one that nobody knows, the default."""
        return str(self._question(ticket).get("profile", DEFAULT_PROFILE))

    def notifies(self, ticket: str) -> bool:
        """Whether somebody is to be told of a question's end."""
        return bool(self._question(ticket).get("notify"))

    def _question(self, ticket: str) -> dict[str, Any]:
        """Return a question as it was written, whoever wrote it."""
        with self._connection.reached():
            question = self._connection.redis.hget(_key(ticket), "question")
        return _json(ticket, str(question or "{}"))

    def is_open(self, ticket: str) -> bool:
        """Whether there is a question under this ticket, without an end."""
        with self._connection.reached():
            return self._connection.redis.zscore(OPEN_KEY, ticket) is not None

    def open_among(self, tickets: Sequence[str]) -> set[str]:
        """Return those that are questions without an end."""
        with self._connection.reached():
            found = self._connection.redis.zmscore(OPEN_KEY, [*tickets]) if tickets else []
        return {ticket for ticket, at in zip(tickets, found, strict=True) if at is not None}

    def answered(self, answer: Answer, lease: Lease, result: StoredResult) -> Answer:
        """Record the good end, with Celery's result, and give the lease back; return the answer.

        Where it had ended before, what counts is that: its answer, or raises what ended it.
        """
        text = answer.model_dump_json()
        first = self._end(answer.ticket, "answer", text, lease.token, result)
        lease.released()
        return answer if first else self.read(answer.ticket)[1] or answer

    def failed(
        self, ticket: str, error: errors.ProviderUploadsError
    ) -> errors.ProviderUploadsError:
        """Record the bad end, unless it has one; return it."""
        self._end(ticket, "error", json.dumps(error.as_record()))
        return error

    def _end(
        self,
        ticket: str,
        field: str,
        value: str,
        token: str = "",
        result: StoredResult | None = None,
    ) -> bool:
        """Write an end down; return whether it is the first."""
        key = _key(ticket)
        keys = [key, OPEN_KEY, lease_key(ticket), result.key if result else key]
        stored_ = (result.text, result.kept_s) if result else ("", 0)
        command = _FINISH.command(keys, [ticket, field, value, ROW_KEPT_S, token, *stored_])
        return bool(self._connection.run(reply(command)))

    def unmoved(self, quiet_s: float, most: int = 10_000) -> list[str]:
        """Return questions without an end that nobody has touched for ``quiet_s`` seconds."""
        until = time.time() - quiet_s
        with self._connection.reached():
            return [
                str(ticket)
                for ticket in self._connection.redis.zrangebyscore(
                    OPEN_KEY, 0, until, start=0, num=most
                )
            ]

    def touch(self, ticket: str) -> None:
        """Record that somebody takes care of it."""
        with self._connection.reached():
            self._connection.redis.zadd(OPEN_KEY, {ticket: time.time()}, xx=True)

    def forget(self, ticket: str) -> None:
        """Take a question off the list of those without an end."""
        with self._connection.reached():
            self._connection.redis.zrem(OPEN_KEY, ticket)

    def attempt_failed(self, ticket: str) -> int:
        """Count a try that failed; return how many there are."""
        with self._connection.reached():
            return int(self._connection.redis.hincrby(_key(ticket), "stumbles", 1))


def _key(ticket: str) -> str:
    return f"{protocol.KEY_PREFIX}question:{ticket}"
