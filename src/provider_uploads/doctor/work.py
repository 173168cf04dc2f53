"""Does the work move: queues, the oldest upload, the sweep, outages of the provider?"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress

from provider_uploads import protocol
from provider_uploads.doctor.check import Check, failure, ok, warning
from provider_uploads.doctor.context import CheckContext
from provider_uploads.doctor.fleet import Fleet
from provider_uploads.errors import QueueUnavailableError
from provider_uploads.fleet.breaker import outage
from provider_uploads.fleet.dead_letters import DeadLetters
from provider_uploads.fleet.queues import Queues
from provider_uploads.ledger import parked
from provider_uploads.ledger.batches import Batches
from provider_uploads.ledger.last_sweep import last_sweep, sweeping
from provider_uploads.ledger.open_uploads import OpenUploads
from provider_uploads.ledger.outbox import OUTBOX_KEY, Outbox
from provider_uploads.ledger.upload_steps import OPEN_KEY
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.schemas import BatchStage

#: An upload that waited longer to begin wants a reason.
_LONG_S = 600.0
#: So many sweeps may be missed.
_MISSED = 2
#: A sweep that is under way for longer hangs.
_SWEEP_S = 900.0


def queues(here: CheckContext) -> Iterator[Check]:
    """Somebody takes what waits in each queue."""
    fleet = here.fleet.result()
    redis = here.ledger.redis
    waiting = _waiting(here)
    with here.ledger.reached():
        held = redis.hlen(f"{protocol.KEY_PREFIX}unacked")
    for name, messages in waiting.items():
        if messages or name in {protocol.TRANSFER_QUEUE, protocol.CONTROL_QUEUE}:
            yield queue_of(name, messages, fleet)
    answered = bool(fleet.workers or fleet.strangers)
    whose = "in workers' hands, being worked on or waiting for their time"
    left = "left by workers that are gone; they are delivered again when one runs"
    yield ok("held", f"{_messages(held)} {whose if answered or not held else left}")


def _waiting(here: CheckContext) -> dict[str, int]:
    """Return the messages that wait, by queue."""
    names = Queues(here.ledger).queues()
    with here.ledger.reached():
        return {name: here.ledger.redis.llen(f"{protocol.KEY_PREFIX}{name}") for name in names}


def queue_of(name: str, messages: int, fleet: Fleet) -> Check:
    """Say how many messages wait in a queue, and for how many slots."""
    line, serving = f"queue {name}", fleet.serving(name)
    if serving:
        slots = sum(about.slots for about in serving)
        workers = "1 worker" if len(serving) == 1 else f"{len(serving)} workers"
        return ok(line, f"{workers} with {slots} slots, {_messages(messages)} waiting")
    if fleet.strangers:
        who = "of the workers that said what they serve, none takes it"
        return warning(
            line, f"{_messages(messages)} waiting; {who}", "Upgrade the others, and ask again."
        )
    what = "polls, deletes and sweeps" if name == protocol.CONTROL_QUEUE else "sends files"
    return failure(
        line,
        f"no worker takes from it, so nobody {what}; {_messages(messages)} waiting",
        f"Start one where the checkout is: celery -A tasks worker -Q {name}",
    )


def oldest(here: CheckContext) -> Iterator[Check]:
    """No upload waits for long to begin."""
    name, ledger = "uploads", here.ledger
    with ledger.reached():
        there_are = ledger.redis.zcard(OPEN_KEY)
    found = OpenUploads(ledger).oldest_queued()
    if found is None:
        yield ok(name, f"none waits to begin; {there_are} under way")
        return
    ticket, waited_s, said = found
    facts = f"{there_are} under way; the oldest not begun, {ticket}, waits for {_time(waited_s)}"
    if waited_s <= _LONG_S:
        yield ok(name, facts)
    elif said:
        yield warning(name, f"{facts}: {said}", "See what it says; the breaker, too.")
    else:
        waiting = _waiting(here)
        if any(waiting[name] for name in waiting if name != protocol.CONTROL_QUEUE):
            remedy = "If workers take from transfer at all, all their slots are busy: start more."
        else:
            remedy = "No message waits for it in transfer: the sweep submits a lost one again."
        yield warning(name, facts, remedy)


def parked_polls(here: CheckContext) -> Iterator[Check]:
    """Somebody watches the polls that are parked."""
    name = "parked"
    found = here.ledger.run(parked.counts())
    if not found:
        yield ok(name, "no polls; few files wait, each by a message of its own")
    for profile, (count, watcher) in found.items():
        facts = f"{count:,} polls of profile {profile}"
        if watcher:
            yield ok(name, f"{facts}, watched by {watcher}")
        else:
            yield warning(
                name,
                f"{facts}, and nobody watches",
                "A worker on control does, within 15 s, if it has the profile's key and is of "
                "this version.",
            )


def batches(here: CheckContext) -> Iterator[Check]:
    """No batch waits for long to begin."""
    name = "batches"
    found = Batches(here.ledger).open()
    queued = [one for one in found if one.stage == BatchStage.QUEUED]
    if not queued:
        yield ok(name, f"none waits to begin; {len(found)} under way or being cleaned up")
        return
    oldest = max(queued, key=lambda one: one.age_s)
    facts = (
        f"{len(queued)} wait to begin, the oldest, {oldest.ticket}, for {_time(oldest.age_s)}"
        + (f": {oldest.note}" if oldest.note else "")
    )
    if oldest.age_s <= _LONG_S:
        yield ok(name, facts)
    else:
        yield warning(name, facts, "See what it says, and provider-uploads batch list.")


def swept(here: CheckContext) -> Iterator[Check]:
    """The sweep runs: lost messages come home by nothing else."""
    name = "sweep"
    last, now = last_sweep(here.ledger), sweeping(here.ledger)
    said = f"the last one ended {_time(last.ago_s)} ago" if last else "none within a day"
    late = last is None or last.ago_s > _MISSED * last.every_s
    if not late or (last and now and last.ago_s < _SWEEP_S):
        yield ok(name, said + (", one is under way" if now else ""))
        return
    every = f", though one is due every {last.every_s:g} s" if last else ""
    yield warning(
        name,
        f"{said}{every}. A message lost in a crash comes home only by it",
        "Run one beat in the fleet, provider-uploads beat, and a worker on control, which does it.",
    )


def unreadable(here: CheckContext) -> Iterator[Check]:
    """Nothing in Redis is there that nobody can read."""
    name = "unreadable"
    last = last_sweep(here.ledger)
    letters = DeadLetters(here.ledger)
    if count := letters.count():
        newest = letters.read(1)
        why = f", the last one in queue {newest[0].queue}: {newest[0].reason}" if newest else ""
        yield warning(
            name,
            f"{_items(count)} of the queues could not be read and {_were(count)} set aside{why}",
            "Find out who sends them: provider-uploads dead-letters shows and drops them.",
        )
    if last and last.unreadable_count:
        yield warning(
            name,
            f"the sweep leaves {_items(last.unreadable_count)} in Redis alone: "
            + "; ".join(last.unreadable),
            "Upgrade the workers if a newer version wrote them, else delete those keys.",
        )
    if not count and not (last and last.unreadable_count):
        yield ok(name, "nothing: all messages and rows can be read")


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count:,} items"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def notifications(here: CheckContext) -> Iterator[Check]:
    """Whoever is to be told of an end takes what is sent."""
    name = "callbacks"
    with here.ledger.reached():
        waiting = here.ledger.redis.zcard(OUTBOX_KEY)
    refused = Outbox(here.ledger).refused()
    if not refused:
        yield ok(
            name, f"{waiting} uploads and questions have somebody to tell, none in vain so far"
        )
    for to, error in refused.items():
        yield warning(
            name,
            f"{to} does not take what is sent: {error}",
            "See to the receiver, or to its name in the workers' settings; it is sent again.",
        )


def breakers(here: CheckContext) -> Iterator[Check]:
    """No profile's Files service is known to be down."""
    name = "breaker"
    profiles = {DEFAULT_PROFILE, *here.settings.profiles, *_theirs(here.fleet)}
    down = {one: found for one in sorted(profiles) if (found := outage(here.ledger, one))}
    for one, found in down.items():
        probe = f"in {found.next_probe_s:.0f} s" if found.next_probe_s else "with the next upload"
        yield warning(
            name,
            f"the Files service of profile {one} is down for {_time(found.lasted_s)}: uploads "
            f"wait, one worker probes it, next {probe}",
            "Check the provider's status page, and this profile above. Nothing needs a restart.",
        )
    if not down:
        yield ok(name, f"closed for {', '.join(sorted(profiles))}")


def _theirs(fleet: Future[Fleet]) -> set[str]:
    with suppress(QueueUnavailableError):
        return {name for worker in fleet.result().workers for name in worker.about.profiles}
    return set()


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count:,} messages"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
