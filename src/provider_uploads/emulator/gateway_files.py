"""Files as the gateway speaks of them: at which provider, whose, in which words."""

from __future__ import annotations

from typing import Any

from provider_uploads.emulator.calls import Call
from provider_uploads.emulator.clock import rfc3339
from provider_uploads.emulator.errors import ApiError, bad_key
from provider_uploads.emulator.files import FileStore
from provider_uploads.emulator.gateway_store import Provider
from provider_uploads.emulator.stored_file import StoredFile

# The type a client names is lost on the way to the provider, and this is said instead.
MIME_TYPE = "application/octet-stream"

# Whose files they are when a client names no key: the gateway has its own.
_NO_KEY = "gateway"


class GatewayRefusalError(ApiError):
    """A refusal in the gateway's words; the code is often 500 whatever the HTTP status is."""

    def __init__(self, http_status: int, message: str, code: int = 500) -> None:
        error = {"code": code, "message": message, "status": "", "details": None}
        super().__init__(http_status, error)


def provider_of(call: Call) -> str:
    """Whom a request about files is for; nobody checks here whether there is such a provider."""
    return call.request.headers.get("x-model-provider") or Provider.GEMINI.value


def files_at(call: Call, provider: str, request_type: str) -> FileStore:
    """The provider's files; 400 if it has none, or none this client can reach."""
    if provider == Provider.GEMINI:
        return call.engine.files
    if provider == Provider.OPENAI:
        return call.engine.gateway.openai_files
    raise GatewayRefusalError(400, f"{request_type} is not supported by {provider} provider")


def client_of(call: Call) -> str:
    """Who asks; the gateway itself does not care."""
    request = call.request
    return request.headers.get("x-goog-api-key") or request.query_params.get("key") or _NO_KEY


def check_upstream(call: Call, owner: str) -> str:
    """The owner as the provider sees it; 400 if it does not know that key."""
    accepted = call.engine.config.api_keys
    if accepted and owner not in accepted:
        raise bad_key()
    return owner


def uploaded(call: Call, provider: str, file: StoredFile) -> dict[str, Any]:
    """A file in the answer to its upload; only a Gemini's uri leads anywhere."""
    uri = f"{call.base_url}/v1beta/{file.name}" if provider == Provider.GEMINI else ""
    return _common(call, provider, file) | {"mimeType": MIME_TYPE, "uri": uri}


def listed(call: Call, provider: str, file: StoredFile) -> dict[str, Any]:
    """A file in get and list: without a uri it cannot be part of a prompt."""
    common = _common(call, provider, file)
    empty = {"mimeType": "", "sha256Hash": "", "uri": ""}
    return common | {"updateTime": common["createTime"]} | empty


def _common(call: Call, provider: str, file: StoredFile) -> dict[str, Any]:
    # Never source, the digest, or the error of a file that failed.
    common: dict[str, Any] = {
        "name": file.name if provider == Provider.GEMINI else file.file_id,
        "displayName": file.display_name or "",
        "sizeBytes": str(file.size_bytes or 0),
        "createTime": rfc3339(file.create_ns, fraction_digits=0),
        "state": file.state(call.engine.clock()),
    }
    if file.expire_ns is not None:
        common["expirationTime"] = rfc3339(file.expire_ns, fraction_digits=0)
    return common
