"""What is right with a set-up, what is wrong with it, and what to do about that.

    machine     this machine: packages, keys, folders, Flower
    server      Redis: reachable, and keeps what it is given
    workers     who runs, whether their settings agree, clocks
    work        queues, the oldest upload, the sweep, outages
    limits      tiers, cool-downs, storage

A check is a function of a CheckContext that yields Checks, and a line in ``CHECKS``. One that
raises becomes a line itself; all run at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from functools import partial
from urllib.parse import urlsplit

from redis.exceptions import ResponseError

from provider_uploads.background import begin
from provider_uploads.doctor import limits, machine, server, work, workers
from provider_uploads.doctor.check import Check, Examination, Verdict, failure, note
from provider_uploads.doctor.context import CheckContext
from provider_uploads.errors import (
    ConfigurationError,
    QueueUnavailableError,
    UnreadableStateError,
)
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.providers.capabilities import MODEL_PROVIDER
from provider_uploads.settings import Settings, settings

__all__ = ["CHECKS", "Check", "Examination", "Verdict", "examine"]

Checks = tuple[tuple[str, Callable[[CheckContext], Iterable[Check]]], ...]

#: By the name that stands for a check which could not be made, in the order of the lines.
CHECKS: Checks = (
    ("packages", lambda here: machine.packages()),
    ("profiles", machine.profiles),
    ("roots", machine.roots),
    ("staging", machine.staging),
    ("redis", server.reached),
    ("persistence", server.persistence),
    ("eviction", server.eviction),
    ("memory", server.memory),
    ("clock", workers.clocks),
    ("workers", workers.alive),
    ("agreement", workers.agreement),
    ("renewal", workers.renewal),
    ("queues", work.queues),
    ("uploads", work.oldest),
    ("parked", work.parked_polls),
    ("batches", work.batches),
    ("sweep", work.swept),
    ("unreadable", work.unreadable),
    ("callbacks", work.notifications),
    ("breaker", work.breakers),
    ("tiers", limits.tiers),
    ("storage", limits.storage),
    ("flower", machine.flower),
)

_HANGS = "Something it needs hangs: a network mount, or a server that accepts and is silent."
_NOT_OURS = "If another application writes there, give each a database of its own."
_REFUSED = "Correct what it names, or ask whoever runs Redis; its log may say more."
#: Shorter secrets are words, which may stand in any sentence.
_LEAST_SECRET = 8


def examine(checks: Checks = CHECKS, *, most_s: float = 10.0) -> Examination:
    """Make all checks, from the settings of this process; takes 1 to 5 s, ``most_s`` at most.

    Raises nothing: what is wrong is a Check. Writes a copy to the staging place and removes it.
    """
    try:
        here = CheckContext.of(settings())
    except ConfigurationError as error:
        wrong = failure("settings", str(error), "Nothing else was checked.")
        return Examination.of([*machine.packages(), wrong])
    begun = [(name, begin(partial(_made, check, here))) for name, check in checks]
    deadline = time.monotonic() + most_s
    found: list[Check] = []
    without_redis: list[str] = []
    for name, future in begun:
        wait([future], timeout=max(deadline - time.monotonic(), 0))
        try:
            found += _outcome(name, future)
        except QueueUnavailableError as error:
            if isinstance(error.__cause__, ResponseError):
                found.append(failure(name, f"Redis refuses: {error.__cause__}", _REFUSED))
            else:
                without_redis.append(name)
    if without_redis:
        names = ", ".join(without_redis)
        if here.info.done() and here.info.exception() is None:
            found.append(failure("not checked", f"Redis answers no more: {names}", _REFUSED))
        else:
            found.append(note("not checked", f"needs Redis: {names}"))
    here.ledger.close()
    secrets = _secrets(here.settings)
    return Examination.of(_masked(check, secrets) for check in found)


def _made(check: Callable[[CheckContext], Iterable[Check]], here: CheckContext) -> list[Check]:
    return [*check(here)]


def _outcome(name: str, future: Future[list[Check]]) -> list[Check]:
    """Return what a check found, or what became of it; raises QueueUnavailableError."""
    if not future.done():
        return [failure(name, "no answer in time", _HANGS)]
    try:
        return future.result()
    except QueueUnavailableError:
        raise
    except UnreadableStateError as error:
        return [failure(name, str(error), _NOT_OURS)]
    except Exception as error:  # the other checks are still worth showing
        problem = f"the check itself failed: {type(error).__name__}: {error}"
        return [failure(name, problem, "That is a fault of ours: please report this line.")]


def _secrets(here: Settings) -> list[str]:
    """Return what must not be shown, wherever a message may have it from."""
    accounts = [here.profile(name) for name in (DEFAULT_PROFILE, *here.profiles)]
    held = [account.api_key for account in accounts]
    headers = [item for account in accounts for item in account.headers.items()]
    held += [value for name, value in headers if name != MODEL_PROVIDER]
    found = [value.get_secret_value() for value in held if value is not None]
    found.append(urlsplit(here.redis_url).password or "")
    return sorted((one for one in found if len(one) >= _LEAST_SECRET), key=len, reverse=True)


def _masked(check: Check, secrets: list[str]) -> Check:
    says, remedy = check.says, check.remedy
    for secret in secrets:
        says, remedy = says.replace(secret, "***"), remedy.replace(secret, "***")
    return check.model_copy(update={"says": says, "remedy": remedy})
