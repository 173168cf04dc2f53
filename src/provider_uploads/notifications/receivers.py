"""Who may be told of an end: webhooks, and brokers of host applications, each under a name.

Messages hold only the names; addresses and secrets stay where the workers run:

    PROVIDER_UPLOADS_CALLBACKS__ORDERS__URL=https://shop.example/hooks/uploads
    PROVIDER_UPLOADS_CALLBACKS__ORDERS__SECRET=whsec_…
    PROVIDER_UPLOADS_BROKERS__SHOP__URL=amqp://shop:…@rabbit.example//
"""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

#: What Standard Webhooks puts before a secret, and how many bytes it takes.
_PREFIX = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 24, 64


class Callback(BaseModel):
    """A webhook: where to post, and the secret that signs (Standard Webhooks, ``whsec_…``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str
    secret: SecretStr

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http:// or https:// URL")
        return value

    @field_validator("secret")
    @classmethod
    def _is_a_secret(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value().removeprefix(_PREFIX)
        try:
            size = len(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
        except binascii.Error:
            size = 0
        if not _LEAST_BYTES <= size <= _MOST_BYTES:
            raise ValueError(
                f"must be {_PREFIX} and {_LEAST_BYTES} to {_MOST_BYTES} random bytes in base64; "
                f'make one: echo "{_PREFIX}$(openssl rand -base64 32)"'
            )
        return value


class Broker(BaseModel):
    """The broker of a host application's own Celery app, as kombu takes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: SecretStr
    #: The queue for a signature that names none.
    queue: str = "celery"
    #: As the host's ``broker_transport_options``, such as its ``global_keyprefix``.
    transport_options: dict[str, Any] = Field(default_factory=dict)
