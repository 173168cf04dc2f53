"""The web app's side: submit files, ask how they are, fetch results."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provider_uploads.client.async_queue import AsyncUploadQueue
    from provider_uploads.client.queue import UploadQueue

__all__ = ["AsyncUploadQueue", "UploadQueue"]

#: Imported when it is first used: a command has no event loop, an asyncio app seldom a thread.
_WHERE = {"AsyncUploadQueue": "async_queue", "UploadQueue": "queue"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
