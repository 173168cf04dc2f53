"""Server-sent events, as https://html.spec.whatwg.org/multipage/server-sent-events.html has them.

    retry: 3000

    id: Qm0xXw.7fPZ2A
    data: {"ticket": "…", "stage": "UPLOADING", "sent_bytes": 1048576, …}

    : nothing has changed

    event: end
    data: {}

An id is what the browser knows by then: a short hash of each state it was told last. A browser that
connects again sends it as ``Last-Event-ID`` and is told only what differs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, overload

from provider_uploads.errors import PermanentError, ProviderUploadsError
from provider_uploads.schemas import UploadStatus
from provider_uploads.web.problems import described
from provider_uploads.web.views import public

SSE_HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would hand it over when it is complete
}

#: Uploads that an id speaks of; servers refuse headers of many kilobytes.
_MOST_KNOWN: Final = 200
_HEARTBEAT: Final = b": nothing has changed\n\n"
_END: Final = b"event: end\ndata: {}\n\n"
#: Fields that change by themselves.
_SECONDS: Final = {"queued_s", "upload_s", "processing_s"}

View = Callable[[UploadStatus], dict[str, Any]]


@overload
def sse(
    events: AsyncIterator[UploadStatus] | AsyncIterator[UploadStatus | None],
    *,
    last_event_id: str | None = None,
    retry_s: float = 3.0,
    view: View = public,
) -> AsyncIterator[bytes]: ...


@overload
def sse(
    events: Iterator[UploadStatus] | Iterator[UploadStatus | None],
    *,
    last_event_id: str | None = None,
    retry_s: float = 3.0,
    view: View = public,
) -> Iterator[bytes]: ...


def sse(
    events: Any, *, last_event_id: str | None = None, retry_s: float = 3.0, view: View = public
) -> Any:
    """Return the frames of an event stream, of either queue: the body of a response.

    Each status is a message with what ``view`` shows of it; heartbeats are comments. When all
    uploads have ended comes an event ``end``: the page closes its EventSource then, which would
    connect again. An error comes as an event ``problem``; after one that may pass the browser
    connects again, after ``retry_s`` seconds. ``last_event_id`` is the request's header. The stream
    is closed with the response.
    """
    frames = _Frames(last_event_id, retry_s, view)
    return _asynchronous(events, frames) if hasattr(events, "__anext__") else _plain(events, frames)


async def _asynchronous(events: Any, frames: _Frames) -> AsyncIterator[bytes]:
    try:
        yield frames.first
        async for status in events:
            if frame := frames.of(status):
                yield frame
        yield _END
    except ProviderUploadsError as error:
        yield _problem(error)
    finally:
        await events.aclose()


def _plain(events: Any, frames: _Frames) -> Iterator[bytes]:
    try:
        yield frames.first
        for status in events:
            if frame := frames.of(status):
                yield frame
        yield _END
    except ProviderUploadsError as error:
        yield _problem(error)
    finally:
        events.close()


class _Frames:
    """What one browser is told, and what it knows."""

    def __init__(self, last_event_id: str | None, retry_s: float, view: View) -> None:
        self.first = f"retry: {max(0, round(retry_s * 1000))}\n\n".encode()
        self._known_before = frozenset((last_event_id or "").split("."))
        self._told: dict[str, str] = {}
        self._view = view

    def of(self, status: UploadStatus | None) -> bytes:
        """Return a status as a message; nothing when the browser knows it already."""
        if status is None:
            return _HEARTBEAT
        state = _state(status)
        self._told.pop(status.ticket, None)  # the latest stands last
        self._told[status.ticket] = state
        if state in self._known_before:
            return b""
        known = ".".join([*self._told.values()][-_MOST_KNOWN:])
        return f"id: {known}\ndata: {json.dumps(self._view(status))}\n\n".encode()


def _state(status: UploadStatus) -> str:
    """Return a short hash of all that does not change by itself."""
    text = status.model_dump_json(exclude=_SECONDS)
    short = hashlib.blake2b(text.encode(), digest_size=6).digest()
    return base64.urlsafe_b64encode(short).decode()


def _problem(error: ProviderUploadsError) -> bytes:
    told = f"event: problem\ndata: {json.dumps(described(error))}\n\n".encode()
    return told + _END if isinstance(error, PermanentError) else told
