"""The environment, read once.

Every name has the prefix ``PROVIDER_UPLOADS_`` (``PROVIDER_UPLOADS_REDIS_URL`` …); the key is
also found where the SDK looks for it: ``GEMINI_API_KEY``, then ``GOOGLE_API_KEY``. A file ``.env``
in the working directory is read too, below the environment itself; ``PROVIDER_UPLOADS_ENV_FILE``
names another one, or none when it is empty.

Further accounts are *profiles*, under names of their own:

    PROVIDER_UPLOADS_PROFILES__BATCH__API_KEY=…
    PROVIDER_UPLOADS_PROFILES__BATCH__BASE_URL=https://gateway.example/genai
    PROVIDER_UPLOADS_PROFILES__BATCH__HEADERS={"x-model-provider": "openai"}
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl, urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from provider_uploads.errors import ConfigurationError
from provider_uploads.notifications.receivers import Broker, Callback
from provider_uploads.profiles import (
    DEFAULT_PROFILE,
    GEMINI_URL,
    ApiKey,
    BaseUrl,
    Headers,
    Profile,
    ProfileName,
)
from provider_uploads.protocol import SOURCE_SCHEMES

_PREFIX: Final = "PROVIDER_UPLOADS_"
#: Read by env_file, by Flower's configuration, and by docker-compose.yml.
_READ_ELSEWHERE: Final = frozenset(
    {"ENV_FILE", "FLOWER_AUTH", "FLOWER_PORT", "FLOWER_ADDRESS", "USER", "FILES"}
    | {"WORKERS_BASE_URL", "REDIS_PORT", "EMULATOR_PORT"}
)


class Settings(BaseSettings):
    """Where things are, and who we are. Numbers for the tasks stand in ``config/``."""

    model_config = SettingsConfigDict(
        env_prefix="PROVIDER_UPLOADS_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="ignore",  # an .env file may hold other programs' variables too
        frozen=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    # Not shown: it may hold a password.
    redis_url: str = Field(default="redis://127.0.0.1:6379/0", repr=False)
    #: Seconds that one Redis call of a client may take, and as many to connect.
    redis_timeout_s: float = Field(default=2.0, gt=0)

    #: Ours first, wherever it stands; then the SDK's own two names.
    api_key: ApiKey | None = None
    gemini_api_key: ApiKey | None = Field(default=None, validation_alias="GEMINI_API_KEY")
    google_api_key: ApiKey | None = Field(default=None, validation_alias="GOOGLE_API_KEY")
    base_url: BaseUrl = Field(
        default=GEMINI_URL,
        validation_alias=AliasChoices("PROVIDER_UPLOADS_BASE_URL", "GOOGLE_GEMINI_BASE_URL"),
    )
    #: Which implementation speaks to the default account: ``gemini``, or one that is plugged in.
    provider: str = "gemini"
    #: The SDK's own default is v1; Google documents the Files API under v1beta.
    api_version: str = "v1beta"
    #: Sent with every request to the provider, such as a gateway's ``x-model-provider``.
    headers: Headers = Field(default_factory=dict)
    #: What the default account may do, by the name of a tier in ``config/tiers.toml``.
    tier: str = Field(
        default="free",
        validation_alias=AliasChoices("PROVIDER_UPLOADS_TIER", "GEMINI_BATCH_TIER", "POLLUX_TIER"),
    )
    #: Accounts besides the default one, which is the settings above.
    profiles: dict[ProfileName, Profile] = Field(default_factory=dict)
    #: Seconds without a byte in either direction before a request to the provider is given up.
    provider_timeout_s: float = Field(default=60.0, gt=0)

    #: Without a queue: tries of what may pass, and the seconds before the second (then twice as
    #: long each, at most 8). Somebody is waiting, so it is about 15 s in all.
    direct_tries: int = Field(default=5, ge=1)
    direct_retry_first_s: float = Field(default=1.0, gt=0)
    direct_retry_max_s: float = Field(default=8.0, gt=0)
    direct_retry_factor: float = Field(default=2.0, ge=1)
    direct_retry_jitter: float = Field(default=0.1, ge=0, lt=1)
    #: A longer wait that the provider asks for, as for a new day's quota, is left to the caller.
    direct_longest_wait_s: float = Field(default=300.0, ge=0)

    #: Webhooks and brokers of host applications that may be told of an end; see ``receivers``.
    callbacks: dict[ProfileName, Callback] = Field(default_factory=dict)
    brokers: dict[ProfileName, Broker] = Field(default_factory=dict)

    #: Folders whose files may be read, separated like PATH; the working directory by default.
    roots: Annotated[tuple[Path, ...], NoDecode] = ()

    #: What else may be read: any of s3, gs and https, separated by commas.
    sources: Annotated[frozenset[str], NoDecode] = frozenset()
    #: Most seconds for one https source, from the request to its last byte.
    https_timeout_s: float = Field(default=1800.0, gt=0)
    #: Most seconds until an https source has answered with its headers.
    https_answer_s: float = Field(default=60.0, gt=0)
    #: The least bytes a second of an https source while it is waited for, and how many seconds it
    #: may be slower. A source may take as long as its bytes do at this rate, and a minute.
    https_least_bytes_s: float = Field(default=16_000.0, ge=0)
    https_slow_for_s: float = Field(default=30.0, gt=0)
    #: Networks that https may read from although they are not public, such as an intranet's
    #: ``10.1.0.0/16``, separated by commas.
    https_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    #: Where streams are staged, for web apps and workers alike: a folder or an fsspec URL.
    staging: str | None = Field(default=None, repr=False)
    #: Encrypts URLs with a credential in them while they wait in Redis: a key as
    #: ``cryptography.fernet.Fernet.generate_key()`` makes it, the same for clients and workers;
    #: several, separated by commas: the first encrypts, all decrypt.
    encryption_key: SecretStr | None = None

    @field_validator("encryption_key")
    @classmethod
    def _fernet_keys(cls, value: SecretStr | None) -> SecretStr | None:
        for key in value.get_secret_value().split(",") if value else ():
            if not re.fullmatch(r"[A-Za-z0-9_-]{43}=", key.strip()):
                raise ValueError("is no key of Fernet's: 44 characters, the last one =")
        return value

    @field_validator("sources", mode="before")
    @classmethod
    def _known_sources(cls, value: Any) -> Any:
        given = _parts(value)
        unknown = [part for part in given if part not in SOURCE_SCHEMES]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(SOURCE_SCHEMES)}")
        return frozenset(given)

    @field_validator("https_networks", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        parts = _parts(value)
        for part in parts:
            try:
                ip_network(part)
            except ValueError:
                raise ValueError(
                    f"{part!r} is no network; write its first address and length, as 10.1.0.0/16"
                ) from None
        return parts

    @field_validator("roots", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(os.pathsep) if part)
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str) -> str:
        return redis_url(value)

    @property
    def readable_roots(self) -> tuple[Path, ...]:
        """The allowed folders, resolved."""
        return tuple(root.expanduser().resolve() for root in self.roots or (Path.cwd(),))

    def profile(self, name: str = DEFAULT_PROFILE) -> Profile:
        """Return a profile; raises ConfigurationError naming those there are."""
        if name == DEFAULT_PROFILE:
            return self._default_profile
        if name not in self.profiles:
            known = ", ".join([DEFAULT_PROFILE, *sorted(self.profiles)])
            raise ConfigurationError(
                f"no profile {name!r} here (known: {known}). Set "
                f"PROVIDER_UPLOADS_PROFILES__{name.upper()}__API_KEY where the worker runs."
            )
        return self.profiles[name].model_copy(update={"name": name})

    def callback(self, name: str) -> Callback:
        """Return a webhook; raises ConfigurationError naming those there are."""
        if name not in self.callbacks:
            raise ConfigurationError(
                f"no callback {name!r} here (known: {_names(self.callbacks)}). Set "
                f"PROVIDER_UPLOADS_CALLBACKS__{name.upper()}__URL and …__SECRET where the worker "
                "runs."
            )
        return self.callbacks[name]

    def broker(self, name: str) -> Broker:
        """Return a host application's broker; raises ConfigurationError naming those there are."""
        if name not in self.brokers:
            raise ConfigurationError(
                f"no broker {name!r} here (known: {_names(self.brokers)}). Set "
                f"PROVIDER_UPLOADS_BROKERS__{name.upper()}__URL where the worker runs."
            )
        return self.brokers[name]

    @property
    def profile_names(self) -> tuple[str, ...]:
        """The profiles that have a key."""
        return tuple(name for name in self._all_profiles if self.profile(name).api_key is not None)

    @property
    def keyless_profile_names(self) -> tuple[str, ...]:
        """The profiles that have none."""
        return tuple(name for name in self._all_profiles if self.profile(name).api_key is None)

    @property
    def _all_profiles(self) -> tuple[str, ...]:
        return (DEFAULT_PROFILE, *sorted(self.profiles))

    @property
    def _default_profile(self) -> Profile:
        given = (self.api_key, self.gemini_api_key, self.google_api_key)
        return Profile(
            provider=self.provider,
            api_key=next((key for key in given if key and key.get_secret_value()), None),
            base_url=self.base_url,
            api_version=self.api_version,
            headers=self.headers,
        )


def _parts(value: Any) -> Any:
    """Return what stands between commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _names(known: Iterable[str]) -> str:
    return ", ".join(sorted(known)) or "none"


def env_file() -> str | None:
    """Return the file whose variables stand below the environment's, if there is to be one."""
    named = os.environ.get("PROVIDER_UPLOADS_ENV_FILE")
    if named and not Path(named).is_file():
        raise ConfigurationError(
            f"PROVIDER_UPLOADS_ENV_FILE: there is no file {named}. Correct it, or leave it empty."
        )
    return ".env" if named is None else named or None


def unknown_variables(more: Iterable[str] = ()) -> dict[str, str | None]:
    """Return variables with our prefix that nothing reads, each with the nearest name there is.

    ``more`` are names that others read, without the prefix.
    """
    fields = {name.upper() for name in (*Settings.model_fields, *more)} | _READ_ELSEWHERE
    known = {f"{_PREFIX}{name}" for name in fields}
    nested = tuple(f"{_PREFIX}{name}__" for name in ("PROFILES", "CALLBACKS", "BROKERS"))
    return {
        name: next(iter(get_close_matches(name, known, 1, 0.8)), None)
        for name in sorted(os.environ)
        if name.startswith(_PREFIX) and name not in known and not name.startswith(nested)
    }


@cache
def settings() -> Settings:
    """Return this process's settings; raises ConfigurationError naming a variable that is wrong."""
    with explained():
        # Its fields come from variables, which mypy cannot know.
        return Settings(_env_file=env_file())


@contextmanager
def explained() -> Iterator[None]:
    """Turn the complaints of a settings model into a ConfigurationError of one sentence."""
    try:
        yield
    except SettingsError as error:  # its text names the field and never the value
        raise ConfigurationError(f"a PROVIDER_UPLOADS_ variable is not JSON: {error}.") from None
    except ValidationError as error:
        complaint = error.errors()[0]
        name = _variable(complaint["loc"])
        problem = complaint["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{name}: {problem}. Correct it in the environment.") from None


def _variable(path: tuple[int | str, ...]) -> str:
    """Return the variable that set the field at ``path``."""
    nested = path[0] in {"profiles", "callbacks", "brokers"}
    parts = path if nested else path[:1]
    name = "__".join(str(part) for part in parts if part != "[key]").upper()
    return name if "_UPLOADS_" in name else f"PROVIDER_UPLOADS_{name}"


def redis_url(value: str) -> str:
    """Return ``value`` if it is the URL of a Redis; else raise ValueError saying what is wrong."""
    if urlsplit(value).scheme not in {"redis", "rediss"}:
        raise ValueError("must begin with redis:// or rediss://")
    try:
        urlsplit(value).port  # noqa: B018 - read for its complaint
    except ValueError:
        raise ValueError("has no port number between 0 and 65535 after its host") from None
    if not re.fullmatch(r"(/\d*)?", urlsplit(value).path):
        raise ValueError("has no number of a database after its last slash")
    if any(not name.startswith("ssl_") for name, _ in parse_qsl(urlsplit(value).query)):
        raise ValueError("has an option that is not read: only those of TLS are, ssl_…=…")
    return value


def celery_url(url: str) -> str:
    """Return the URL of a Redis as Celery takes it: with TLS it wants to be told to check."""
    if not url.startswith("rediss://") or "ssl_cert_reqs=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=CERT_REQUIRED"


def without_secrets(url: str) -> str:
    """Return ``url`` as it may be shown: no user, no password, no query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"
