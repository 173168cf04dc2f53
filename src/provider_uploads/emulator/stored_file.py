"""One file the service holds: its state over time, and its File resource."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from provider_uploads.emulator.clock import SECOND_NS, rfc3339

# 48 hours, a few milliseconds short: the service counts from a moment before createTime.
LIFETIME_NS = 48 * 3600 * SECOND_NS - 5_000_000

# Bits per second of an average clip: what the invented duration of a video is made from.
_VIDEO_BYTES_PER_S = 125_000


class Fate(StrEnum):
    """How the processing of a file ends."""

    ACTIVE = "ACTIVE"
    FAILED = "FAILED"
    STUCK = "STUCK"


class Source(StrEnum):
    """Where the bytes of a file come from; the words are those of the File resource."""

    UPLOADED = "UPLOADED"
    GENERATED = "GENERATED"
    REGISTERED = "REGISTERED"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file; its state follows from the clock.

    ``size_bytes`` and ``sha256_hex`` are None for a registered file: its bytes stay in Cloud
    Storage, and nobody here has seen them. ``lifetime_ns`` None is for as long as it is wanted.
    """

    file_id: str
    owner: str = field(repr=False)
    display_name: str | None
    mime_type: str
    size_bytes: int | None
    sha256_hex: str | None
    create_ns: int
    sequence: int
    processing_ns: int = 0
    fate: Fate = Fate.ACTIVE
    source: Source = Source.UPLOADED
    gcs_uri: str | None = None
    lifetime_ns: int | None = LIFETIME_NS
    path: Path | None = None

    @property
    def name(self) -> str:
        """``files/<id>``."""
        return f"files/{self.file_id}"

    @property
    def labels(self) -> tuple[str, ...]:
        """What a fault may be aimed at."""
        given = (self.name, self.display_name, self.gcs_uri)
        return tuple(label for label in given if label)

    @property
    def expire_ns(self) -> int | None:
        """When the service forgets the file."""
        return None if self.lifetime_ns is None else self.create_ns + self.lifetime_ns

    @property
    def video_duration_s(self) -> int:
        """How long it plays, were it a video: invented, but always the same for the same size."""
        return max(1, (self.size_bytes or 0) // _VIDEO_BYTES_PER_S)

    def state(self, now_ns: int) -> Literal["PROCESSING", "ACTIVE", "FAILED"]:
        """PROCESSING until its time is up, then what its fate says."""
        if self.fate is Fate.STUCK or now_ns < self.create_ns + self.processing_ns:
            return "PROCESSING"
        return "FAILED" if self.fate is Fate.FAILED else "ACTIVE"

    def resource(
        self, now_ns: int, base_url: str, sha256_encoding: Literal["hex", "raw"]
    ) -> dict[str, Any]:
        """The File resource as JSON; ``base_url`` is where its uri can be fetched."""
        state = self.state(now_ns)
        update_ns = self.create_ns + (0 if state == "PROCESSING" else self.processing_ns)
        resource: dict[str, Any] = {"name": self.name}
        if self.display_name is not None:
            resource["displayName"] = self.display_name
        resource["mimeType"] = self.mime_type
        if self.size_bytes is not None:
            resource["sizeBytes"] = str(self.size_bytes)
        resource |= {"createTime": rfc3339(self.create_ns), "updateTime": rfc3339(update_ns)}
        if self.expire_ns is not None:
            resource["expirationTime"] = rfc3339(self.expire_ns, fraction_digits=9)
        if self.sha256_hex is not None:
            resource["sha256Hash"] = _sha256_hash(self.sha256_hex, sha256_encoding)
        resource |= {
            "uri": self.gcs_uri or f"{base_url}/v1beta/{self.name}",
            "state": state,
            "source": str(self.source),
        }
        if self.source is Source.GENERATED:
            resource["downloadUri"] = f"{base_url}/v1beta/{self.name}:download?alt=media"
        if state == "ACTIVE" and self.mime_type.startswith("video/"):
            resource["videoMetadata"] = {"videoDuration": f"{self.video_duration_s}s"}
        if state == "FAILED":
            resource["error"] = {
                "code": 13,
                "message": "The file failed to be processed.",
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "FILE_PROCESSING_FAILED",
                        "domain": "generativelanguage.googleapis.com",
                    }
                ],
            }
        return resource


def _sha256_hash(sha256_hex: str, encoding: Literal["hex", "raw"]) -> str:
    """The base64 of the 64 characters of the hex digest: that is what the service sends.

    Its documentation lets one expect the 32 raw bytes.
    """
    hashed = sha256_hex.encode() if encoding == "hex" else bytes.fromhex(sha256_hex)
    return base64.b64encode(hashed).decode()
