"""The shapes of a request: what a caller may write, and what goes over the wire.

    Gemini    {"key": "…", "request": {GenerateContentRequest}}
    inline    {"contents": […], "config": {…}, "metadata": {"key": "…"}}     as in google-genai
    OpenAI    {"custom_id": "…", "method": "POST", "url": "/v1/chat/completions", "body": {…}}

The SDK's flat ``config`` is no part of the REST API, which refuses it: its fields belong into
``generationConfig``, or beside the contents.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from provider_uploads.batches.lines import Entry
from provider_uploads.errors import BatchInputError


class Shape(StrEnum):
    """Whose format a request is in."""

    GEMINI = "gemini"
    OPENAI = "openai"


class Request(NamedTuple):
    """A request, checked: ``body`` is a GenerateContentRequest, or OpenAI's whole line."""

    key: str
    shape: Shape
    body: dict[str, Any]
    #: The line of the input where that has the provider's shape already; else empty.
    line: str = ""


#: GenerationConfig in the REST API (ai.google.dev/api/generate-content).
_GENERATION: Final = frozenset(
    """
    stopSequences responseMimeType responseSchema responseJsonSchema responseModalities
    candidateCount maxOutputTokens temperature topP topK seed presencePenalty frequencyPenalty
    responseLogprobs logprobs enableEnhancedCivicAnswers speechConfig thinkingConfig imageConfig
    mediaResolution audioTimestamp
    """.split()  # noqa: SIM905 - a list of forty names is a page
)
#: What stands beside the contents in the REST API.
_BESIDE: Final = frozenset(
    {"systemInstruction", "safetySettings", "tools", "toolConfig"}
    | {"cachedContent", "labels", "serviceTier", "store"}
)
_REQUEST: Final = _BESIDE | {"contents", "generationConfig", "model"}
#: What the SDK keeps to itself.
_OF_THE_SDK: Final = frozenset(
    {"httpOptions", "automaticFunctionCalling", "shouldReturnHttpResponse"}
)
_LINE: Final = frozenset({"key", "request", "metadata"})
_INLINE: Final = frozenset({"contents", "config", "metadata", "key", "model"})
_OPENAI: Final = frozenset({"custom_id", "method", "url", "body"})
_SNAKE = re.compile(r"_([a-z0-9])")
#: The Batch API's own limit on a key is not documented; OpenAI's is 512.
_LONGEST_KEY: Final = 512


def request_in(entry: Entry, number: int, source: str, *, check_fields: bool = True) -> Request:
    """Return the request of an entry; ``number``, from 1, names one that has no key of its own.

    Raises BatchInputError. Without ``check_fields``, unknown fields are passed on.
    """
    reader = _Reader(entry, source, check_fields)
    value = entry.value
    if _OPENAI & set(value) - {"url"} and "request" not in value:
        return reader.openai(value)
    if "request" in value:
        return reader.gemini(value)
    if "contents" in value:
        return reader.inline(value, number)
    raise reader.error(
        next(iter(value), ""),
        'is no request: write {"key": …, "request": {"contents": …}}, {"contents": …} or, for '
        'OpenAI, {"custom_id": …, "method": "POST", "url": …, "body": …}',
    )


class _Reader:
    def __init__(self, entry: Entry, source: str, check_fields: bool) -> None:
        self._entry = entry
        self._source = source
        self._check_fields = check_fields

    def error(self, field: str, problem: str) -> BatchInputError:
        """Return what is wrong with a field, at the place where it stands."""
        at = max(self._entry.text.find(json.dumps(field, ensure_ascii=False)), 0) if field else 0
        before = self._entry.text[:at]
        newlines = before.count("\n")
        column = at - before.rfind("\n") if newlines else self._entry.column + at
        return BatchInputError(self._source, self._entry.line + newlines, column, problem)

    def gemini(self, value: dict[str, Any]) -> Request:
        self._known(value, _LINE, "a line")
        request = value["request"]
        if not isinstance(request, dict):
            raise self.error("request", "request must be an object")
        key = self._key(value, "key")
        body = self._body(request)
        own = body == request and value["key"] == key and set(value) == {"key", "request"}
        return Request(key, Shape.GEMINI, body, self._line if own else "")

    def inline(self, value: dict[str, Any], number: int) -> Request:
        self._known(value, _INLINE, "an inline request")
        metadata = value.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise self.error("metadata", "metadata must be an object")
        named = value if "key" in value else metadata
        key = self._key(named, "key") if "key" in named else str(number)
        config = value.get("config") or {}
        if not isinstance(config, dict):
            raise self.error("config", "config must be an object")
        return Request(
            key, Shape.GEMINI, self._body({"contents": value["contents"], "config": config})
        )

    def openai(self, value: dict[str, Any]) -> Request:
        self._known(value, _OPENAI, "OpenAI's line")
        key = self._key(value, "custom_id")
        for field, kind in (("url", str), ("body", dict)):
            if not isinstance(value.get(field), kind):
                raise self.error(field if field in value else "", f"has no {field}")
        if value.get("method", "POST") != "POST":
            raise self.error("method", "method must be POST")
        own = "method" in value and value["custom_id"] == key
        return Request(key, Shape.OPENAI, {"method": "POST", **value}, self._line if own else "")

    @property
    def _line(self) -> str:
        """The request as the input has it, if that is one line."""
        return "" if "\n" in self._entry.text else self._entry.text

    def _key(self, value: Mapping[str, Any], field: str) -> str:
        key = value.get(field)
        if isinstance(key, int) and not isinstance(key, bool):
            key = str(key)
        if not isinstance(key, str) or not key.strip():
            raise self.error(field if field in value else "", f"has no {field}, a text of its own")
        if len(key) > _LONGEST_KEY:
            raise self.error(field, f"{field} is longer than {_LONGEST_KEY} characters")
        return key

    def _body(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a GenerateContentRequest; a ``config`` in it is the SDK's."""
        body: dict[str, Any] = {}
        generation: dict[str, Any] = {}
        for field, value in request.items():
            name = _camel(field)
            if name == "config" and isinstance(value, dict):
                self._flat(value, body, generation)
            elif name == "generationConfig" and isinstance(value, dict):
                generation.update(self._generation(value))
            elif name in _REQUEST or not self._check_fields:
                body[name] = value
            elif name in _GENERATION:
                raise self.error(field, f"{field} belongs into generationConfig, or into config")
            else:
                raise self._unknown(field, _REQUEST | {"config"}, "a request")
        if generation:
            body["generationConfig"] = generation
        if "contents" not in body:
            raise self.error("request", "has no contents")
        body["contents"] = self._contents(body["contents"])
        if isinstance(body.get("systemInstruction"), str):
            body["systemInstruction"] = {"parts": [{"text": body["systemInstruction"]}]}
        return body

    def _flat(
        self, config: dict[str, Any], body: dict[str, Any], generation: dict[str, Any]
    ) -> None:
        for field, value in config.items():
            name = _camel(field)
            if value is None or name in _OF_THE_SDK:
                continue
            if name in _BESIDE:
                body[name] = value
            elif name in _GENERATION or not self._check_fields:
                generation[name] = value
            else:
                raise self._unknown(field, _GENERATION | _BESIDE, "config")

    def _generation(self, config: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for field, value in config.items():
            name = _camel(field)
            if self._check_fields and name not in _GENERATION:
                if name in _BESIDE:
                    raise self.error(field, f"{field} belongs beside contents")
                raise self._unknown(field, _GENERATION, "generationConfig")
            found[name] = value
        return found

    def _contents(self, contents: Any) -> list[Any]:
        """Return contents as the API takes them; a text alone is the user's."""
        given = contents if isinstance(contents, list) else [contents]
        if not given:
            raise self.error("contents", "contents are empty")
        return [self._content(one) for one in given]

    def _content(self, content: Any) -> Any:
        if isinstance(content, str):
            return {"role": "user", "parts": [{"text": content}]}
        if not isinstance(content, dict):
            raise self.error("contents", "contents must be texts or objects with parts")
        if "parts" in content:
            return content
        if content.keys() & {"text", "file", "fileData", "file_data", "inlineData", "inline_data"}:
            return {"role": "user", "parts": [content]}
        raise self.error("contents", "a content has no parts")

    def _known(self, value: dict[str, Any], known: frozenset[str], where: str) -> None:
        for field in value if self._check_fields else ():
            if field not in known:
                raise self._unknown(field, known, where)

    def _unknown(self, field: str, known: frozenset[str], where: str) -> BatchInputError:
        close = difflib.get_close_matches(_camel(field), known | _GENERATION, 1)
        hint = f"; is it {close[0]}?" if close else f" (known: {', '.join(sorted(known))})"
        return self.error(field, f"{field} is no field of {where}{hint}")


def _camel(field: str) -> str:
    return _SNAKE.sub(lambda found: found[1].upper(), field)
