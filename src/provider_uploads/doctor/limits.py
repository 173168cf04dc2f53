"""What the accounts may do: their tiers, what holds of them now, and the room they have."""

from __future__ import annotations

from collections.abc import Iterator

from provider_uploads.doctor.check import Check, note, ok, warning
from provider_uploads.doctor.surroundings import Surroundings
from provider_uploads.limits import Limits, Standing, published
from provider_uploads.storage import Storage
from provider_uploads.tiers import Work, shown

#: A storage fuller than this will soon keep uploads waiting.
_FULL = 0.9


def tiers(here: Surroundings) -> Iterator[Check]:
    """Each profile's tier, as the workers use it, and what is different from it now."""
    known = published(here.ledger)
    limits = Limits(here.ledger, lambda profile, work: known[profile].rate(work))
    for profile, tier in known.items():
        name = f"tier {profile}"
        standings = [limits.standing(profile, work) for work in Work]
        rates = ", ".join(f"{one.work} {shown(one.rate)}" for one in standings)
        changed = [told for one in standings if (told := _changed(one))]
        if changed:
            yield note(name, f"{tier.name}: {'; '.join(changed)}", "provider-uploads tier show")
        else:
            yield ok(name, f"{tier.name}: {rates}")


def _changed(standing: Standing) -> str:
    """Say what holds beside the tier's rate; nothing if nothing does."""
    work = standing.work.value
    if standing.on_hold_s:
        return f"{work} on hold for {standing.on_hold_s:,.0f} s: {standing.why}"
    if standing.share < 1:
        return f"{work} at {standing.share:.0%} of {shown(standing.rate)} after a 429"
    if standing.rate != standing.tier_rate:
        return f"{work} set to {shown(standing.rate)} (tier: {shown(standing.tier_rate)})"
    return ""


def storage(here: Surroundings) -> Iterator[Check]:
    """There is room for more files."""
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
