"""What every web app needs between the queue and a browser, whatever its framework.

public         an upload as a browser may see it
sse            an event stream as server-sent events
problem        an error as HTTP: a status, headers and a body of problem+json
BatchWebhooks  the provider's webhooks about batches, verified
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from provider_uploads.web.problems import Problem, problem
from provider_uploads.web.sse import SSE_HEADERS, sse
from provider_uploads.web.views import public

if TYPE_CHECKING:
    from provider_uploads.web.batch_webhooks import BatchEvent, BatchWebhooks

__all__ = ["SSE_HEADERS", "BatchEvent", "BatchWebhooks", "Problem", "problem", "public", "sse"]


def __getattr__(name: str) -> Any:
    if name in {"BatchEvent", "BatchWebhooks"}:  # only who has batches needs what they import
        return getattr(import_module(f"{__name__}.batch_webhooks"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
