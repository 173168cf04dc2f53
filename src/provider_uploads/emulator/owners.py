"""Whose request it is: the key, or the token in its place."""

from __future__ import annotations

from starlette.requests import Request

from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import bad_key, no_key


def owner_of(engine: Engine, request: Request) -> str:
    """The API key, which stands for its project; 403 without one, 400 if it is not known.

    Where any key will do, a bearer token will too: it stands for the project it names.
    """
    key = request.headers.get("x-goog-api-key") or request.query_params.get("key")
    accepted = engine.config.api_keys
    if key:
        if accepted and key not in accepted:
            raise bad_key()
        return key
    token = bearer_token(request)
    if token is None or accepted:
        raise no_key()
    return f"bearer:{request.headers.get('x-goog-user-project') or token}"


def bearer_token(request: Request) -> str | None:
    """The OAuth token a request carries; nobody here can tell whether it is a good one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return (token.strip() or None) if scheme.lower() == "bearer" else None
