"""Who can do what: the Gemini service itself, and the providers behind a gateway.

    operation            gemini    through a gateway (Bifrost's /genai), by x-model-provider:
                                   gemini   openai   anthropic   bedrock
    upload                 x         x        x
    list, get, delete      x         x        x
    register (gs://)       x
    generate with files    x         x

What a provider cannot do is refused before any request, with what to use instead. A gateway
chooses the names of files itself and forgets an upload session with the first bytes of it; ours
is then found again by a label at the head of its display name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from provider_uploads.errors import ConfigurationError, UnsupportedOperationError

#: The header by which a gateway is told whom a request is for; without it, Gemini.
MODEL_PROVIDER: Final = "x-model-provider"

#: A base URL that ends so is a gateway's, header or not.
_GATEWAY_PATH: Final = "/genai"


class Operation(StrEnum):
    """What may be asked of a provider."""

    UPLOAD = "upload"
    LIST = "list"
    GET = "get"
    DELETE = "delete"
    REGISTER = "register"
    GENERATE = "generate"


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider on one way to it; ``cannot`` says for an operation what to use instead."""

    #: As results and refusals call it: ``google``, ``openai`` …
    name: str
    through_gateway: bool = False
    cannot: Mapping[Operation, str] = field(default_factory=dict)

    def require(self, operation: Operation) -> None:
        """Raise UnsupportedOperationError, naming the alternative, for what it cannot do."""
        if operation in self.cannot:
            raise UnsupportedOperationError(self.name, operation.value, self.cannot[operation])

    @property
    def takes_names(self) -> bool:
        """Whether a file gets the name that its uploader chose."""
        return not self.through_gateway

    @property
    def resumes(self) -> bool:
        """Whether an upload session outlives a broken connection."""
        return not self.through_gateway


_FILES = (Operation.UPLOAD, Operation.LIST, Operation.GET, Operation.DELETE)
_ONLY_DIRECTLY = "a profile without a gateway"

_GEMINI = Provider("google")
_GATEWAY = {
    "gemini": Provider("google", through_gateway=True, cannot={Operation.REGISTER: _ONLY_DIRECTLY}),
    "openai": Provider(
        "openai",
        through_gateway=True,
        cannot={
            Operation.REGISTER: _ONLY_DIRECTLY,
            # Its files have no URI, and a part of a prompt is a URI.
            Operation.GENERATE: "a batch over the file's id, or a gemini profile",
        },
    ),
    "anthropic": Provider(
        "anthropic",
        through_gateway=True,
        cannot={
            **dict.fromkeys(_FILES, "inline content, or a gemini or openai profile"),
            Operation.REGISTER: _ONLY_DIRECTLY,
            Operation.GENERATE: "inline content, or a gemini profile",
        },
    ),
    "bedrock": Provider(
        "bedrock",
        through_gateway=True,
        cannot={
            # It wants a bucket and a role, which this protocol has no place for.
            **dict.fromkeys(_FILES, "Amazon's own SDK and an S3 bucket"),
            Operation.REGISTER: _ONLY_DIRECTLY,
            Operation.GENERATE: "inline content, or a gemini profile",
        },
    ),
}


def provider_at(base_url: str, model_provider: str | None) -> Provider:
    """Return who answers at ``base_url`` for this header; raises ConfigurationError if unknown."""
    if model_provider is None:
        at_gateway = urlsplit(base_url).path.rstrip("/").endswith(_GATEWAY_PATH)
        return _GATEWAY["gemini"] if at_gateway else _GEMINI
    try:
        return _GATEWAY[model_provider]
    except KeyError:
        raise ConfigurationError(
            f"{MODEL_PROVIDER}={model_provider!r} is no provider known here "
            f"(known: {', '.join(_GATEWAY)}). Correct the profile's headers."
        ) from None
