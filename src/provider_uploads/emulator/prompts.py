"""What a generateContent request gives to the model: texts, files, inline data."""

from __future__ import annotations

import base64
import binascii
import hashlib
import mimetypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

from provider_uploads.emulator.errors import invalid_argument, not_active
from provider_uploads.emulator.files import FileStore
from provider_uploads.emulator.messages import camel_case
from provider_uploads.emulator.prompt_parts import PromptPart
from provider_uploads.emulator.request_types import GENERATE_CONTENT

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

# What stands beside the data of a part.
_NO_DATA = {
    "thought",
    "thought_signature",
    "part_metadata",
    "video_metadata",
    "media_resolution",
    "media_processing",
    "audio_transcription",
    "speech_metadata",
    "document_metadata",
    "spreadsheet_metadata",
    "audio_metadata",
}

# Documented: what one inline PDF may have. A whole request may have more.
_MAX_INLINE_PDF_BYTES = 50 * 1024 * 1024

# Of the service itself, of this one under whatever name it was reached, of one behind a proxy.
_FILE_URI = re.compile(r"(?:http://[^?#]+|https://[^?#]+/v1(?:beta|alpha)?)/files/([^/?#]+)")
# What else may be named: the service would fetch it.
_WEB_URI = re.compile(r"https://[^/?#\s]+(?:[/?#]\S*)?")
_YOUTUBE_URI = re.compile(r"https://(?:(?:www\.|m\.)?youtube\.com|youtu\.be)/\S+")

# An older client says "function" for the result of a call.
_ROLES = (None, "", "user", "model", "function")

_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "candidate_count": (1, 8),
    "max_output_tokens": (1, 2**31 - 1),
}


@dataclass(frozen=True)
class _FilePart:
    uri: str
    mime_type: str | None


@dataclass(frozen=True)
class Prompt:
    """The request, read; its files are not looked up yet."""

    parts: tuple[PromptPart | _FilePart, ...]
    wants_json: bool = False
    cached_content: str | None = None
    store_names: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, body: Any) -> Self:
        """Read a GenerateContentRequest; 400 if it is none."""
        return cls.from_request(GENERATE_CONTENT.parse(body))

    @classmethod
    def from_request(cls, request: Mapping[str, Any]) -> Self:
        """Take from a parsed request what is looked at here; 400 if it makes no sense."""
        config = request.get("generation_config", {})
        _check_ranges(config)
        cached_content = request.get("cached_content") or None
        if cached_content and {"system_instruction", "tools", "tool_config"} & request.keys():
            raise invalid_argument(
                "CachedContent can not be used with GenerateContent request setting "
                "system_instruction, tools or tool_config."
            )
        return cls(
            parts_of(request, "GenerateContentRequest"),
            wants_json=config.get("response_mime_type") == "application/json",
            cached_content=cached_content,
            store_names=tuple(
                name
                for tool in request.get("tools", ())
                for name in tool.get("file_search", {}).get("file_search_store_names", ())
            ),
        )

    @property
    def file_uris(self) -> list[str]:
        """The files as they are named."""
        return [part.uri for part in self.parts if isinstance(part, _FilePart)]

    def prompt_parts(self, files: FileStore, owner: str, now_ns: int) -> list[PromptPart]:
        """Look up the files.

        403 for one that is missing, expired, or another key's; 400 for one that is not ACTIVE or
        of a type no model reads.
        """
        return look_up(self.parts, files, owner, now_ns)


def look_up(
    parts: Sequence[PromptPart | _FilePart], files: FileStore, owner: str, now_ns: int
) -> list[PromptPart]:
    """The parts with what is known of their files, as ``Prompt.prompt_parts``."""
    return [
        part if isinstance(part, PromptPart) else _look_up(part, files, owner, now_ns)
        for part in parts
    ]


def parts_of(
    request: Mapping[str, Any], message: str, *, required: bool = True
) -> tuple[PromptPart | _FilePart, ...]:
    """The parts of a message's ``system_instruction`` and ``contents``; 400 if there are none."""
    contents = request.get("contents", [])
    if required and not contents:
        raise invalid_argument(f"* {message}.contents: contents is not specified\n")
    parts: list[PromptPart | _FilePart] = []
    instruction = request.get("system_instruction")
    if instruction is not None:
        where = f"{message}.system_instruction"
        parts += content_parts(instruction, where, "system instruction")
    for number, content in enumerate(contents):
        if content.get("role") not in _ROLES:
            raise invalid_argument("Please use a valid role: user, model.")
        parts += content_parts(content, f"{message}.contents[{number}]", "text")
    return tuple(parts)


def content_parts(
    content: Mapping[str, Any], where: str, kind: str
) -> list[PromptPart | _FilePart]:
    """The parts of one content; 400 if it has none, or one without anything in it."""
    parts = content.get("parts")
    if not parts:
        raise invalid_argument(f"* {where}.parts: contents.parts must not be empty.\n")
    return [_part(part, f"{where}.parts[{n}]", kind) for n, part in enumerate(parts)]


def _check_ranges(config: Mapping[str, Any]) -> None:
    for name, (least, most) in _RANGES.items():
        value = config.get(name)
        if value is not None and not least <= value <= most:
            raise invalid_argument(
                f"* GenerateContentRequest.generation_config.{name}: {name} must be in the range "
                f"[{least}, {most}].\n"
            )


def _look_up(part: _FilePart, files: FileStore, owner: str, now_ns: int) -> PromptPart:
    named = _FILE_URI.fullmatch(part.uri)
    if part.uri.startswith("gs://"):
        file = files.registered(part.uri, owner)
    elif named is not None:
        file = files.get(named[1], owner)
    elif _WEB_URI.fullmatch(part.uri):
        return _from_the_web(part)
    else:
        raise invalid_argument(f"Invalid or unsupported file uri: {part.uri}")
    if file.state(now_ns) != "ACTIVE":
        raise not_active(file.file_id)
    mime_type = part.mime_type or file.mime_type
    _check_mime_type(mime_type)
    return PromptPart.of_file(file, mime_type)


def _from_the_web(part: _FilePart) -> PromptPart:
    """What the service would fetch; nobody here does."""
    if _YOUTUBE_URI.fullmatch(part.uri):
        return PromptPart(kind="video", name=part.uri, mime_type=part.mime_type or "video/mp4")
    path = part.uri.partition("?")[0]
    mime_type = part.mime_type or mimetypes.guess_type(path)[0] or "text/html"
    _check_mime_type(mime_type)
    return PromptPart(kind="URL", name=part.uri, mime_type=mime_type)


def _part(part: Mapping[str, Any], where: str, kind: str) -> PromptPart | _FilePart:
    held = sorted(part.keys() - _NO_DATA)
    if len(held) > 1:
        raise invalid_argument(
            f"* {where}.data: oneof field 'data' is already set: {', '.join(held)}\n"
        )
    match held:
        case ["text"]:
            return PromptPart(kind=kind, text=part["text"])
        case ["file_data"]:
            uri = part["file_data"].get("file_uri")
            if not uri:
                raise invalid_argument(f"* {where}.file_data.file_uri: must not be empty.\n")
            return _FilePart(uri, part["file_data"].get("mime_type") or None)
        case ["inline_data"]:
            return _inline(part["inline_data"], where)
        case [other]:  # calls of functions, code, their results
            return PromptPart(kind=f"part with {camel_case(other)}", text="")
    raise invalid_argument(
        f"* {where}.data: required oneof field 'data' must have one initialized field\n"
    )


def _inline(inline: Mapping[str, Any], where: str) -> PromptPart:
    mime_type, data = inline.get("mime_type"), inline.get("data")
    if not mime_type or data is None:
        raise invalid_argument(f"{where}.inline_data: must have mime_type and data.")
    _check_mime_type(mime_type)
    raw = decoded(data, f"{where}.inline_data.data")
    if mime_type.lower() == "application/pdf" and len(raw) > _MAX_INLINE_PDF_BYTES:
        raise invalid_argument(
            f"{where}.inline_data: a PDF may have {_MAX_INLINE_PDF_BYTES} bytes inline, this has "
            f"{len(raw)}; upload it as a file."
        )
    return PromptPart(
        kind="inline data",
        mime_type=mime_type,
        size_bytes=len(raw),
        sha256_hex=hashlib.sha256(raw).hexdigest(),
    )


def decoded(data: str, where: str) -> bytes:
    """The bytes of a field; both alphabets are allowed, and the padding may be left out."""
    try:
        standard = data.replace("-", "+").replace("_", "/").rstrip("=")
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_argument(f"{where}: Base64 decoding failed.") from None


def _check_mime_type(mime_type: str) -> None:
    lower = mime_type.lower()
    if any(fnmatchcase(lower, refused) for refused in _REFUSED_MIME_TYPES) or not any(
        fnmatchcase(lower, supported) for supported in _SUPPORTED_MIME_TYPES
    ):
        raise invalid_argument(f"Unsupported MIME type: {mime_type}")
