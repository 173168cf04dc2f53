"""How many tokens a request has, where nobody has counted them: by the documented rules, roughly.

    text             four bytes a token          an image   258
    a page of a PDF  258                         a second of video 263, of audio 32

(ai.google.dev/gemini-api/docs/tokens.) The service's countTokens would say it, at one request for
each request of the batch. Seconds and pages that nobody knows are guessed from the bytes, rather
too few than too many: what is too much all the same, the service says itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

_BYTES_PER_TOKEN: Final = 4
_IMAGE: Final = 258
_PAGE: Final = 258
_VIDEO_PER_S: Final = 263
_AUDIO_PER_S: Final = 32

#: Guesses: a scanned page, video of 8 Mbit/s, audio of 128 kbit/s, and as it is on a CD.
_PAGE_BYTES: Final = 100_000
_VIDEO_BYTES_PER_S: Final = 1_000_000
_AUDIO_BYTES_PER_S: Final = 16_000
_CD_BYTES_PER_S: Final = 176_400
_UNCOMPRESSED: Final = frozenset({"wav", "x-wav", "wave", "aiff", "x-aiff", "flac", "x-flac"})
#: What the service reads of a PDF.
_MOST_PAGES: Final = 1000


class FileFacts(NamedTuple):
    """What is known of a file that a request names."""

    mime_type: str
    size_bytes: int = 0
    seconds: float | None = None


#: Gives what is known of a file, by its URI or name.
LookUp = Callable[[str], FileFacts | None]


def tokens_in(body: dict[str, Any], look_up: LookUp) -> int:
    """Return the tokens of a request, a GenerateContentRequest or OpenAI's line; an estimate.

    What ``cachedContent`` names is not counted.
    """
    tokens = text_bytes = 0
    for found in _found(body):
        if isinstance(found, str):
            text_bytes += len(found.encode(errors="replace"))
        else:
            mime_type, uri, size_bytes = found
            facts = look_up(uri) if uri else None
            tokens += tokens_of(facts or FileFacts(mime_type, size_bytes))
    return tokens + -(-text_bytes // _BYTES_PER_TOKEN)


def tokens_of(file: FileFacts) -> int:
    """Return the tokens of a file; of one of which nothing is known, those of an image."""
    kind, _, form = file.mime_type.lower().partition("/")
    if kind == "video":
        return _of_seconds(file, _VIDEO_PER_S, _VIDEO_BYTES_PER_S)
    if kind == "audio":
        per_s = _CD_BYTES_PER_S if form in _UNCOMPRESSED else _AUDIO_BYTES_PER_S
        return _of_seconds(file, _AUDIO_PER_S, per_s)
    if form == "pdf":
        return _PAGE * min(max(-(-file.size_bytes // _PAGE_BYTES), 1), _MOST_PAGES)
    if kind == "image" or not file.size_bytes:
        return _IMAGE
    return -(-file.size_bytes // _BYTES_PER_TOKEN)


def _of_seconds(file: FileFacts, per_s: int, bytes_per_s: int) -> int:
    seconds = file.size_bytes / bytes_per_s if file.seconds is None else file.seconds
    return max(int(per_s * seconds), per_s)


#: A file: its MIME type, its URI or name if it has one, its bytes if they are in the request.
_Held = tuple[str, str, int]

#: Texts that no model reads, and whole fields of which it reads nothing.
_SILENT: Final = frozenset(
    {"role", "model", "custom_id", "method", "key", "type", "mimeType", "mime_type"}
    | {"cachedContent", "cached_content", "serviceTier", "service_tier"}
)
_SETTINGS: Final = frozenset({"safetySettings", "safety_settings", "labels"})


def _found(value: Any) -> Iterator[str | _Held]:
    """Yield the texts and the files of a request, wherever they stand."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _found(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if isinstance(one, str):
                yield from _in_text(name, one)
            elif name in {"inlineData", "inline_data"} and isinstance(one, dict):
                yield _mime_type(one), "", _decoded_bytes(one.get("data"))
            elif name in {"fileData", "file_data"} and isinstance(one, dict):
                yield _mime_type(one), str(one.get("fileUri") or one.get("file_uri") or ""), 0
            elif name not in _SETTINGS:
                yield from _found(one)


def _in_text(name: str, text: str) -> Iterator[str | _Held]:
    if name == "file_id":
        yield "", text, 0
    elif name == "url":  # an image for OpenAI, or the path of its line
        if text.startswith("data:"):
            mime_type, _, data = text.removeprefix("data:").partition(";")
            yield mime_type, "", _decoded_bytes(data)
        elif text.startswith("http"):
            yield "image/*", "", 0
    elif name not in _SILENT:
        yield text


def _mime_type(holder: dict[str, Any]) -> str:
    return str(holder.get("mimeType") or holder.get("mime_type") or "")


def _decoded_bytes(base64_text: Any) -> int:
    return len(str(base64_text or "")) * 3 // 4
