"""The right of one delivery to send an upload's bytes, renewed while it is used."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import uuid
from contextlib import suppress
from typing import Self

from redis import Redis
from redis.exceptions import LockError, RedisError
from redis.lock import Lock

from provider_uploads.protocol import KEY_PREFIX

log = logging.getLogger(__name__)


def lease_key(ticket: str) -> str:
    """Return the key of an upload's lease."""
    return f"{KEY_PREFIX}lease:{ticket}"


class Lease:
    """A lock that is renewed three times in its life until the ``with`` block ends.

    It is taken by ``acquire``, or together with other things by a script: ``asking`` before that,
    ``answered`` after it. ``lost`` says that it could not be renewed: whoever holds it now may be
    sending.
    """

    def __init__(self, client: Redis, ticket: str, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self.token = uuid.uuid4().hex
        self._lock = Lock(client, lease_key(ticket), timeout=ttl_s, thread_local=False)
        self._lock.local.token = self.token
        self._asked_at = 0.0
        self._unanswered = False
        self._held = False
        self._good_until = math.inf
        self._due_at = math.inf
        self._refused = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # One that was asked for without an answer may be held.
        if self._held or self._unanswered:
            with suppress(LockError, RedisError):  # one that ran out is nobody's concern any more
                self._lock.do_release(self.token)
            self.released()

    def acquire(self) -> bool:
        """Take it by itself; return whether it is held."""
        self.asking()
        return self.answered(held=bool(self._lock.do_acquire(self.token)))

    def asking(self) -> None:
        """It is being asked for: its life begins before the answer comes."""
        self._asked_at = time.monotonic()
        self._unanswered = True

    def answered(self, *, held: bool) -> bool:
        """Take note of the answer, and renew it from now on if it is held; return ``held``.

        Without that it stays as it was: it may have been taken before.
        """
        self._unanswered = False
        if held:
            self._good_until = self._asked_at + self.ttl_s
            self._due_at = self._asked_at + self.ttl_s / 3
            self._held = True
            _keeper.watch(self)
        return held

    def released(self) -> None:
        """It was given back, together with other things, by a script."""
        self._unanswered = False
        if self._held:
            self._held = False
            _keeper.forget(self)

    @property
    def lost(self) -> bool:
        """Whether somebody else may hold it by now."""
        return self._refused or time.monotonic() > self._good_until

    @property
    def renewal_due_at(self) -> float:
        """When to renew next, on the monotonic clock."""
        return self._due_at

    def renew(self) -> None:
        """Renew; a Redis that does not answer is asked again until the lease has run out."""
        begun = time.monotonic()
        try:
            self._lock.reacquire()
        except LockError:
            self._refused = True
        except RedisError:
            self._due_at = time.monotonic() + self.ttl_s / 20
        else:
            if self.lost:  # who asked meanwhile was told so, and it stays so
                self._refused = True
                return
            self._good_until = begun + self.ttl_s
            self._due_at = begun + self.ttl_s / 3


class _Keeper:
    """One thread for all leases of a process, started with the first of them.

    Sending blocks in the socket, so a transfer cannot renew its own lease; a thread for each
    would cost more than a small file does.
    """

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        #: When the thread looks again by itself.
        self._looks_at = math.inf

    def watch(self, lease: Lease) -> None:
        with self._changed:
            self._leases.add(lease)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            elif lease.renewal_due_at < self._looks_at:  # waking it for each would cost much
                self._changed.notify()

    def forget(self, lease: Lease) -> None:
        with self._changed:
            self._leases.discard(lease)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._leases = {lease for lease in self._leases if not lease.lost}
                first = min(self._leases, key=lambda lease: lease.renewal_due_at, default=None)
                self._looks_at = first.renewal_due_at if first else math.inf
                wait_s = self._looks_at - time.monotonic()
                if first is None or wait_s > 0:
                    self._changed.wait(None if first is None else wait_s)
                    continue
            try:
                first.renew()
            except Exception:  # whatever it is, it must not end the renewal of all the others
                log.exception("a lease is given up")
                self.forget(first)


_keeper = _Keeper()


def _after_fork() -> None:
    """A child has neither the thread nor, more to the point, its parent's leases."""
    global _keeper
    _keeper = _Keeper()


os.register_at_fork(after_in_child=_after_fork)
