"""Tiers: what a provider lets an account do, in Google's words for what it bills.

    [free]
    upload = "60/m"
    …

The numbers are the operator's (``config/tiers.toml``); a rate is written as Celery writes it:
``"10/s"``, ``"60/m"``, ``"500/h"``, or nothing for no limit.
"""

from __future__ import annotations

import json
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

from celery.utils.time import rate
from pydantic import AfterValidator, Field, ValidationError

from provider_uploads.errors import ConfigurationError
from provider_uploads.schemas import Record


class Work(StrEnum):
    """What is counted: each has a rate of its own in every account."""

    UPLOAD = "upload"
    POLL = "poll"
    DELETE = "delete"
    GENERATE = "generate"
    BATCH = "batch"


#: The tier that limits nothing: for the local Gemini, and for gateways that do it themselves.
UNLIMITED: Final = "unlimited"


#: In the place of a rate: nothing new is to begin.
PAUSED: Final = -1.0


def per_minute(text: str | None) -> float:
    """Return what a rate such as ``"10/s"`` allows a minute.

    None is no limit, and returned as 0. Raises ValueError when ``text`` is no rate; ``"0/m"`` could
    mean no limit, as in Celery, or no request, and is none.
    """
    if text is None:
        return 0.0
    try:
        allowed = float(rate(text.strip() or "nothing")) * 60
    except (ValueError, KeyError, TypeError):
        allowed = -1.0
    if not 0 < allowed < float("inf"):
        raise ValueError(f"{text!r} is no rate: write 10/s, 60/m or 500/h")
    return allowed


def shown(allowed: float) -> str:
    """Return a rate of so many a minute as it is written: ``60/m``."""
    if allowed == PAUSED:
        return "paused"
    return f"{allowed:g}/m" if allowed else "no limit"


def _checked(text: str) -> str:
    per_minute(text)
    return text


Rate = Annotated[str, AfterValidator(_checked)]


class Tier(Record):
    """What an account of one tier may do."""

    name: str
    upload: Rate | None = None
    poll: Rate | None = None
    delete: Rate | None = None
    generate: Rate | None = None
    batch: Rate | None = None
    #: Uploads and questions under way in one worker process.
    transfer_concurrency: int = Field(ge=1)
    #: What all files of a project may hold at the provider; None: no limit.
    storage_bytes: int | None = Field(default=None, ge=1)
    #: Batch jobs at once, and the largest input file.
    batch_jobs: int | None = Field(default=None, ge=0)
    batch_file_bytes: int | None = Field(default=None, ge=0)
    #: Tokens waiting in batch jobs, by model.
    batch_tokens: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def said(cls, text: str) -> Tier:
        """Read what a worker published; a newer one may know fields that we do not."""
        fields = json.loads(text)
        return cls(**{name: value for name, value in fields.items() if name in cls.model_fields})

    def rate(self, work: Work) -> str | None:
        """Return the rate of one kind of work, as Celery writes it."""
        rates: dict[Work, str | None] = {
            Work.UPLOAD: self.upload,
            Work.POLL: self.poll,
            Work.DELETE: self.delete,
            Work.GENERATE: self.generate,
            Work.BATCH: self.batch,
        }
        return rates[work]


class Tiers:
    """The tiers there are."""

    def __init__(self, known: dict[str, Tier]) -> None:
        self._known = known

    @classmethod
    def read(cls, path: Path) -> Tiers:
        """Read a file of tiers; raises ConfigurationError naming what is wrong in it."""
        try:
            tables = tomllib.loads(path.read_text("utf-8"))
            return cls({name: _tier(path, name, table) for name, table in tables.items()})
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}. Put it back.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as error:
            raise ConfigurationError(f"{path} is no table of tiers: {error}.") from None

    def __getitem__(self, name: str) -> Tier:
        """Return a tier; raises ConfigurationError naming those there are."""
        if name not in self._known:
            raise ConfigurationError(
                f"no tier {name!r}: PROVIDER_UPLOADS_TIER, or a profile's TIER, may be "
                f"{', '.join(self._known)}. It is the tier of the key's project in AI Studio."
            )
        return self._known[name]


def _tier(path: Path, name: str, table: dict[str, Any]) -> Tier:
    try:
        return Tier(name=name, **table)
    except ValidationError as error:
        complaint = error.errors()[0]
        where = ".".join(map(str, (name, *complaint["loc"])))
        problem = complaint["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{path}: {where}: {problem}.") from None
