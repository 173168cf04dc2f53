"""Whether anybody can read an item of a queue, before Celery and kombu trust it."""

from __future__ import annotations

import base64
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError


class _Headers(BaseModel):
    model_config = ConfigDict(strict=True)

    id: str = Field(min_length=1, max_length=200)
    task: str = Field(min_length=1, max_length=200)
    retries: NonNegativeInt | None = None
    eta: str | None = None
    expires: str | None = None
    compression: str | None = None


class _Properties(BaseModel):
    model_config = ConfigDict(strict=True)

    delivery_tag: str = Field(min_length=1, max_length=200)
    delivery_info: dict[str, Any]
    body_encoding: Literal["base64"]


class _Item(BaseModel):
    model_config = ConfigDict(strict=True)

    headers: _Headers
    properties: _Properties
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: str = Field(alias="content-encoding")
    body: str


class _Signature(BaseModel):
    model_config = ConfigDict(strict=True)

    task: str
    args: list[Any] | None = None
    options: dict[str, Any] | None = None


class _Embedded(BaseModel):
    """What Celery does after the task, or after all of a group."""

    model_config = ConfigDict(strict=True)

    callbacks: list[_Signature] | None = None
    errbacks: list[_Signature] | None = None
    chain: list[_Signature] | None = None
    chord: _Signature | None = None


_BODY = TypeAdapter(tuple[list[Any], dict[str, Any], _Embedded | None])


def unreadable(item: bytes) -> str:
    """Say why no worker can read an item of a queue; nothing if one can.

    Says which part is wrong, never what stands there: it may be a secret.
    """
    part = ""
    try:
        read = _Item.model_validate_json(item)
        part = "body"
        body = base64.b64decode(read.body, validate=True)
        if not read.headers.compression:
            _BODY.validate_json(body)
    except ValidationError as error:
        complaint = error.errors(include_input=False)[0]
        where = ".".join([part, *map(str, complaint["loc"])]).strip(".") or "the item"
        return f"{where}: {complaint['msg']}"
    except ValueError:
        return "body: no base64"
    return ""
