"""Pages of a list that is short enough to be counted through."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar

from provider_uploads.emulator.calls import Call
from provider_uploads.emulator.errors import invalid_argument
from provider_uploads.emulator.messages import from_query

_Item = TypeVar("_Item")


def page_of_items(
    call: Call, items: Sequence[_Item], *, default: int, most: int
) -> tuple[Sequence[_Item], dict[str, str]]:
    """The items a request asks for, and ``nextPageToken`` if there are more.

    400 for a size that is no number or below zero, or a token nobody gave out; a size beyond
    ``most`` is taken for ``most``.
    """
    query = call.request.query_params
    size = from_query(query, "page_size") or "0"
    if not (size.isascii() and size.isdigit() and len(size) < 10):
        raise invalid_argument("page_size: must be a number from 0.")
    first = _offset_of(from_query(query, "page_token"))
    end = first + min(int(size) or default, most)
    token = {"nextPageToken": _token_of(end)} if end < len(items) else {}
    return items[first:end], token


def _token_of(offset: int) -> str:
    return base64.urlsafe_b64encode(f"from:{offset}".encode()).decode().rstrip("=")


def _offset_of(token: str | None) -> int:
    if not token:
        return 0
    try:
        padded = token + "=" * (-len(token) % 4)
        word, _, number = base64.b64decode(padded, altchars=b"-_", validate=True).partition(b":")
        if word == b"from" and number.isdigit() and len(number) < 10:
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise invalid_argument("page_token: the page token is not valid.")
