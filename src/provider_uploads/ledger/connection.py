"""The connections to Redis that the ledger and everything the fleet shares use."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple, cast

import redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from provider_uploads import errors
from provider_uploads.ledger.steps import Command, ResultT, Sleep, Steps
from provider_uploads.lua import LuaScript, read_script
from provider_uploads.protocol import KEPT_S
from provider_uploads.settings import without_secrets

#: A row outlives the provider's file by a day.
ROW_KEPT_S: Final = KEPT_S + 24 * 3600

#: Connections of an event loop that were closed, after which the next one has to work.
_MOST_CLOSED: Final = 2

#: Operations of an event loop that are carried out at once, each with a connection. The rest of a
#: crowd waits: it would have the loop compute for so long that answers are read too late.
_MOST_AT_WORK: Final = 32

#: Replies that an event loop parses before others have their turn: a few milliseconds.
_MOST_PARSED: Final = 100


class Connection:
    """One Redis; thread-safe.

    Whatever uses it raises QueueUnavailableError when Redis cannot be reached or does not answer
    within ``timeout_s`` seconds, UnreadableStateError for a key that holds what is not ours.
    """

    def __init__(self, url: str, *, timeout_s: float = 2.0) -> None:
        self.server = without_secrets(url)
        self.redis = redis.Redis.from_url(
            url,
            decode_responses=True,
            encoding_errors="surrogateescape",  # what is no text is read all the same
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # One a thread, as many as there are: redis-py 8 refuses the 101st.
            max_connections=2**31,
            # Trying again is the caller's decision, and it has a deadline.
            retry=Retry(NoBackoff(), 0),
        )
        self._has_answered = False

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()

    def script(self, *names: str) -> Script:
        """Return a script of the ledger's own ``.lua`` files."""
        return self.redis.register_script(read_script("provider_uploads.ledger", *names))

    def now(self) -> float:
        """Return the time on Redis's clock, in seconds since 1970."""
        with self.reached():
            seconds, micros = self.redis.time()
        return float(seconds + micros / 1e6)

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Turn what redis-py raises into errors of ours."""
        try:
            yield
        except (RedisError, OSError) as error:
            raise explained(self.server, error) from error

    def run(self, steps: Steps[ResultT]) -> ResultT:
        """Carry out an operation, each batch of commands in one round trip."""
        try:
            wanted = next(steps)
            while True:
                if isinstance(wanted, Sleep):
                    time.sleep(wanted.seconds)
                    wanted = steps.send([])
                    continue
                try:
                    replies = self._send(wanted)
                except (RedisError, OSError) as error:
                    wanted = steps.throw(explained(self.server, error, passing=self._has_answered))
                else:
                    wanted = steps.send(replies)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        if len(commands) == 1:  # a pipeline of one costs more
            replies = [self._reply(commands[0])]
        else:
            with self.redis.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)  # type: ignore[no-untyped-call]
                replies = pipe.execute(raise_on_error=False)
        unknown = _without_script(replies)
        for sha in {commands[i][1] for i in unknown}:
            self.redis.script_load(LuaScript.texts[sha])
        for i in unknown:
            replies[i] = self.redis.execute_command(*commands[i])  # type: ignore[no-untyped-call]
        _checked(replies)
        self._has_answered = True
        return replies

    def _reply(self, command: Command) -> Any:
        try:
            return self.redis.execute_command(*command)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            return error


class AsyncConnection:
    """One Redis, for the tasks of one event loop; raises as ``Connection`` does."""

    def __init__(self, url: str, *, timeout_s: float = 2.0) -> None:
        self.server = without_secrets(url)
        self.redis: AsyncRedis = AsyncRedis.from_url(
            url,
            decode_responses=True,
            encoding_errors="surrogateescape",  # what is no text is read all the same
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            max_connections=2**31,  # those are counted here
            retry=AsyncRetry(NoBackoff(), 0),
        )
        self._timeout_s = timeout_s
        self._has_answered = False
        self._turns = asyncio.Semaphore(_MOST_AT_WORK)
        self._answered_at = 0.0
        self._sending: set[asyncio.Task[list[Any]]] = set()

    async def close(self) -> None:
        """Close the connections, once what is under way has been answered."""
        await asyncio.gather(*self._sending, return_exceptions=True)
        await closed(self.redis)

    async def run(self, steps: Steps[ResultT], *, many: bool = False) -> ResultT:
        """Carry out an operation, each batch of commands in one round trip.

        With ``many``, what it computes between two round trips is computed in a thread.
        """
        step: Callable[[Any], Any] = steps.send
        sent: Any = None
        in_turn = False
        try:
            while True:
                if not in_turn:
                    try:
                        await self._turn()
                        in_turn = True
                    except RedisTimeoutError as error:
                        known = self._has_answered
                        step, sent = steps.throw, explained(self.server, error, passing=known)
                wanted = await asyncio.to_thread(_next, step, sent) if many else _next(step, sent)
                if isinstance(wanted, _End):
                    return cast(ResultT, wanted.value)
                if isinstance(wanted, Sleep):
                    if in_turn:
                        self._turns.release()
                        in_turn = False
                    await asyncio.sleep(wanted.seconds)
                    step, sent = steps.send, []
                    continue
                try:
                    step, sent = steps.send, await self._uncancelled(wanted)
                except (RedisError, OSError) as error:
                    known = self._has_answered
                    step, sent = steps.throw, explained(self.server, error, passing=known)
        finally:
            if in_turn:
                self._turns.release()

    async def _turn(self) -> None:
        """Wait behind a crowd: so long as Redis answers somebody, that is no outage."""
        begun_at = time.monotonic()
        await self._turns.acquire()
        # Those before had no answer either; each of them had its own time for it.
        if time.monotonic() - max(begun_at, self._answered_at) > self._timeout_s / 2:
            self._turns.release()
            raise RedisTimeoutError("no answer to anybody")

    async def _uncancelled(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and read all replies, also when whoever waits for them is cancelled.

        Web apps cancel a request whose browser has left. A connection with a reply that nobody
        read would give it to the next caller: redis-py before 4.5.4 does (CVE-2023-28859), later
        ones close the connection.
        """
        task = asyncio.ensure_future(self._send(commands))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return await asyncio.shield(task)

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = []
        # A slice at a time: the replies to thousands would be parsed in one go.
        for start in range(0, len(commands), _MOST_PARSED):
            replies += await self._answered(commands[start : start + _MOST_PARSED])
        return replies

    async def _answered(self, commands: Sequence[Command]) -> list[Any]:
        try:
            # In all: several versions of redis-py connect one after another, each for that long.
            async with asyncio.timeout(self._timeout_s) as limit:
                for _ in range(_MOST_CLOSED):
                    with suppress(RedisConnectionError):
                        return await self._exchange(commands)
                    if limit.expired():
                        break
                    # A connection that Redis closed, as it does when it restarts, is only noticed
                    # when it is used; redis-py's threads notice it before. The idle ones went too.
                    await self.redis.connection_pool.disconnect(inuse_connections=False)
                return await self._exchange(commands)
        except TimeoutError:
            raise RedisTimeoutError("no answer in time") from None

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        async with self.redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
        self._answered_at = time.monotonic()
        unknown = _without_script(replies)
        for sha in {commands[i][1] for i in unknown}:
            await self.redis.script_load(LuaScript.texts[sha])
        for i in unknown:
            replies[i] = await self.redis.execute_command(*commands[i])  # type: ignore[no-untyped-call]
        _checked(replies)
        self._has_answered = True
        return replies


#: What Redis says when it refuses whatever is asked of it: full, a replica since a failover,
#: without its disk or its replicas, busy, or closed to us. From a script it comes after a dash.
_REFUSAL: Final = re.compile(
    r"(?:^|-)(OOM|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|LOADING|BUSY|MISCONF|NOREPLICAS"
    r"|NOPERM|NOAUTH|WRONGPASS|UNBLOCKED)\b"
    r"|ACL failure in script"  # since Redis 7, without a word of its own
)
#: The same, where redis-py has a class for it and leaves out the word; old ones have fewer.
_REFUSALS: Final = tuple(
    getattr(redis.exceptions, name)
    for name in (
        *("OutOfMemoryError", "ReadOnlyError", "MasterDownError", "ClusterDownError"),
        *("TryAgainError", "NoPermissionError", "ExecAbortError"),
    )
    if hasattr(redis.exceptions, name)
)


def away(error: Exception) -> bool:
    """Whether an error says something about Redis, and nothing about what was asked of it.

    Then the same call may succeed later. Anything else will fail again, however often it is tried.
    """
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError, *_REFUSALS)):
        return True
    return isinstance(error, redis.ResponseError) and bool(_REFUSAL.search(str(error)))


def _word(refusal: re.Match[str]) -> str:
    return refusal[1] or "NOPERM"


def explained(
    server: str, error: Exception, *, passing: bool = False
) -> errors.ProviderUploadsError:
    """Return the error of ours for what redis-py raised."""
    if away(error):
        word = _REFUSAL.search(str(error))
        reason = _word(word) if word else type(error).__name__
        return errors.QueueUnavailableError(server, reason, passing=passing)
    if "DB index" in str(error):
        return errors.ConfigurationError(
            f"PROVIDER_UPLOADS_REDIS_URL: Redis at {server} has no database of that number. "
            "Use a smaller one after the last slash, such as /0."
        )
    return errors.UnreadableStateError(server, f"{type(error).__name__}: {error}"[:200])


def outage(server: str, error: Exception) -> errors.QueueUnavailableError:
    """Return what those are told who wait for Redis, whatever took their connection from them."""
    if isinstance(error, errors.QueueUnavailableError):
        return error
    return errors.QueueUnavailableError(server, type(error).__name__)


class _End(NamedTuple):
    """The end of an operation."""

    value: Any


def _next(step: Callable[[Any], Any], sent: Any) -> Any:
    """Take a step, or return the end: no future can hold a StopIteration."""
    try:
        return step(sent)
    except StopIteration as done:
        return _End(done.value)


async def closed(client: Any) -> None:
    """Close an asynchronous client or subscription."""
    # Named aclose since redis-py 5.0.1, where close is deprecated.
    await getattr(client, "aclose", client.close)()


def _without_script(replies: Sequence[Any]) -> list[int]:
    """Return which commands a new Redis, or one that was restarted, did not know."""
    return [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]


def _checked(replies: list[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
