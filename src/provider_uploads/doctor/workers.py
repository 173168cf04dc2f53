"""Whether workers run, their settings agree, and each message stays with its holder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from provider_uploads import protocol
from provider_uploads.doctor.check import Check, failure, note, ok, warning
from provider_uploads.doctor.clock import Skew
from provider_uploads.doctor.context import CheckContext
from provider_uploads.doctor.fleet import Fleet
from provider_uploads.fleet.keepalive import renewed_every_s
from provider_uploads.fleet.worker_info import WorkerInfo, installed, shown
from provider_uploads.settings import Settings

T = TypeVar("T")

#: Clocks further apart than this are worth mending.
_SKEW_S = 2.0
#: Renewals closer together than this leave no margin for a busy machine.
_HASTY_S = 2.0
#: More names than this are counted.
_MOST_NAMES = 6

_START = "where the checkout is: celery -A tasks worker"


def alive(here: CheckContext) -> Iterator[Check]:
    """Workers answer."""
    return alive_in(here.fleet.result())


def alive_in(fleet: Fleet) -> Iterator[Check]:
    """Say who answered, and whether polls can overtake uploads."""
    name = "workers"
    if fleet.strangers:
        problem = f"{_some(fleet.strangers)}: too old or too new to say what they are"
        remedy = "Run the same version of provider-uploads everywhere, and restart the workers."
        yield warning(name, problem, remedy)
    abouts = [worker.about for worker in fleet.workers]
    if abouts:
        yield ok(name, _some(f"{about.worker} (Python {about.python})" for about in abouts))
    elif not fleet.strangers:
        yield failure(name, "none answers", f"Start one {_START} (it serves all queues).")
    both = fleet.serving(protocol.CONTROL_QUEUE)
    if both and all(protocol.TRANSFER_QUEUE in about.queues for about in both):
        yield note(
            name,
            "whoever serves control serves transfer too: when uploads fill all slots, polls and "
            "deletions wait for one",
            f"Start one for control alone, {_START} -Q {protocol.CONTROL_QUEUE}",
        )


def agreement(here: CheckContext) -> Iterator[Check]:
    """All workers are of one version and set up alike: a message may come to any of them."""
    return agreement_in(here.fleet.result(), here.settings)


def agreement_in(fleet: Fleet, settings: Settings) -> Iterator[Check]:
    """Compare what the workers said, with each other and with this machine."""
    everybody = [worker.about for worker in fleet.workers]
    if not everybody:
        return
    name, troubles = "agreement", [*_versions(everybody), *_setups(fleet, settings)]
    yield from (warning(name, problem, remedy) for problem, remedy in troubles)
    if not any(about.profiles for about in everybody):
        problem = "no worker has a key for any profile, so every upload ends as FAILED"
        yield failure(name, problem, "Set GEMINI_API_KEY where the workers run.")
    elif not troubles:
        one = everybody[0]
        yield ok(
            name,
            f"provider-uploads {one.provider_uploads}, celery {one.celery}, kombu {one.kombu}, "
            f"google-genai {one.google_genai}; profiles {_text(one.profiles)}; "
            f"roots {_text(one.roots)}; sources {_text(one.sources)}; staging {_text(one.staging)}",
        )


def _versions(everybody: Sequence[WorkerInfo]) -> Iterator[tuple[str, str]]:
    """Yield problems and remedies."""
    for package in ("provider_uploads", "celery", "kombu", "google_genai"):
        found = _by((getattr(about, package), about.worker) for about in everybody)
        if len(found) > 1:
            problem = f"workers run different versions of {package.replace('_', '-')}: "
            yield problem + _told(found), "Install the same everywhere, and restart the workers."
    theirs = {about.provider_uploads for about in everybody}
    if len(theirs) == 1 and theirs != {installed("provider-uploads")}:
        problem = f"workers run provider-uploads {theirs.pop()}, not the version here"
        yield problem, "Upgrade the older side; workers leave newer messages for newer workers."


def _setups(fleet: Fleet, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield problems and remedies: who has to do with a setting must have the same."""
    everybody = [worker.about for worker in fleet.workers]
    sends = fleet.serving(protocol.TRANSFER_QUEUE)
    for setting, what, whom in (
        ("profiles", "the same keys", everybody),
        ("staging", "PROVIDER_UPLOADS_STAGING", everybody),
        ("roots", "PROVIDER_UPLOADS_ROOTS", sends),
        ("sources", "PROVIDER_UPLOADS_SOURCES", sends),
    ):
        found = _by((_text(getattr(about, setting)), about.worker) for about in whom)
        if len(found) > 1:
            problem = f"workers differ in {setting}: {_told(found)}. A message may come to any"
            yield problem, f"Set {what} for all workers."
    for about in everybody:
        if about.unknown_variables:
            problem = f"{about.worker} has variables that nothing reads: "
            yield problem + _text(about.unknown_variables), "Correct their names, or remove them."
    keys = _by((key.partition(": ")[0], key) for about in everybody for key in about.keys)
    for profile, named in keys.items():
        if len(found_keys := sorted(set(named))) > 1:
            problem = (
                f"workers have different keys for profile {profile} (fingerprints: "
                f"{_text([key.partition(': ')[2] for key in found_keys])}): files of one cannot be "
                "read with the other"
            )
            yield problem, f"Set one key for profile {profile} where the workers run."
    said = _by((tier.partition(": ")[0], tier) for about in everybody for tier in about.tiers)
    for profile, named in said.items():
        if len(tiers := sorted(set(named))) > 1:
            problem = f"workers differ in the tier of a profile: {_text(tiers)}"
            remedy = f"Set PROVIDER_UPLOADS_TIER, or that of profile {profile}, for all workers."
            yield problem, remedy
    known = {name for about in everybody for name in about.profiles}
    unknown = sorted(set(settings.profile_names) - known)
    if unknown and known:
        problem = f"profiles that have a key here and at no worker: {_text(unknown)}"
        yield problem, "Give the workers their keys, or do not submit under them."
    here = shown(settings.staging)
    if here and sends and here not in {about.staging for about in sends}:
        problem = f"streams are staged at {here} here, and no worker reads there"
        yield problem, "Set PROVIDER_UPLOADS_STAGING to one place for all."


def renewal(here: CheckContext) -> Iterator[Check]:
    """What a living worker holds is renewed before others take it for dead."""
    return renewal_in(here.fleet.result())


def renewal_in(fleet: Fleet) -> Iterator[Check]:
    """Hold the slowest renewal against the shortest visibility timeout and the clocks.

    Each worker renews by its own timeout and its own clock; each takes others for dead by its own.
    """
    timeouts = _by((w.about.visibility_timeout_s, w.about.worker) for w in fleet.workers)
    if not timeouts:
        return
    name, variable = "renewal", "PROVIDER_UPLOADS_VISIBILITY_TIMEOUT_S"
    shortest, every_s = min(timeouts), renewed_every_s(max(timeouts))
    skews = [worker.skew for worker in fleet.workers]
    apart_s = max(abs(one.against(other).certain_s) for one in skews for other in skews)
    slack_s = shortest - every_s - apart_s
    facts = f"renewed every {every_s:g} s, handed to others after {shortest:g} s"
    if apart_s > _SKEW_S:
        facts += f", by clocks {apart_s:.1f} s apart"
    copies = "are handed out while their worker is alive: the ledger stops the copy, slots are lost"
    alike = f"Set {variable} alike for all workers"
    if len(timeouts) > 1:
        told = _told({f"{timeout:g} s": names for timeout, names in timeouts.items()})
        facts += f"; visibility timeouts differ ({told}), and the shortest counts"
    if slack_s <= 0:
        yield warning(name, f"{facts}. Messages {copies}", f"{alike}, and mend clocks that differ.")
    elif len(timeouts) > 1:
        yield warning(name, facts, f"{alike}.")
    elif every_s < _HASTY_S:
        yield warning(
            name,
            f"{facts}. Those of a worker that is held up for {slack_s:.1f} s {copies}",
            f"{alike}, to 30 or at least {3 * _HASTY_S:g}.",
        )
    else:
        yield ok(name, f"{facts}: a worker may be held up for {slack_s:.0f} s")


# -- clocks ----------------------------------------------------------------------------------------


def clocks(here: CheckContext) -> Iterator[Check]:
    """This machine's and the workers' clocks agree with Redis's."""
    redis = here.skew.result()
    # Of this machine against Redis: Redis was held against it.
    yield from clocks_of({"this machine": Skew(0, 0).against(redis)})
    workers = {w.about.worker: w.skew.against(redis) for w in here.fleet.result().workers}
    yield from clocks_of(workers)


def clocks_of(skews: dict[str, Skew]) -> Iterator[Check]:
    """Say whose clock is off; ``skews`` are seconds ahead of Redis's clock, by name."""
    name = "clock"
    off = {who: skew.certain_s for who, skew in skews.items() if abs(skew.certain_s) > _SKEW_S}
    for who, seconds in off.items():
        way = "ahead of" if seconds > 0 else "behind"
        yield warning(
            name,
            f"{who} is {abs(seconds):.1f} s {way} Redis: countdowns end early or late, sweeps may "
            "expire unseen, and what a worker holds may seem abandoned",
            "Let all machines keep time (chrony, or systemd-timesyncd).",
        )
    if skews and not off:
        most_s = max(skew.most_s for skew in skews.values())
        who = next(iter(skews)) if len(skews) == 1 else f"{len(skews)} workers"
        yield ok(name, f"{who}: within {max(most_s, 0.1):.1f} s of Redis")


# -- words -----------------------------------------------------------------------------------------


def _by(pairs: Iterable[tuple[T, str]]) -> dict[T, list[str]]:
    found = defaultdict(list)
    for value, worker in pairs:
        found[value].append(worker)
    return found


def _told(found: Mapping[T, Sequence[str]]) -> str:
    return "; ".join(f"{value} ({_some(names)})" for value, names in found.items())


def _text(value: str | Sequence[str] | None) -> str:
    return (value if isinstance(value, str) else ", ".join(value or ())) or "none"


def _some(names: Iterable[str]) -> str:
    """Join names, and count those beyond a few."""
    names = list(names)
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
