"""What a generateContent request gives to the model: texts, files, inline data."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

from provider_uploads.emulator.errors import invalid_argument, not_active
from provider_uploads.emulator.files import FileStore, StoredFile

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


# The documented types; those of the text/vnd.* kind, which guessing by file name gives, are not.
_SUPPORTED_MIME_TYPES = (
    "text/*",
    "image/png",
    "image/jpeg",
    "image/webp",
    "image/heic",
    "image/heif",
    "audio/*",
    "video/*",
    "application/pdf",
    "application/json",
    "application/rtf",
    "application/xml",
    "application/javascript",
    "application/x-javascript",
    "application/x-python",
)
_REFUSED_MIME_TYPES = ("text/vnd.*",)

# Keys of a part that holds what is read here, and keys that hold nothing to be read.
_READ = {"text", "fileData", "file_data", "inlineData", "inline_data"}
_NO_DATA = {"thought", "thoughtSignature", "videoMetadata", "video_metadata"}

# Of the service itself, of this one under whatever name it was reached, of one behind a proxy.
_FILE_URI = re.compile(r"https?://[^?#]+/files/([^/?#]+)")


@dataclass(frozen=True)
class _FilePart:
    uri: str
    mime_type: str | None


@dataclass(frozen=True)
class Prompt:
    """The request, read; its files are not looked up yet."""

    parts: tuple[PromptPart | _FilePart, ...]
    wants_json: bool

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Read a GenerateContentRequest, its keys in camelCase or snake_case; 400 if it is none."""
        contents = body.get("contents")
        if not isinstance(contents, list) or not contents:
            raise invalid_argument("* GenerateContentRequest.contents: contents is not specified\n")
        parts: list[PromptPart | _FilePart] = []
        instruction = _either(body, "systemInstruction", "system_instruction")
        if instruction is not None:
            parts += _content(instruction, "system_instruction", "system instruction")
        for number, content in enumerate(contents):
            parts += _content(content, f"contents[{number}]", "text")
        config = _either(body, "generationConfig", "generation_config")
        mime_type = (
            _either(config, "responseMimeType", "response_mime_type")
            if isinstance(config, dict)
            else None
        )
        return cls(tuple(parts), wants_json=mime_type == "application/json")

    @property
    def file_uris(self) -> list[str]:
        """The files as they are named."""
        return [part.uri for part in self.parts if isinstance(part, _FilePart)]

    def prompt_parts(self, files: FileStore, owner: str, now_ns: int) -> list[PromptPart]:
        """Look up the files.

        403 for one that is missing, expired, or another key's; 400 for one that is not ACTIVE or
        of a type no model reads.
        """
        return [
            part if isinstance(part, PromptPart) else _look_up(part, files, owner, now_ns)
            for part in self.parts
        ]


def _look_up(part: _FilePart, files: FileStore, owner: str, now_ns: int) -> PromptPart:
    if part.uri.startswith("gs://"):
        file = files.registered(part.uri, owner)
    else:
        named = _FILE_URI.fullmatch(part.uri)
        if named is None:
            raise invalid_argument(f"Invalid or unsupported file uri: {part.uri}")
        file = files.get(named[1], owner)
    if file.state(now_ns) != "ACTIVE":
        raise not_active(file.file_id)
    mime_type = part.mime_type or file.mime_type
    _check_mime_type(mime_type)
    return PromptPart.of_file(file, mime_type)


def _content(content: Any, where: str, kind: str) -> list[PromptPart | _FilePart]:
    parts = content.get("parts") if isinstance(content, dict) else None
    if isinstance(parts, dict):
        parts = [parts]
    if not isinstance(parts, list) or not parts:
        raise invalid_argument(
            f"* GenerateContentRequest.{where}.parts: contents.parts must not be empty.\n"
        )
    return [_part(part, f"{where}.parts[{n}]", kind) for n, part in enumerate(parts)]


def _part(part: Any, where: str, kind: str) -> PromptPart | _FilePart:
    if isinstance(part, dict):
        if isinstance(part.get("text"), str):
            return PromptPart(kind=kind, text=part["text"])
        file = _either(part, "fileData", "file_data")
        if isinstance(file, dict):
            uri = _either(file, "fileUri", "file_uri")
            mime_type = _either(file, "mimeType", "mime_type")
            if isinstance(uri, str) and isinstance(mime_type, str | None):
                return _FilePart(uri, mime_type)
        inline = _either(part, "inlineData", "inline_data")
        if isinstance(inline, dict):
            return _inline(inline, where)
        others = sorted(set(part) - _NO_DATA)
        if others and _READ.isdisjoint(others):  # calls of functions, code, their results
            return PromptPart(kind=f"part with {', '.join(others)}", text="")
    raise invalid_argument(
        f"* GenerateContentRequest.{where}.data: required oneof field 'data' must have one "
        "initialized field\n"
    )


def _inline(inline: Mapping[str, Any], where: str) -> PromptPart:
    mime_type = _either(inline, "mimeType", "mime_type")
    data = inline.get("data")
    if not isinstance(mime_type, str) or not isinstance(data, str):
        raise invalid_argument(f"{where}.inline_data: must have mime_type and data.")
    _check_mime_type(mime_type)
    try:
        # Both alphabets are allowed, and the padding may be left out.
        standard = data.replace("-", "+").replace("_", "/").rstrip("=")
        raw = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_argument(f"{where}.inline_data.data: Base64 decoding failed.") from None
    return PromptPart(
        kind="inline data",
        mime_type=mime_type,
        size_bytes=len(raw),
        sha256_hex=hashlib.sha256(raw).hexdigest(),
    )


def _check_mime_type(mime_type: str) -> None:
    lower = mime_type.lower()
    if any(fnmatchcase(lower, refused) for refused in _REFUSED_MIME_TYPES) or not any(
        fnmatchcase(lower, supported) for supported in _SUPPORTED_MIME_TYPES
    ):
        raise invalid_argument(f"Unsupported MIME type: {mime_type}")


def _either(body: Mapping[str, Any], camel: str, snake: str) -> Any:
    return body.get(camel, body.get(snake))
