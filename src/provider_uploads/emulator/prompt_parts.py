"""One thing a model would have seen: what it is, in words and as an object, and its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from provider_uploads.emulator.files import StoredFile

# Tokens, by the documented rules: a character of text is a quarter, an image 258, a page 258, a
# second of video 263, of audio 32. Seconds and pages are guessed from the size alone.
_CHARS_PER_TOKEN = 4
_IMAGE_TOKENS = _PAGE_TOKENS = 258
_VIDEO_TOKENS_PER_S = 263
_AUDIO_TOKENS_PER_S = 32
_PAGE_BYTES = 50_000
_VIDEO_BYTES_PER_S = 125_000
_AUDIO_BYTES_PER_S = 16_000

_SHORT_SHA256_CHARS = 12


@dataclass(frozen=True, kw_only=True)
class PromptPart:
    """One thing the model would have seen."""

    kind: str
    text: str | None = None
    name: str | None = None
    display_name: str | None = None
    mime_type: str | None = None
    size_bytes: int | None = None
    sha256_hex: str | None = None

    @classmethod
    def of_file(cls, file: StoredFile, mime_type: str) -> Self:
        """A file the service holds, or that it knows where to find."""
        return cls(
            kind="file",
            name=file.gcs_uri or file.name,
            display_name=file.display_name,
            mime_type=mime_type,
            size_bytes=file.size_bytes,
            sha256_hex=file.sha256_hex,
        )

    @property
    def modality(self) -> str:
        """What its tokens are counted as."""
        kind = (self.mime_type or "text").partition("/")[0]
        if self.mime_type == "application/pdf":
            return "DOCUMENT"
        return kind.upper() if kind in ("image", "audio", "video") else "TEXT"

    @property
    def tokens(self) -> int:
        """How many tokens it counts."""
        if self.text is not None:
            return -(-len(self.text) // _CHARS_PER_TOKEN)
        size_bytes = self.size_bytes or 0
        match self.modality:
            case "IMAGE":
                return _IMAGE_TOKENS
            case "DOCUMENT":
                return _PAGE_TOKENS * max(1, -(-size_bytes // _PAGE_BYTES))
            case "VIDEO":
                return _VIDEO_TOKENS_PER_S * max(1, size_bytes // _VIDEO_BYTES_PER_S)
            case "AUDIO":
                return _AUDIO_TOKENS_PER_S * max(1, size_bytes // _AUDIO_BYTES_PER_S)
            case _:
                return -(-size_bytes // _CHARS_PER_TOKEN)

    def sentence(self, quoted_chars: int) -> str:
        """What it is, in words; long texts are cut."""
        if self.text is not None:
            cut = " …" if len(self.text) > quoted_chars else ""
            return f"{self.kind}, {len(self.text)} characters: {self.text[:quoted_chars]}{cut}"
        what = [f"{self.kind} {self.name}" if self.name else self.kind]
        if self.display_name:
            what.append(f'called "{self.display_name}"')
        what.append(f"{self.mime_type}")
        what.append("bytes not here" if self.size_bytes is None else f"{self.size_bytes} bytes")
        if self.sha256_hex is not None:
            what.append(f"sha256 {self.sha256_hex[:_SHORT_SHA256_CHARS]}")
        return ", ".join(what)

    def json(self) -> dict[str, Any]:
        """The same as an object."""
        short = self.sha256_hex and self.sha256_hex[:_SHORT_SHA256_CHARS]
        facts = {
            "kind": self.kind,
            "text": self.text,
            "name": self.name,
            "display_name": self.display_name,
            "mime_type": self.mime_type,
            "size_bytes": self.size_bytes,
            "sha256": short,
        }
        return {name: value for name, value in facts.items() if value is not None}
