"""Who can do what: the Gemini service itself, and the providers behind a gateway.

    operation            gemini    through a gateway (Bifrost's /genai), by x-model-provider:
                                   gemini   openai   anthropic   bedrock
    upload                 x         x        x
    list, get, delete      x         x        x
    register (gs://)       x
    generate with files    x         x
    batch from a file      x         x        x
    batch, inline          x         x        x         x
    answers of a batch     x

What a provider cannot do is refused before any request, with what to use instead. A gateway
chooses the names of files itself and forgets an upload session with the first bytes of it; ours
is then found again by a label at the head of its display name.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from provider_uploads.errors import ConfigurationError
from provider_uploads.profiles import Profile
from provider_uploads.providers.base import Capabilities, Operation

#: The header by which a gateway is told whom a request is for; without it, Gemini.
MODEL_PROVIDER: Final = "x-model-provider"

#: A base URL that ends so is a gateway's, header or not.
_GATEWAY_PATH: Final = "/genai"


_FILES = (Operation.UPLOAD, Operation.LIST, Operation.GET, Operation.DELETE)
_BATCHES = (Operation.BATCH_FILE, Operation.BATCH_INLINE)
_ONLY_DIRECTLY = "a profile without a gateway"


#: What a batch may hold at most: docs.anthropic.com, message batches; platform.openai.com, batch.
_ANTHROPIC_REQUESTS: Final = 100_000
_OPENAI_REQUESTS: Final = 50_000


def _gateway(name: str, unsupported: dict[Operation, str], **facts: Any) -> Capabilities:
    """Return a provider behind a gateway, which gives files and batches names of its own."""
    return Capabilities(
        name,
        {
            Operation.REGISTER: _ONLY_DIRECTLY,
            # It has no route for the content of a file, and leaves inline answers out.
            Operation.ANSWERS: "the provider's own API with the name of the output file, or a "
            "profile without a gateway",
            **unsupported,
        },
        takes_names=False,
        resumes=False,
        takes_empty_files=False,
        keeps_mime_type=False,
        keeps_batch_names=False,
        **facts,
    )


_GEMINI = Capabilities("google")
_AT_GATEWAY = {
    "gemini": _gateway("google", {}),
    # Its files have no URI, and a part of a prompt is a URI.
    "openai": _gateway(
        "openai",
        {Operation.GENERATE: "a batch over the file's id, or a gemini profile"},
        openai_batches=True,
        max_inline_requests=_OPENAI_REQUESTS,
    ),
    "anthropic": _gateway(
        "anthropic",
        {
            **dict.fromkeys(_FILES, "inline content, or a gemini or openai profile"),
            Operation.GENERATE: "inline content, or a gemini profile",
            Operation.BATCH_FILE: "inline requests, or a gemini or openai profile",
        },
        max_inline_requests=_ANTHROPIC_REQUESTS,
    ),
    # It wants a bucket and a role, which this protocol has no place for.
    "bedrock": _gateway(
        "bedrock",
        {
            **dict.fromkeys(_FILES, "Amazon's own SDK and an S3 bucket"),
            Operation.GENERATE: "inline content, or a gemini profile",
            **dict.fromkeys(_BATCHES, "Amazon's own SDK, or a gemini, openai or anthropic profile"),
        },
    ),
}


def capabilities_of(profile: Profile) -> Capabilities:
    """Return what answers at a profile's base URL can do; raises ConfigurationError if unknown."""
    named = profile.headers.get(MODEL_PROVIDER)
    if named is None:
        at_gateway = urlsplit(profile.base_url).path.rstrip("/").endswith(_GATEWAY_PATH)
        return _AT_GATEWAY["gemini"] if at_gateway else _GEMINI
    try:
        return _AT_GATEWAY[named.get_secret_value()]
    except KeyError:
        raise ConfigurationError(
            f"{MODEL_PROVIDER}={named.get_secret_value()!r} is no provider known here "
            f"(known: {', '.join(_AT_GATEWAY)}). Correct the profile's headers."
        ) from None
