"""The root of the tree and its two branches."""

from __future__ import annotations

from typing import Any


class ProviderUploadsError(Exception):
    """Whatever this library raises on purpose."""

    def __init__(self, *data: Any) -> None:
        super().__init__(*data)

    def as_record(self) -> dict[str, Any]:
        """Return the error as JSON: ``{"type": class name, "args": [...], "message": text}``."""
        return {"type": type(self).__name__, "args": list(self.args), "message": str(self)}


class TransientError(ProviderUploadsError):
    """Worth trying again: the same call may succeed later."""

    #: Seconds the other side asked us to wait, when it did.
    retry_after_s: float | None = None


class PermanentError(ProviderUploadsError):
    """Trying again changes nothing."""
