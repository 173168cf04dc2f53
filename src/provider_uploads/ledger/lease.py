"""The right of one delivery to send an upload's bytes, renewed while it is used."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from typing import Self

from redis.exceptions import LockError, RedisError
from redis.lock import Lock

from provider_uploads.protocol import KEY_PREFIX

log = logging.getLogger(__name__)


def lease_key(ticket: str) -> str:
    """Return the key of an upload's lease."""
    return f"{KEY_PREFIX}lease:{ticket}"


class Lease:
    """An acquired lock, renewed three times in its life until the ``with`` block ends.

    ``lost`` says that it could not be renewed: whoever holds it now may be sending.
    """

    def __init__(self, lock: Lock, ttl_s: float) -> None:
        self._lock = lock
        self._ttl_s = ttl_s
        begun = time.monotonic()
        self._good_until = begun + ttl_s
        self._due_at = begun + ttl_s / 3
        self._refused = False

    def __enter__(self) -> Self:
        _keeper.watch(self)
        return self

    def __exit__(self, *_: object) -> None:
        _keeper.forget(self)
        with suppress(LockError, RedisError):  # one that ran out is nobody's concern any more
            self._lock.release()

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
            self._due_at = time.monotonic() + self._ttl_s / 20
        else:
            self._good_until = begun + self._ttl_s
            self._due_at = begun + self._ttl_s / 3


class _Keeper:
    """One thread for all leases of a process, started with the first of them.

    Sending blocks in the socket, so a transfer cannot renew its own lease; a thread for each
    would cost more than a small file does.
    """

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def watch(self, lease: Lease) -> None:
        with self._changed:
            self._leases.add(lease)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            else:
                self._changed.notify()

    def forget(self, lease: Lease) -> None:
        with self._changed:
            self._leases.discard(lease)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._leases = {lease for lease in self._leases if not lease.lost}
                first = min(self._leases, key=lambda lease: lease.renewal_due_at, default=None)
                wait_s = first.renewal_due_at - time.monotonic() if first else None
                if first is None or (wait_s is not None and wait_s > 0):
                    self._changed.wait(wait_s)
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
