"""Requests about batches, ready to be sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2

REQUEST = {"contents": [{"parts": [{"text": "hello"}]}]}


def inline(*requests: dict[str, Any], **batch: Any) -> dict[str, Any]:
    """The body of a create with everything in it."""
    listed = [{"request": request} for request in requests or (REQUEST,)]
    return {"batch": {"inputConfig": {"requests": {"requests": listed}}, **batch}}


def create(client: httpx2.Client, body: dict[str, Any] | None = None) -> httpx2.Response:
    path = "/v1beta/models/gemini-x:batchGenerateContent"
    return client.post(path, json=inline() if body is None else body)


def batch_request(client: httpx2.Client, operation: str) -> Callable[[], httpx2.Response]:
    """A request for an operation, on a job made for it."""
    if operation == "create_batch":
        return lambda: create(client)
    if operation == "webhook":
        return lambda: client.get("/v1beta/webhooks")
    if operation == "list_batches":
        return lambda: client.get("/v1beta/batches")
    name = create(client).json()["name"]
    return {
        "get_batch": lambda: client.get(f"/v1beta/{name}"),
        "cancel_batch": lambda: client.post(f"/v1beta/{name}:cancel"),
        "delete_batch": lambda: client.delete(f"/v1beta/{name}"),
    }[operation]
