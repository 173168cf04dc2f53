"""The tiers of a file of tiers, and which of them an account is in."""

from __future__ import annotations

from config.policy import policy
from provider_uploads import protocol
from provider_uploads.fleet.tiers import Tier, Tiers, Work
from provider_uploads.settings import settings

#: The task that does each kind of work.
TASKS = {
    Work.UPLOAD: protocol.UPLOAD,
    Work.POLL: protocol.POLL,
    Work.DELETE: protocol.DELETE,
    Work.GENERATE: protocol.GENERATE,
    Work.BATCH: protocol.CREATE_BATCH,
}

tiers = Tiers.read(policy.tiers_file)


def tier_of(profile: str) -> Tier:
    """Return a profile's tier; raises ConfigurationError for an unknown profile or tier."""
    return tiers[settings().profile(profile).tier or settings().tier]
