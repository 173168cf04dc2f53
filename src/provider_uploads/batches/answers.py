"""One answer of a batch, in whichever way a provider writes it.

{"key": "…", "response": {…}}  or  "error": {"code": …, "message": …}          Gemini's file
{"metadata": {"key": "…"}, "response": {…}}  or  "error": {…}                  Gemini, inline
{"custom_id": "…", "response": {"status_code": 200, "body": {…}}, "error": null}        OpenAI
{"custom_id": "…", "result": {"type": "succeeded", "message": {…}}}                  Anthropic
"""

from __future__ import annotations

from typing import Any, Final

from provider_uploads.schemas import BatchAnswer

_EMPTY: Final = {"code": 13, "message": "the service's answer holds neither response nor error"}


def answer_in(line: dict[str, Any]) -> BatchAnswer:
    """Return the answer of a line; the key is empty where it has none."""
    metadata = line.get("metadata")
    key = line.get("key") or line.get("custom_id")
    if key is None and isinstance(metadata, dict):
        key = metadata.get("key") or metadata.get("custom_id")
    response, error = line.get("response"), line.get("error")
    if isinstance(line.get("result"), dict):
        response, error = _of_anthropic(line["result"])
    elif isinstance(response, dict) and "status_code" in response:
        response, error = _of_openai(response, error)
    if error is not None and not isinstance(error, dict):
        error = {"message": str(error)}
    if error is None and not isinstance(response, dict):
        error = dict(_EMPTY)
    return BatchAnswer(str(key or ""), None if error else response, error or None)


def _of_openai(response: dict[str, Any], error: Any) -> tuple[Any, Any]:
    body = response.get("body")
    if error is None and response.get("status_code", 200) >= 400:
        inner = body.get("error", body) if isinstance(body, dict) else {"message": str(body)}
        error = {"code": response["status_code"], **(inner if isinstance(inner, dict) else {})}
    return body, error


def _of_anthropic(result: dict[str, Any]) -> tuple[Any, Any]:
    if result.get("type") == "succeeded":
        return result.get("message"), None
    return None, result.get("error") or {"message": str(result.get("type"))}
