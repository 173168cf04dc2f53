"""The right of one delivery to send an upload's bytes, renewed while it is used."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Self

from redis.exceptions import LockError, RedisError
from redis.lock import Lock


class Lease:
    """An acquired lock, renewed three times in its life until the ``with`` block ends.

    ``lost`` says that it could not be renewed: whoever holds it now may be sending.
    """

    def __init__(self, lock: Lock, ttl_s: float) -> None:
        self._lock = lock
        self._ttl_s = ttl_s
        self._good_until = time.monotonic() + ttl_s
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
        return self._good_until - self._ttl_s * 2 / 3

    def renew(self) -> None:
        """Renew; a Redis that does not answer is asked again until the lease has run out."""
        begun = time.monotonic()
        try:
            self._lock.reacquire()
        except LockError:
            self._refused = True
        except RedisError:
            pass
        else:
            self._good_until = begun + self._ttl_s


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
            if self._thread is None or not self._thread.is_alive():  # a fork leaves threads behind
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            elif len(self._leases) == 1:
                self._changed.notify()

    def forget(self, lease: Lease) -> None:
        with self._changed:
            self._leases.discard(lease)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._leases:
                    self._changed.wait()
                first = min(self._leases, key=lambda lease: lease.renewal_due_at)
                wait_s = first.renewal_due_at - time.monotonic()
                if wait_s > 0:
                    # Leases last equally long, so one taken later is never due earlier.
                    self._changed.wait(wait_s)
                    continue
            if not first.lost:
                first.renew()
            if first.lost or first.renewal_due_at <= time.monotonic():
                time.sleep(0.05)  # Redis does not answer: neither spin nor give up


_keeper = _Keeper()
