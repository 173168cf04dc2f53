"""The tiers of a file of tiers, and which of them an account is in."""

from __future__ import annotations

from config.policy import policy
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

tiers = Tiers.read(policy.tiers_file)


def tier_of(profile: str) -> Tier:
    """Return a profile's tier; raises ConfigurationError for an unknown profile or tier."""
    return tiers[settings().profile(profile).tier or settings().tier]
