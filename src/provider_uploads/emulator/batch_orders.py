"""What becomes of batches on order: how they end, how long they take, which lines fail.

    POST /_emulator/batches/orders  {"match": "nightly", "state": "BATCH_STATE_FAILED",
                                     "error": {"code": 13, "message": "…"}}
    POST /_emulator/batches/orders  {"failed_keys": ["request-2"], "count": 3}
    POST /_emulator/batches/orders  {"stuck": "pending"}

``match`` is a part of the display name, the model, or the name of the input file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from provider_uploads.emulator.config import MAX_ADVANCE_S
from provider_uploads.emulator.errors import InvalidFaultError
from provider_uploads.emulator.orders import Fate, is_number

SUCCEEDED = "BATCH_STATE_SUCCEEDED"
FAILED = "BATCH_STATE_FAILED"

_LINE_ERROR = {"code": 13, "message": "An internal error has occurred. Please retry."}


@dataclass(frozen=True, kw_only=True)
class BatchFate(Fate):
    """What becomes of a job; unless something is said, all of it succeeds.

    ``state`` is the one it ends in, in any spelling: one the service has never sent shows what a
    client makes of it. With ``BATCH_STATE_FAILED`` comes ``error``; with anything else but the
    states without results, the output. ``running_state`` is shown instead of
    ``BATCH_STATE_RUNNING``. ``pending_s`` and ``running_s`` go before those of the settings.
    ``stuck`` is ``pending`` or ``running``: there the job stays until it expires.

    The lines of ``failed_keys``, and with ``failed_share`` that part of all lines (spread evenly),
    end in ``line_error``. The output leaves out ``missing_keys``, says ``doubled_keys`` twice, and
    is in another order than the input when ``shuffled``. A line without a key goes by its number
    from 1.
    """

    state: str = SUCCEEDED
    error: dict[str, Any] | None = None
    running_state: str = "BATCH_STATE_RUNNING"
    pending_s: float | None = None
    running_s: float | None = None
    stuck: str | None = None
    failed_keys: tuple[str, ...] = ()
    failed_share: float = 0.0
    line_error: dict[str, Any] = field(default_factory=lambda: dict(_LINE_ERROR))
    missing_keys: tuple[str, ...] = ()
    doubled_keys: tuple[str, ...] = ()
    shuffled: bool = False

    def __post_init__(self) -> None:
        for name in ("failed_keys", "missing_keys", "doubled_keys"):
            keys: Any = getattr(self, name)
            if not isinstance(keys, list | tuple) or not all(isinstance(key, str) for key in keys):
                raise InvalidFaultError(f"{name} must be a list of texts")
            object.__setattr__(self, name, tuple(keys))
        for name in ("state", "running_state"):
            state: Any = getattr(self, name)
            if not isinstance(state, str) or not state:
                raise InvalidFaultError(f"{name} must be a text that is not empty")
        for name in ("pending_s", "running_s"):
            seconds: Any = getattr(self, name)
            if seconds is not None and not (is_number(seconds) and 0 <= seconds <= MAX_ADVANCE_S):
                raise InvalidFaultError(f"{name} must be seconds from 0, not {seconds!r}")
        if self.stuck not in (None, "pending", "running"):
            raise InvalidFaultError(f"stuck must be pending or running, not {self.stuck!r}")
        if not (is_number(self.failed_share) and 0 <= self.failed_share <= 1):
            raise InvalidFaultError(f"failed_share must be from 0 to 1, not {self.failed_share!r}")
        for name in ("error", "line_error"):
            error: Any = getattr(self, name)
            if error is not None and not isinstance(error, dict):
                raise InvalidFaultError(f"{name} must be an object with code and message")
        if not isinstance(self.shuffled, bool):
            raise InvalidFaultError("shuffled must be true or false")

    def fails(self, key: str, number: int) -> bool:
        """Is the line of that key, the ``number``th from 1, to end in ``line_error``?"""
        if key in self.failed_keys:
            return True
        return int(number * self.failed_share) > int((number - 1) * self.failed_share)
