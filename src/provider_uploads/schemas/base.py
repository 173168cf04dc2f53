"""What all records have in common, and how they are read."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from provider_uploads import protocol
from provider_uploads.errors import (
    InvalidRequestError,
    NewerPayloadError,
    NewerRowError,
    UnreadableStateError,
)


class Record(BaseModel):
    """A frozen value; unknown fields are refused, changes are copies."""

    model_config = ConfigDict(frozen=True, extra="forbid")


RecordT = TypeVar("RecordT", bound=Record)

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.:-]*"
#: A model's name, of which the URL of a request is made: no part of it begins with a dot.
ModelName = Annotated[str, Field(pattern=rf"^{_NAME}(/{_NAME})*$", max_length=200)]


def received(cls: type[RecordT], payload: dict[str, Any]) -> RecordT:
    """Return what another process wrote.

    Raises NewerPayloadError for a version above ours, InvalidRequestError for anything else that
    does not fit.
    """
    version = payload.get("version")
    if isinstance(version, int) and version > protocol.PAYLOAD_VERSION:
        raise NewerPayloadError(version, protocol.PAYLOAD_VERSION)
    return checked(cls, payload)


#: Complaints about what is there and not known, as a newer version may write it.
_UNKNOWN = {"extra_forbidden", "enum", "literal_error"}


def stored(cls: type[RecordT], subject: str, values: dict[str, Any]) -> RecordT:
    """Return ``cls`` of what Redis holds of ``subject``.

    Raises NewerRowError for fields, stages and versions that only a newer version knows,
    UnreadableStateError for anything else that does not fit.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        complaints = error.errors(include_input=False)
        unknown = next((one for one in complaints if one["type"] in _UNKNOWN), None)
        complaint = unknown or complaints[0]
        field = ".".join(str(part) for part in complaint["loc"]) or cls.__name__
        refused = NewerRowError if unknown else UnreadableStateError
        raise refused(subject, f"{field}: {complaint['msg']}") from None


def checked(cls: type[RecordT], values: dict[str, Any]) -> RecordT:
    """Return ``cls`` of ``values``; its first complaint becomes an InvalidRequestError."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        complaint = error.errors()[0]
        field = ".".join(str(part) for part in complaint["loc"]) or cls.__name__
        problem = complaint["msg"].removeprefix("Value error, ")
        # A source may be a signed URL, and so may a whole payload hold one.
        # What is not known may be anything, also a key.
        secret = field in {"source", cls.__name__} or complaint["type"] == "extra_forbidden"
        value = "(not shown)" if secret else repr(complaint["input"])
        raise InvalidRequestError(
            field, value if len(value) <= 80 else value[:77] + "…", problem
        ) from None
