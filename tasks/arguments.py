"""What a task's message may hold: its arguments, checked before the task sees them.

A task says by its annotations what it takes. Arguments that it does not know are a newer version's;
others that do not fit are nobody's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from provider_uploads import protocol
from provider_uploads.errors import InvalidRequestError, NewerPayloadError

#: An upload's or a question's id.
Ticket = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_TICKET: TypeAdapter[str] = TypeAdapter(Ticket)


def _for_an_upload(payload: dict[str, Any]) -> dict[str, Any]:
    _TICKET.validate_python(payload.get("upload_id"))
    return payload


#: An UploadRequest as it travels, of whatever version.
Payload = Annotated[dict[str, Any], AfterValidator(_for_an_upload)]


class Arguments:
    """The parameters of a task."""

    def __init__(self, run: Callable[..., Any]) -> None:
        hints = get_type_hints(run, include_extras=True)
        self._signature = inspect.signature(run)
        self._types = {
            name: TypeAdapter(hints[name], config=ConfigDict(strict=True))
            for name in self._signature.parameters
        }

    def checked(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return all arguments in order.

        Raises NewerPayloadError where there are more than are known here, InvalidRequestError
        where one is missing or of the wrong kind.
        """
        if len(args) > len(self._types) or not kwargs.keys() <= self._types.keys():
            raise NewerPayloadError(protocol.PAYLOAD_VERSION + 1, protocol.PAYLOAD_VERSION)
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidRequestError("arguments", "(not shown)", str(error)) from None
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            try:
                self._types[name].validate_python(value)
            except ValidationError as error:
                problem = error.errors(include_input=False)[0]["msg"]
                raise InvalidRequestError(name, "(not shown)", problem) from None
        return bound.args
