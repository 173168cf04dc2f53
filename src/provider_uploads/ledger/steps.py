"""What is asked of Redis, apart from how it is sent.

An operation is a generator: it yields a batch of commands, gets their replies, and so on to its
result. ``Connection.run`` and ``AsyncConnection.run`` carry it out, each batch in one round trip,
so that web apps with threads and with an event loop run the same operations.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

#: A command as redis-py's ``execute_command`` takes it: ``("HGETALL", key)``.
Command: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Sleep:
    """Go on after so many seconds."""

    seconds: float


ResultT = TypeVar("ResultT")

#: Whoever carries it out throws QueueUnavailableError into it when Redis cannot be reached.
Steps: TypeAlias = Generator[Sequence[Command] | Sleep, list[Any], ResultT]


def commands(batch: Sequence[Command]) -> Steps[list[Any]]:
    """Send commands; return their replies."""
    return (yield batch)


def reply(command: Command) -> Steps[Any]:
    """Send one command; return its reply."""
    (answer,) = yield [command]
    return answer
