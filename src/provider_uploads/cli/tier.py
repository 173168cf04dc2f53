"""``provider-uploads tier``: what the accounts may do, and what holds at the moment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import click
from rich import box
from rich.table import Table
from rich.text import Text

from provider_uploads.cli.console import out, printable
from provider_uploads.errors import ConfigurationError, InvalidRequestError
from provider_uploads.fleet.limits import Limits, RateLimitStatus, published
from provider_uploads.fleet.tiers import PAUSED, Tier, Work, shown
from provider_uploads.ledger.storage import Storage
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.settings import settings


@click.group()
def tier() -> None:
    """Show or change what the provider's accounts may do."""


@tier.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def show(as_json: bool) -> None:
    """Show every profile's rates, cool-downs and storage, as the workers use them."""
    ledger, tiers, limits = _fleet()
    standings = [limits.status(profile, work) for profile in tiers for work in Work]
    held = {profile: Storage(ledger).held_bytes(profile) for profile in tiers}
    if as_json:
        for standing in standings:
            click.echo(json.dumps(_as_json(standing, tiers[standing.profile].name)))
        for profile, held_bytes in held.items():
            stored = {"held_bytes": held_bytes, "storage_bytes": tiers[profile].storage_bytes}
            click.echo(json.dumps({"profile": profile, **stored}))
        return
    out.print(table(standings, tiers))
    for profile, held_bytes in held.items():
        of = tiers[profile].storage_bytes
        limit = f" of {of / 1e9:,.2f} GB" if of else " GB, no limit"
        out.print(f"{profile}: storage {held_bytes / 1e9:,.2f}{limit}")


@tier.command("set")
@click.argument("work", type=click.Choice([work.value for work in Work if work is not Work.BATCH]))
@click.argument("rate")
@click.option("--profile", help="Only this account.  [default: all]")
def set_(work: str, rate: str, profile: str | None) -> None:
    """Change a rate for the whole fleet at once: 10/s, 60/m, 500/h, unlimited, pause or tier.

    It also ends a cool-down. With "pause" nothing new begins, except polls whose time is up; "tier"
    sets the tier's own rate again.
    """
    _, tiers, limits = _fleet()
    if profile is not None and profile not in tiers:
        raise ConfigurationError(
            f"no worker knows a profile {profile!r} (known: {', '.join(tiers)})."
        )
    given = None if rate == "tier" else rate
    try:
        limits.set_rate(Work(work), given, profile=profile, profiles=tiers)
    except ValueError as error:
        raise InvalidRequestError(
            "RATE", repr(rate), f"{error}, unlimited, pause or tier"
        ) from None
    out.print(table([limits.status(p, Work(work)) for p in tiers], tiers))


def _fleet() -> tuple[Ledger, dict[str, Tier], Limits]:
    ledger = Ledger(settings().redis_url, timeout_s=settings().redis_timeout_s)
    tiers = published(ledger)
    if not tiers:
        raise ConfigurationError(
            f"no worker has ever run on {ledger.server}, so nobody has said what the tiers are. "
            "Start one: provider-uploads worker."
        )
    return ledger, tiers, Limits(ledger, lambda profile, work: tiers[profile].rate(work))


def _as_json(standing: RateLimitStatus, tier: str) -> dict[str, object]:
    return {
        "profile": standing.profile,
        "tier": tier,
        "work": standing.work.value,
        "tier_per_minute": standing.tier_rate or None,
        "per_minute": None if standing.rate <= 0 else standing.rate,
        "paused": standing.rate == PAUSED,
        "share": round(standing.factor, 3),
        "on_hold_s": round(standing.on_hold_s, 1),
        "why": standing.why,
    }


def table(found: Sequence[RateLimitStatus], tiers: Mapping[str, Tier]) -> Table:
    """Return a table of rates and of what holds of them now."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for name in ("Profile", "Tier", "Work", "Tier's rate", "Rate", "In use", "On hold"):
        made.add_column(name, overflow="fold")
    for one in found:
        held = f"{one.on_hold_s:,.0f} s: {printable(one.why)}" if one.on_hold_s else ""
        made.add_row(
            one.profile,
            tiers[one.profile].name,
            one.work.value,
            shown(one.tier_rate),
            Text(shown(one.rate), "yellow" if one.rate != one.tier_rate else ""),
            Text(f"{one.factor:.0%}", "yellow" if one.factor < 1 else "") if one.rate > 0 else "",
            Text(held, "red"),
        )
    return made
