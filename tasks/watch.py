"""The watch over parked polls: a thread in each worker of the control queue, one at work a profile.

Whoever holds a profile's lock reads the provider's list for all that wait (``fleet.file_watch``),
records the good ends (``tasks.settling``) and hands any other end to ``poll_until_active``. Last
polls, and those of files that no list has, are sent when they are due, whatever the list does
meanwhile.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

from celery import bootsteps
from redis.exceptions import LockError

from config.policy import policy
from provider_uploads import protocol
from provider_uploads.background import begin
from provider_uploads.errors import (
    ProviderUploadsError,
    QueueUnavailableError,
    RateLimitedError,
    ServiceDownError,
)
from provider_uploads.fleet.file_watch import FileWatch, Pace
from provider_uploads.fleet.tiers import PAUSED, Work
from provider_uploads.ledger import parked
from provider_uploads.providers.base import pages_of
from provider_uploads.settings import settings
from provider_uploads.transfer import Interrupted
from tasks.admission import cool_down_on_429
from tasks.celery import app
from tasks.connections import (
    ledger,
    limits,
    log,
    provider,
    provider_requests,
    stopping,
    through_breaker,
)
from tasks.later import say
from tasks.settling import Settling

_MINUTE_S = 60.0


class ProfileWatch:
    """The watch over one profile, by this worker if no other one is at it."""

    def __init__(self, profile: str, worker: str, settle: Settling) -> None:
        self._profile = profile
        self._settle = settle
        # What a lock holds is its holder's own; the doctor shows the name in it.
        self._token = f"{worker} {uuid.uuid4().hex}"
        self._lock = ledger().redis.lock(
            parked.watcher_key(profile), timeout=policy.watch_lock_s, thread_local=False
        )
        self._held_until = 0.0
        self._reading: Future[int] | None = None
        self._watch: FileWatch | None = None
        self._sent_at = time.monotonic()

    def look(self) -> float:
        """Do what is due now; return the seconds until it has to be called again, at most."""
        seen = ledger().run(parked.overview(self._profile))
        if not seen.parked:
            self.release()
            return policy.watch_check_s
        if not self._holds():
            return policy.watch_check_s
        if seen.last_at <= seen.now:
            ledger().run(parked.wake_last(self._profile, seen.now))
        watch = self._watch = self._watch or self._made()
        if watch is not None:
            self._see_to_reading(watch)
        if seen.next_at <= seen.now:
            self._send_due(watch, seen.now)
        if watch is None:
            return policy.watch_tick_s
        left_s = watch.next_in_s(seen.parked)
        if self._reading is None and left_s <= 0:
            self._reading = begin(lambda: watch.read(self._goes_on))
        return policy.watch_tick_s if left_s <= 0 else min(left_s, policy.watch_tick_s)

    def release(self) -> None:
        """Let another worker watch."""
        if self._held_until:
            self._held_until = 0.0
            with suppress(LockError), ledger().reached():
                self._lock.release()

    def _made(self) -> FileWatch | None:
        """Return the watch; None where this worker cannot read the profile's list."""
        try:
            pages = pages_of(provider(self._profile))
        except ProviderUploadsError:
            return None
        if pages is None:
            return None
        pace = Pace(
            every_s=policy.watch_every_s,
            page_s=policy.watch_page_s,
            file_s=policy.watch_file_s,
            measure_s=policy.watch_measure_s,
            retry_s=policy.watch_retry_s,
        )
        return FileWatch(
            ledger(),
            self._profile,
            pages,
            self._admitted,
            self._settle,
            pace=pace,
            seen_s=policy.seen_s,
        )

    def _holds(self) -> bool:
        """Take the lock, or hold on to it; False where another worker has it."""
        now = time.monotonic()
        if now < self._held_until - policy.watch_lock_s / 2:
            return True
        with ledger().reached():
            try:
                held = bool(self._held_until) and self._lock.reacquire()
            except LockError:
                held = False
            held = held or bool(self._lock.acquire(blocking=False, token=self._token))
        self._held_until = now + policy.watch_lock_s if held else 0.0
        return held

    def _goes_on(self) -> bool:
        return not stopping.is_set() and time.monotonic() < self._held_until

    def _see_to_reading(self, watch: FileWatch) -> None:
        """Take note of how the reading of the list ended, if it did."""
        if self._reading is None or not self._reading.done():
            return
        reading, self._reading = self._reading, None
        try:
            reading.result()
        except Interrupted:
            pass
        except (RateLimitedError, ServiceDownError) as error:  # each by itself would be refused too
            watch.put_off(error.retry_after_s or policy.watch_check_s)
        except QueueUnavailableError:
            raise
        except ProviderUploadsError as error:
            log.warning("files of profile %s are polled one by one: %s", self._profile, error)
            watch.leave_alone()
        except Exception:  # a fault of ours must not keep files waiting
            watch.leave_alone()
            raise

    def _send_due(self, watch: FileWatch | None, until: float) -> None:
        """Send polls that no list answers, no more of them than the rate limit lets go."""
        now = time.monotonic()
        limit = limits().status(self._profile, Work.POLL)
        most = policy.watch_singles
        if limit.rate > 0:
            apart_s = _MINUTE_S / limit.rate
            since_s = min(now - self._sent_at, max(apart_s, policy.watch_check_s))
            most = min(most, int(since_s / apart_s))
        if most < 1 or limit.rate == PAUSED or limit.on_hold_s > 0:
            return
        self._sent_at = now
        due = ledger().run(parked.due(self._profile, until, most))
        unlisted = due if watch is None else watch.unlisted(due)
        ledger().run(parked.wake(self._profile, unlisted))

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Wait for a permit for one page of the list, and ask through the breaker."""
        token = ""
        while True:
            if not self._goes_on():
                raise Interrupted("somebody else watches")
            begun = provider_requests().begin(
                self._profile, Work.POLL, permit=token, ahead_s=policy.permit_soon_s
            )
            if begun.wait_s <= 0:
                break
            token = begun.token
            stopping.wait(min(begun.wait_s, policy.watch_check_s))
        with (
            cool_down_on_429(Work.POLL, self._profile, begun.token),
            through_breaker(self._profile, begun.breaker),
        ):
            yield


class Watcher(bootsteps.StartStopStep):
    """The thread that watches; it takes no slot, and nobody waits for it when the worker stops."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._over = threading.Event()

    def start(self, parent: Any) -> None:
        """Begin; called again after each reconnect."""
        if protocol.CONTROL_QUEUE not in parent.app.amqp.queues.consume_from:
            return
        self._over = over = threading.Event()
        begin(lambda: _watch(parent.hostname, parent.event_dispatcher, over))

    def stop(self, parent: Any) -> None:
        """End, so that another worker takes over."""
        self._over.set()

    shutdown = stop


def _watch(worker: str, dispatcher: Any, over: threading.Event) -> None:
    watches = {
        name: ProfileWatch(name, worker, Settling(name, app, dispatcher))
        for name in settings().profile_names
    }
    wait_s = policy.watch_check_s
    while not over.wait(wait_s) and not stopping.is_set():
        wait_s = policy.watch_check_s
        try:
            there_are = ledger().run(parked.profiles())
        except ProviderUploadsError as error:  # the consumer notices too, and reconnects
            say(worker, type(error).__name__, "parked polls wait: %s", error)
            continue
        for name in watches.keys() & there_are:
            wait_s = min(wait_s, _looked(watches[name], name))
    for watch in watches.values():
        with suppress(ProviderUploadsError):
            watch.release()


def _looked(watch: ProfileWatch, profile: str) -> float:
    """Look after one profile; what is wrong with it holds up no other one."""
    try:
        return max(watch.look(), 0.0)
    except ProviderUploadsError as error:
        say(profile, type(error).__name__, "parked polls of profile %s wait: %s", profile, error)
    except Exception:
        log.exception("the watch over parked polls of profile %s failed, and goes on", profile)
    return policy.watch_check_s


app.steps["consumer"].add(Watcher)
