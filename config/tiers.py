"""The tiers of ``tiers.toml``, and which of them an account is in."""

from __future__ import annotations

from pathlib import Path

from provider_uploads import contract
from provider_uploads.settings import settings
from provider_uploads.tiers import Tier, Tiers, Work

#: The task that does each kind of work.
TASKS = {
    Work.UPLOAD: contract.UPLOAD,
    Work.POLL: contract.POLL,
    Work.DELETE: contract.DELETE,
    Work.GENERATE: contract.GENERATE,
}

tiers = Tiers.read(Path(__file__).with_name("tiers.toml"))


def tier_of(profile: str) -> Tier:
    """Return a profile's tier; raises ConfigurationError for an unknown profile or tier."""
    return tiers[settings().profile(profile).tier or settings().tier]
