"""The clock, the operations, and the settings of a local Gemini."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from provider_uploads.emulator.batch_config import BatchConfig

# Nanoseconds since the epoch. Every state and every expiry is computed from it when asked.
Clock = Callable[[], int]

SECOND_NS = 1_000_000_000

# Ten years: enough for every expiry, and far from where dates end.
MAX_ADVANCE_S = 10 * 366 * 24 * 3600

system_clock: Clock = time.time_ns


class AdjustableClock:
    """Another clock and the time it has been put forward; it never goes back."""

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._ahead_ns = 0

    def __call__(self) -> int:
        """Nanoseconds since the epoch, put forward."""
        return self._clock() + self._ahead_ns

    @property
    def advanced_s(self) -> float:
        """How far it has been put forward."""
        return self._ahead_ns / SECOND_NS

    def advance(self, advance_s: Any) -> None:
        """Put it forward; ValueError if that would not be forward, or absurdly far."""
        if (
            isinstance(advance_s, bool)
            or not isinstance(advance_s, int | float)
            or not math.isfinite(advance_s)
            or advance_s < 0
        ):
            raise ValueError(f"advance_s must be seconds from 0, not {advance_s!r}")
        if self.advanced_s + advance_s > MAX_ADVANCE_S:
            raise ValueError(f"advance_s: {MAX_ADVANCE_S} seconds ahead are the most")
        self._ahead_ns += int(advance_s * SECOND_NS)


def rfc3339(time_ns: int, *, fraction_digits: int = 6) -> str:
    """``2025-05-01T09:30:00.123456Z``; the service gives nine digits for expiry, else six."""
    whole_s, rest_ns = divmod(time_ns, SECOND_NS)
    fraction = f".{rest_ns:09d}"[: fraction_digits + 1] if fraction_digits else ""
    return f"{datetime.fromtimestamp(whole_s, UTC).isoformat()[:19]}{fraction}Z"


class Operation(StrEnum):
    """One kind of call, at the service itself or through the gateway.

    ``upload`` is every request with file bytes (raw, multipart, a chunk) and a bare ``finalize``;
    ``download`` is both the redirect and the request for the bytes that follows it; ``webhook``
    is every call about webhooks that a project registers; ``generate`` is with and without a
    stream, ``cache`` all of cachedContents, ``search`` all of fileSearchStores but the bytes.
    """

    START = "start"
    UPLOAD = "upload"
    QUERY = "query"
    CANCEL = "cancel"
    GET = "get"
    LIST = "list"
    DELETE = "delete"
    REGISTER = "register"
    DOWNLOAD = "download"
    GENERATE = "generate"
    CREATE_BATCH = "create_batch"
    GET_BATCH = "get_batch"
    LIST_BATCHES = "list_batches"
    CANCEL_BATCH = "cancel_batch"
    DELETE_BATCH = "delete_batch"
    WEBHOOK = "webhook"
    MODELS = "models"
    COUNT = "count"
    EMBED = "embed"
    CACHE = "cache"
    SEARCH = "search"


# Where the service is. Several clients take a file's uri only if it begins with this.
GOOGLE_URI = "https://generativelanguage.googleapis.com"

# 2 GB per file is the documented limit.
MAX_FILE_BYTES = 2 * 1024**3
# 20 GB per project are the documented limit; here every key is a project.
MAX_PROJECT_BYTES = 20 * 1024**3

# What one document of a file search store may have.
MAX_DOCUMENT_BYTES = 100 * 1024 * 1024

# Types the service works on before it calls the file ACTIVE; all others are ACTIVE at once.
PROCESSED_MIME_TYPES = ("video/*", "application/pdf")


@dataclass(frozen=True, kw_only=True)
class EmulatorConfig:
    """The settings of one local Gemini; all have defaults, none is about a host or a port.

    ``processing_by_mime`` maps MIME types or patterns to seconds and goes before ``processing_s``,
    an exact type before a pattern: ``{"video/*": 3, "image/png": 1}``. An empty ``api_keys``
    accepts any key that is not empty; every key is a project of its own and owns its files.
    ``bandwidth_mib_s`` is what one upload may bring a second, 0 for as much as it can.
    ``keep_bytes`` keeps the bytes of finished files on disk for as long as the emulator runs; of
    what begins like a line of JSON, from which a batch may be made, they are kept in any case.
    ``data_dir`` is where the emulator makes its own temporary folder (default: the system's).
    ``max_project_bytes`` is what all files of one key may have together.
    ``requests_per_minute`` and ``requests_per_day`` limit operations, for each key on its own:
    ``{"start": 60}``. A minute is any 60 seconds, a day begins at midnight in California; beyond
    them is 429 with the quota that was hit.
    ``public_uri`` is what the uris of files begin with; empty is the address the client used.
    ``models`` are names to know beside those of ``models.py``. ``min_cache_tokens`` is the least
    that cached contents may count.
    ``gateway_finalizes_first``: under ``/genai`` the first request with bytes is taken for the
    whole file, as Bifrost does; False lets chunks add up until ``finalize``.
    ``takes_multipart=False`` refuses a file whose description and bytes come in one request.
    ``batches`` has settings of its own, see ``BatchConfig``.
    """

    processing_s: float = 2.0
    processing_by_mime: Mapping[str, float] = field(default_factory=dict)
    latency_ms: float = 0.0
    bandwidth_mib_s: float = 0.0
    api_keys: frozenset[str] = field(default=frozenset(), repr=False)
    keep_bytes: bool = False
    data_dir: Path | None = None
    sha256_encoding: Literal["hex", "raw"] = "hex"
    max_file_bytes: int = MAX_FILE_BYTES
    max_project_bytes: int = MAX_PROJECT_BYTES
    chunk_granularity_bytes: int = 256 * 1024
    requests_per_minute: Mapping[Operation, int] = field(default_factory=dict)
    requests_per_day: Mapping[Operation, int] = field(default_factory=dict)
    gateway_finalizes_first: bool = True
    takes_multipart: bool = True
    batches: BatchConfig = field(default_factory=BatchConfig)
    public_uri: str = GOOGLE_URI
    models: tuple[str, ...] = ()
    min_cache_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.processing_s < 0 or any(s < 0 for s in self.processing_by_mime.values()):
            raise ValueError("a processing time cannot be negative: give seconds, 0 for at once")
        if self.latency_ms < 0:
            raise ValueError("latency_ms cannot be negative: give milliseconds, 0 for none")
        if self.bandwidth_mib_s < 0:
            raise ValueError(
                "bandwidth_mib_s cannot be negative: give MiB a second, 0 for no limit"
            )
        if self.max_file_bytes < 0:
            raise ValueError("max_file_bytes cannot be negative")
        if self.max_project_bytes < 0:
            raise ValueError("max_project_bytes cannot be negative")
        if self.chunk_granularity_bytes < 1:
            raise ValueError("chunk_granularity_bytes must be at least 1 (1 allows every length)")
        if self.public_uri and not re.fullmatch(r"https?://[^/?#\s]+[^?#\s]*", self.public_uri):
            raise ValueError("public_uri is a URL such as https://gemini.test, or empty")
        if self.min_cache_tokens < 0:
            raise ValueError("min_cache_tokens cannot be negative")
        object.__setattr__(self, "public_uri", self.public_uri.rstrip("/"))
        for name in ("requests_per_minute", "requests_per_day"):
            object.__setattr__(self, name, _limits(name, getattr(self, name)))
        if self.sha256_encoding not in ("hex", "raw"):
            raise ValueError('sha256_encoding is "hex" (base64 of the hex text) or "raw"')

    def processing_s_for(self, mime_type: str) -> float:
        """How long a file of this type stays PROCESSING; 0 means ACTIVE at once."""
        mime_type = mime_type.lower()
        if mime_type in self.processing_by_mime:
            return self.processing_by_mime[mime_type]
        for pattern, seconds in self.processing_by_mime.items():
            if fnmatchcase(mime_type, pattern):
                return seconds
        if any(fnmatchcase(mime_type, pattern) for pattern in PROCESSED_MIME_TYPES):
            return self.processing_s
        return 0.0


def _limits(name: str, limits: Mapping[Operation, Any]) -> dict[Operation, int]:
    known = ", ".join(Operation)
    for operation, limit in limits.items():
        if operation not in list(Operation):
            raise ValueError(f"{name}: {operation!r} is no operation; there are {known}")
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"{name}: {operation} needs a whole number from 1, not {limit!r}")
    return {Operation(operation): limit for operation, limit in limits.items()}
