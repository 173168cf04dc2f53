"""The models there are said to be: a small table, and ``models.list`` and ``models.get``.

Names and limits are those of the documentation. Behind all of them is the same nothing. Others
are known when they are configured: ``EmulatorConfig(models=("gemini-next",))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.calls import Call, answer
from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import ApiError, json_reply, not_found
from provider_uploads.emulator.pages import page_of_items

_GENERATES = ("generateContent", "countTokens", "createCachedContent", "batchGenerateContent")
_EMBEDS = ("embedContent", "countTokens", "asyncBatchEmbedContent")


@dataclass(frozen=True, kw_only=True)
class Model:
    """One row of the table."""

    name: str
    display_name: str
    version: str
    input_tokens: int = 1_048_576
    output_tokens: int = 65_536
    thinks: bool = True

    @property
    def embeds(self) -> bool:
        """Whether it makes vectors instead of answers."""
        return "embedding" in self.name

    def resource(self) -> dict[str, Any]:
        """The Model resource."""
        resource: dict[str, Any] = {
            "name": f"models/{self.name}",
            "version": self.version,
            "displayName": self.display_name,
            "description": "No model: a local Gemini answers in its name.",
            "inputTokenLimit": self.input_tokens,
            "outputTokenLimit": self.output_tokens,
            "supportedGenerationMethods": list(_EMBEDS if self.embeds else _GENERATES),
        }
        if not self.embeds:
            resource |= {"temperature": 1, "topP": 0.95, "topK": 64, "maxTemperature": 2}
            resource |= {"thinking": True} if self.thinks else {}
        return resource


MODELS = (
    Model(name="gemini-2.5-pro", display_name="Gemini 2.5 Pro", version="2.5"),
    Model(name="gemini-2.5-flash", display_name="Gemini 2.5 Flash", version="001"),
    Model(name="gemini-2.5-flash-lite", display_name="Gemini 2.5 Flash-Lite", version="001"),
    Model(
        name="gemini-2.0-flash",
        display_name="Gemini 2.0 Flash",
        version="2.0",
        output_tokens=8_192,
        thinks=False,
    ),
    Model(
        name="gemini-2.0-flash-lite",
        display_name="Gemini 2.0 Flash-Lite",
        version="2.0",
        output_tokens=8_192,
        thinks=False,
    ),
    Model(name="gemini-3-pro-preview", display_name="Gemini 3 Pro Preview", version="3"),
    Model(name="gemini-3-flash-preview", display_name="Gemini 3 Flash Preview", version="3"),
    Model(name="gemini-3.1-pro-preview", display_name="Gemini 3.1 Pro Preview", version="3.1"),
    Model(name="gemini-flash-latest", display_name="Gemini Flash Latest", version="latest"),
    Model(name="gemini-pro-latest", display_name="Gemini Pro Latest", version="latest"),
    Model(
        name="gemini-embedding-001",
        display_name="Gemini Embedding 001",
        version="001",
        input_tokens=2_048,
        output_tokens=1,
    ),
    Model(
        name="gemini-embedding-2-preview",
        display_name="Gemini Embedding 2 Preview",
        version="2",
        input_tokens=8_192,
        output_tokens=1,
    ),
)


def models_of(engine: Engine) -> dict[str, Model]:
    """All models this server knows, by name."""
    configured = (
        Model(name=name, display_name=name, version="configured") for name in engine.config.models
    )
    return {model.name: model for model in (*MODELS, *configured)}


def model_for(engine: Engine, name: str, method: str) -> Model:
    """The model of a name, with or without ``models/``; 404 unless it has that method."""
    model = models_of(engine).get(name.removeprefix("models/"))
    if model is None or method not in (*model.resource()["supportedGenerationMethods"], "get"):
        raise _no_such_model(name, method)
    return model


def _no_such_model(name: str, method: str) -> ApiError:
    return not_found(
        f"models/{name.removeprefix('models/')} is not found for API version v1beta, or is not "
        f"supported for {method}. Call ListModels to see the list of available models and their "
        "supported methods; a local Gemini learns more names by --model."
    )


async def list_models(engine: Engine, request: Request) -> Response:
    """``GET /<version>/models``."""

    async def handler(call: Call) -> Response:
        call.owner()
        await call.apply_faults()
        models = list(models_of(engine).values())
        page, token = page_of_items(call, models, default=50, most=1000)
        return json_reply({"models": [model.resource() for model in page]} | token)

    return await answer(engine, request, Operation.MODELS, handler)


async def get_model(engine: Engine, request: Request) -> Response:
    """``GET /<version>/models/{model}``."""

    async def handler(call: Call) -> Response:
        call.owner()
        name: str = request.path_params["model"]
        await call.apply_faults((f"models/{name}",))
        return json_reply(model_for(engine, name, "get").resource())

    return await answer(engine, request, Operation.MODELS, handler)
