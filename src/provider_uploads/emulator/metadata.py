"""What a client says about a file before its bytes arrive."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provider_uploads.emulator.errors import invalid_argument

MAX_DISPLAY_NAME_CHARS = 512

MAX_ID_CHARS = 40

_FILE_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"  # noqa: S105 - a grammar, not a secret
_MIME_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}")


@dataclass(frozen=True, kw_only=True)
class FileMetadata:
    """Name, display name and MIME type as given at ``start``; checked only at ``finalize``."""

    name: str | None
    display_name: str | None
    mime_type: str
    declared_bytes: int | None

    @classmethod
    def from_start(cls, body: Any, headers: Mapping[str, str]) -> FileMetadata:
        """Read a ``start`` request: its JSON body, its headers for what the body leaves out.

        Keys may be snake_case (Python, curl) or camelCase (JavaScript), sizes numbers or strings.
        The header's size is the transport's own and goes before the body's.
        """
        if not isinstance(body, dict):
            raise invalid_argument("The body must be a JSON object.")
        file = body.get("file") or {}
        if not isinstance(file, dict):
            raise invalid_argument("CreateFileRequest.file: must be an object.")
        declared: Any = headers.get("x-goog-upload-header-content-length")
        field = "X-Goog-Upload-Header-Content-Length"
        if declared is None:
            declared = file.get("size_bytes", file.get("sizeBytes"))
            field = "CreateFileRequest.file.size_bytes"
        return cls(
            name=_text(file, "name", "name"),
            display_name=_text(file, "display_name", "displayName"),
            mime_type=_text(file, "mime_type", "mimeType")
            or headers.get("x-goog-upload-header-content-type")
            or "application/octet-stream",
            declared_bytes=None if declared is None else _size(declared, field),
        )

    @classmethod
    def from_raw(cls, headers: Mapping[str, str]) -> FileMetadata:
        """Read what a request says that is nothing but the file's bytes."""
        file_name = headers.get("x-goog-upload-file-name")
        return cls(
            name=None,
            display_name=None if file_name is None else _utf8(file_name),
            mime_type=headers.get("content-type") or "application/octet-stream",
            declared_bytes=None,
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """What a fault may be aimed at."""
        return tuple(label for label in (self.name, self.display_name) if label)

    @property
    def named(self) -> bool:
        """Has the caller chosen a name?"""
        return self.name not in (None, "", "files/")

    def chosen_id(self, max_chars: int = MAX_ID_CHARS) -> str | None:
        """The id the caller chose, None if the service is to make one; 400 if it is not allowed."""
        if self.name is None or not self.named:
            return None
        prefix, _, file_id = self.name.partition("/")
        if prefix != "files":
            raise invalid_argument(
                "CreateFileRequest.file.name: must have the form files/<id>, "
                f"this is {self.name!r}."
            )
        if len(file_id) > max_chars or not _FILE_ID.fullmatch(file_id):
            raise invalid_argument(
                f"CreateFileRequest.file.name: the id may have up to {max_chars} lowercase "
                f"letters, digits and dashes, with no dash first or last; this is {file_id!r}."
            )
        return file_id

    def check(self) -> None:
        """400 unless display name and MIME type are such that a file can be made."""
        if self.display_name is not None and len(self.display_name) > MAX_DISPLAY_NAME_CHARS:
            raise invalid_argument(
                "CreateFileRequest.file.display_name: must be at most "
                f"{MAX_DISPLAY_NAME_CHARS} characters, this has {len(self.display_name)}."
            )
        # The batch documentation uploads with the plain word "jsonl".
        if self.mime_type != "jsonl" and not _MIME_TYPE.fullmatch(self.mime_type):
            raise invalid_argument(
                f"Unsupported MIME type: {self.mime_type}. "
                "It must be type/subtype without parameters."
            )


def _utf8(header: str) -> str:
    """Some clients send UTF-8 in a header; the ASGI server has read it as Latin-1."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _text(file: dict[str, Any], snake: str, camel: str) -> str | None:
    value = file.get(snake, file.get(camel))
    if value is None or isinstance(value, str):
        return value
    raise invalid_argument(f"CreateFileRequest.file.{snake}: must be a string.")


def _size(value: Any, field: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
        return int(value)
    raise invalid_argument(f"{field}: must be a number of bytes, this is {value!r}.")
