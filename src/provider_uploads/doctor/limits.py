"""What the accounts may do: their tiers, the rates in force, and free storage."""

from __future__ import annotations

from collections.abc import Iterator

from provider_uploads.doctor.check import Check, note, ok, warning
from provider_uploads.doctor.context import CheckContext
from provider_uploads.fleet.limits import Limits, RateLimitStatus, published
from provider_uploads.fleet.tiers import PAUSED, Work, shown
from provider_uploads.ledger.storage import Storage
from provider_uploads.settings import Settings

#: A storage fuller than this will soon keep uploads waiting.
_FULL = 0.9
#: Work that is on hold for longer is not done today.
_LONG_S = 600.0


def tiers(here: CheckContext) -> Iterator[Check]:
    """Each profile's tier, as the workers use it, and what is different from it now."""
    known = published(here.ledger)
    if not known:
        yield note("tier", "no worker has said yet which it is in", "Start one.")
    limits = Limits(here.ledger, lambda profile, work: known[profile].rate(work))
    for profile, tier in known.items():
        name = f"tier {profile}"
        standings = [limits.status(profile, work) for work in Work]
        rates = ", ".join(f"{one.work} {shown(one.rate)}" for one in standings)
        changed = [told for one in standings if (told := _changed(one))]
        wanted = _wanted(here.settings, profile)
        if wanted not in {None, tier.name}:
            facts = f"the workers are in {tier.name}, and this environment says {wanted}"
            yield warning(name, facts, "Start the workers anew with the one that is meant.")
        elif any(one.rate == PAUSED for one in standings):
            yield warning(
                name, f"{tier.name}: {'; '.join(changed)}", "provider-uploads tier set WORK tier"
            )
        elif max(one.on_hold_s for one in standings) > _LONG_S:
            yield warning(name, f"{tier.name}: {'; '.join(changed)}", "provider-uploads tier show")
        elif changed:
            yield note(name, f"{tier.name}: {'; '.join(changed)}", "provider-uploads tier show")
        else:
            yield ok(name, f"{tier.name}: {rates}")


def _wanted(here: Settings, profile: str) -> str | None:
    """Return the tier that this environment names for a profile, if it names one."""
    if profile not in here.profile_names:
        return None
    return here.profile(profile).tier or (here.tier if "tier" in here.model_fields_set else None)


def _changed(standing: RateLimitStatus) -> str:
    """Say what holds beside the tier's rate; nothing if nothing does."""
    work = standing.work.value
    if standing.rate == PAUSED:
        return f"{work} is paused"
    if standing.on_hold_s:
        return f"{work} on hold for {standing.on_hold_s:,.0f} s: {standing.why}"
    if standing.factor < 1:
        return f"{work} at {standing.factor:.0%} of {shown(standing.rate)} after a 429"
    if standing.rate != standing.tier_rate:
        return f"{work} set to {shown(standing.rate)} (tier: {shown(standing.tier_rate)})"
    return ""


def storage(here: CheckContext) -> Iterator[Check]:
    """There is storage for more files."""
    for profile, tier in published(here.ledger).items():
        name = f"storage {profile}"
        held = Storage(here.ledger).held_bytes(profile) / 1e9
        if tier.storage_bytes is None:
            yield ok(name, f"{held:,.2f} GB, no limit")
            continue
        limit = tier.storage_bytes / 1e9
        facts = f"{held:,.2f} of {limit:,.2f} GB"
        if held < _FULL * limit:
            yield ok(name, facts)
        else:
            yield warning(
                name,
                f"{facts}: uploads that do not fit wait",
                'Delete files, or upload with evict="oldest"; files expire after 48 h.',
            )
