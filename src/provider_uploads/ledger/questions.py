"""Questions in Redis, from asked to answered.

A question is a Redis hash under ``provider_uploads:question:<id>``. It names the uploads it waits
for by their tickets; their rows say when the files are ACTIVE.
"""

from __future__ import annotations

import json
import time
from typing import Final

from provider_uploads import errors, protocol
from provider_uploads.ledger.connection import ROW_KEPT_S, Connection
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.questions import Answer, Question
from provider_uploads.schemas import received

#: The questions without an end, by the time somebody last took care of them.
OPEN_KEY: Final = f"{protocol.KEY_PREFIX}open_questions"


class Questions:
    """The questions in a ledger's Redis; raises QueueUnavailableError as the ledger does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def open(self, question: Question) -> None:
        """Write a question down."""
        key = _key(question.question_id)
        with self._connection.reached(), self._connection.redis.pipeline() as pipe:
            pipe.hset(key, "question", question.model_dump_json())
            pipe.expire(key, ROW_KEPT_S)
            pipe.zadd(OPEN_KEY, {question.question_id: time.time()})
            pipe.execute()

    def read(self, ticket: str) -> tuple[Question, Answer | None]:
        """Return a question and its answer, if there is one by now.

        Raises UnknownTicketError, NewerPayloadError, or what ended it without an answer.
        """
        with self._connection.reached():
            fields = self._connection.redis.hgetall(_key(ticket))
        if "question" not in fields:
            raise errors.UnknownTicketError(ticket)
        if "error" in fields:
            raise errors.from_record(json.loads(fields["error"]))
        answer = fields.get("answer")
        return (
            received(Question, json.loads(fields["question"])),
            Answer.model_validate_json(answer) if answer else None,
        )

    def profile_of(self, ticket: str) -> str:
        """Return whose account a question is for; of one that nobody knows, the default."""
        with self._connection.reached():
            question = self._connection.redis.hget(_key(ticket), "question")
        return str(json.loads(question or "{}").get("profile", DEFAULT_PROFILE))

    def is_open(self, ticket: str) -> bool:
        """Whether there is a question under this ticket, without an end."""
        with self._connection.reached():
            return self._connection.redis.zscore(OPEN_KEY, ticket) is not None

    def answered(self, answer: Answer) -> None:
        """Record the good end."""
        self._end(answer.ticket, "answer", answer.model_dump_json())

    def failed(
        self, ticket: str, error: errors.ProviderUploadsError
    ) -> errors.ProviderUploadsError:
        """Record the bad end; return it."""
        self._end(ticket, "error", json.dumps(error.as_record()))
        return error

    def _end(self, ticket: str, field: str, value: str) -> None:
        with self._connection.reached(), self._connection.redis.pipeline() as pipe:
            pipe.hset(_key(ticket), field, value)
            pipe.expire(_key(ticket), ROW_KEPT_S)
            pipe.zrem(OPEN_KEY, ticket)
            pipe.execute()

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
