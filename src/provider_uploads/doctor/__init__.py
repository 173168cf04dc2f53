"""What is right with a set-up, what is wrong with it, and what to do about that.

    machine     this machine: packages, keys, folders, Flower
    server      Redis: reachable, and keeps what it is given
    workers     who runs, whether they are of one mind, clocks
    work        queues, the oldest upload, the sweep, outages

A check is a function of the surroundings that yields Checks, and a line in ``CHECKS``. One that
raises becomes a line itself; all run at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from urllib.parse import urlsplit

from redis.exceptions import ResponseError

from provider_uploads.doctor import machine, server, work, workers
from provider_uploads.doctor.check import Check, Examination, Verdict, failure, note
from provider_uploads.doctor.surroundings import Surroundings, begin
from provider_uploads.errors import ConfigurationError, QueueUnavailableError
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.settings import Settings, settings

__all__ = ["CHECKS", "Check", "Examination", "Verdict", "examine"]

#: By the name that stands for a check which could not be made, in the order of the lines.
CHECKS: tuple[tuple[str, Callable[[Surroundings], Iterable[Check]]], ...] = (
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
    ("sweep", work.swept),
    ("breaker", work.breakers),
    ("flower", machine.flower),
)

#: Whoever has not answered by then, such as a dead mount, is not waited for.
_MOST_S = 10.0
#: Shorter secrets are words, which may stand in any sentence.
_LEAST_SECRET = 8


def examine() -> Examination:
    """Make all checks, from the settings of this process; takes 1 to 3 s, at most 10.

    Raises nothing: what is wrong is a Check. Writes a copy to the staging place and removes it.
    """
    try:
        here = Surroundings.of(settings())
    except ConfigurationError as error:
        wrong = failure("settings", str(error), "Nothing else was checked.")
        return Examination(checks=(*machine.packages(), wrong))
    begun = [(name, begin(lambda check=check: [*check(here)])) for name, check in CHECKS]  # type: ignore[misc]
    deadline = time.monotonic() + _MOST_S
    found: list[Check] = []
    without_redis: list[str] = []
    for name, future in begun:
        wait([future], timeout=max(deadline - time.monotonic(), 0))
        try:
            found += _outcome(name, future)
        except QueueUnavailableError:
            without_redis.append(name)
    if without_redis:
        found.append(note("not checked", f"needs Redis: {', '.join(without_redis)}"))
    here.ledger.close()
    return Examination(checks=tuple(_masked(check, _secrets(here.settings)) for check in found))


def _outcome(name: str, future: Future[list[Check]]) -> list[Check]:
    """Return what a check found, or what became of it; raises QueueUnavailableError."""
    if not future.done():
        remedy = (
            "Something it needs hangs: a network mount, or a server that accepts and is silent."
        )
        return [failure(name, f"no answer within {_MOST_S:g} s", remedy)]
    try:
        return future.result()
    except QueueUnavailableError:
        raise
    except ResponseError as error:
        remedy = "Allow it to the user of PROVIDER_UPLOADS_REDIS_URL, or ask whoever runs Redis."
        return [failure(name, f"Redis refuses: {error}", remedy)]
    except Exception as error:
        problem = f"the check itself failed: {type(error).__name__}: {error}"
        return [failure(name, problem, "That is a fault of ours: please report this line.")]


def _secrets(here: Settings) -> list[str]:
    """Return what must not be shown, wherever a message may have it from."""
    accounts = [here.profile(name) for name in (DEFAULT_PROFILE, *here.profiles)]
    held = [account.api_key for account in accounts]
    held += [value for account in accounts for value in account.headers.values()]
    found = [value.get_secret_value() for value in held if value is not None]
    found.append(urlsplit(here.redis_url).password or "")
    return sorted((one for one in found if len(one) >= _LEAST_SECRET), key=len, reverse=True)


def _masked(check: Check, secrets: list[str]) -> Check:
    says, remedy = check.says, check.remedy
    for secret in secrets:
        says, remedy = says.replace(secret, "***"), remedy.replace(secret, "***")
    return check.model_copy(update={"says": says, "remedy": remedy})
