"""The settings of the batches of a local Gemini."""

from __future__ import annotations

import math
from dataclasses import dataclass

# The documented limits: jobs of one project that have not ended, bytes of an input file, bytes of
# a request with everything inline, and how long a job may take before it ends without results.
MAX_CONCURRENT_JOBS = 100
MAX_INPUT_BYTES = 2 * 1024**3
MAX_INLINE_BYTES = 20 * 1024**2
EXPIRES_S = 48 * 3600.0


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How long batches take, and what they may be; times are seconds on the server's clock.

    A job is pending for ``pending_s`` and runs for ``running_s``. A cancelled one needs
    ``cancelling_s`` to end. ``expires_s`` after its creation it ends without results, whatever
    it was doing. ``max_concurrent_jobs`` of one key may be waiting or running; one more is 429.
    ``max_enqueued_tokens`` of one key and model may be in jobs that have started and not ended,
    None is no limit; a job that would make it more fails when it starts, with code 8.
    ``input_checked_at_create``: a malformed input file is refused with 400 when the job is
    created; False lets the job be created and fail when it starts. The service was seen to do
    the first for fields it does not know.

    Under ``/genai``: ``gateway_bare_names`` shows the names of providers other than Gemini as
    ``batch_…`` instead of ``batches/batch_…``. Bifrost was seen to do that, but google-genai
    refuses to get, cancel or delete what it is told that way. ``gateway_own_states`` shows the
    providers' own states (``in_progress``, ``completed``, ``ended``) instead of Gemini's.
    """

    pending_s: float = 1.0
    running_s: float = 2.0
    cancelling_s: float = 0.0
    expires_s: float = EXPIRES_S
    max_concurrent_jobs: int = MAX_CONCURRENT_JOBS
    max_enqueued_tokens: int | None = None
    max_input_bytes: int = MAX_INPUT_BYTES
    max_inline_bytes: int = MAX_INLINE_BYTES
    input_checked_at_create: bool = False
    gateway_bare_names: bool = False
    gateway_own_states: bool = False

    def __post_init__(self) -> None:
        for name in ("pending_s", "running_s", "cancelling_s", "expires_s"):
            seconds = getattr(self, name)
            if not math.isfinite(seconds) or seconds < 0:
                raise ValueError(f"{name} must be seconds from 0, not {seconds!r}")
        limits = ("max_concurrent_jobs", "max_input_bytes", "max_inline_bytes")
        for name in (*limits, "max_enqueued_tokens"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} cannot be negative")
