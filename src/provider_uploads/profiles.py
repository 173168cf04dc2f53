"""A profile: whose account at which provider, under a name that may travel."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from provider_uploads.errors import MissingCredentialsError

GEMINI_URL: Final = "https://generativelanguage.googleapis.com"

#: The profile of whoever names none.
DEFAULT_PROFILE: Final = "default"

#: What a profile may be called: it is part of a variable's name.
ProfileName = Annotated[str, Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$", max_length=32)]


def _lower(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    return {name.lower(): value for name, value in headers.items()}


#: Header values may be keys of a gateway, so they are kept like keys.
Headers = Annotated[dict[str, SecretStr], AfterValidator(_lower)]


def _api_key(value: SecretStr) -> SecretStr:
    key = value.get_secret_value().strip()  # a file's last line break
    if not (key.isascii() and key.isprintable()):
        raise ValueError("holds a line break or a letter that no key has; copy it again")
    return SecretStr(key)


#: A key as it may stand in a header.
ApiKey = Annotated[SecretStr, AfterValidator(_api_key)]


def _base_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    # A provider that is plugged in may have its place elsewhere, such as in a folder.
    if not (usable or value.startswith("/")):
        raise ValueError("is no URL of a server: write it as https://host or http://host:port/path")
    return value


#: Where a provider is.
BaseUrl = Annotated[str, AfterValidator(_base_url)]


class Profile(BaseModel):
    """An account: the key, the address and what is sent along. It stays where it was read."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = DEFAULT_PROFILE
    #: Which implementation speaks to it: ours, or one that is plugged in.
    provider: str = "gemini"
    api_key: ApiKey | None = None
    base_url: BaseUrl = GEMINI_URL
    api_version: str = "v1beta"
    headers: Headers = Field(default_factory=dict)
    #: What the account may do; none: ``PROVIDER_UPLOADS_TIER``.
    tier: str | None = None

    def key(self) -> str:
        """Return the API key; raises MissingCredentialsError when there is none."""
        if self.api_key is None or not self.api_key.get_secret_value():
            raise MissingCredentialsError("gemini", self.name)
        return self.api_key.get_secret_value()
