"""``provider_uploads.sweep``: what nobody moves any more is brought to its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.signals import beat_init
from kombu.exceptions import OperationalError

from config.policy import policy
from provider_uploads import protocol
from provider_uploads.errors import NewerPayloadError, ProviderUploadsError, UnreadableStateError
from provider_uploads.providers.base import Provider
from provider_uploads.settings import settings
from provider_uploads.sources.staging import staging_at
from provider_uploads.sweep import Finding, Kind, Sweep
from tasks.celery import app
from tasks.connections import ledger, log, provider
from tasks.later import say


# No events: a sweep every ten seconds would bury the uploads in Flower's list.
@app.task(name=protocol.SWEEP, ignore_result=True, send_events=False)
def sweep(at_provider: bool = False) -> None:
    """Sweep the ledger; with ``at_provider`` also the staging place and every profile's files."""
    sweeping = Sweep(
        ledger(),
        app,
        lambda message: message.apply_async(),
        quiet_s=policy.sweep_quiet_s,
        staging=staging_at(settings().staging) if settings().staging else None,
    )
    with sweeping.alone(policy.lease_s) as alone:
        if not alone:
            return
        for finding in sweeping.unmoved():
            _mend(sweeping, finding)
        sweeping.done(policy.sweep_every_s)
        if at_provider:
            _sweep_staging(sweeping)
            for name in settings().profile_names:
                _sweep_provider(sweeping, name)


@beat_init.connect
def _sweep_at_once(**_: Any) -> None:
    """Whoever starts beat need not wait for the first sweep to know that it works."""
    try:
        sweep.apply_async(expires=policy.sweep_every_s, retry=False)
    except OperationalError as error:
        log.warning("the first sweep comes later: %s", error)


def _sweep_staging(sweeping: Sweep) -> None:
    try:
        for finding in sweeping.staged():
            _mend(sweeping, finding)
    except ProviderUploadsError as error:
        log.warning("sweep of the staging place: %s", error)


def _sweep_provider(sweeping: Sweep, profile: str) -> None:
    """One account that cannot be asked is no reason to leave out the others."""
    try:
        account = provider(profile)
        found = [*sweeping.at_provider(profile, account)]
        found += sweeping.jobs_at_provider(profile, account)
        for finding in found:
            if finding.kind is Kind.UNKNOWN and not policy.sweep_unknown:
                continue
            _mend(sweeping, finding, {profile: account})
    except ProviderUploadsError as error:
        log.warning("sweep of profile %s: %s", profile, error)


def _mend(sweeping: Sweep, finding: Finding, providers: Mapping[str, Provider] = {}) -> None:
    if finding.kind is Kind.UNREADABLE:  # until somebody removes it, in each sweep
        say(finding.subject, finding.why, "sweep: %s", finding.why)
        return
    log.warning("sweep: %s %s: %s", finding.kind, finding.subject, finding.why)
    try:
        sweeping.mend(finding, providers)
    except (NewerPayloadError, UnreadableStateError) as error:
        say(finding.subject, "mend", "sweep: %s stays as it is: %s", finding.subject, error)
