"""A signed POST by the Standard Webhooks specification (https://www.standardwebhooks.com)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import httpx2
from standardwebhooks import Webhook

from provider_uploads.errors import NotDeliveredError, ReceiverGoneError
from provider_uploads.notifications.receivers import Callback

_GONE = 410


def post(
    callback: Callback,
    webhook_id: str,
    event: str,
    data: dict[str, Any],
    *,
    at: float,
    timeout_s: float,
) -> None:
    """Post one event: ``{"type": event, "timestamp": when it happened, "data": data}``.

    ``webhook_id`` is the same for each attempt of one delivery; receivers drop what they have.
    ``at`` is in seconds since 1970. Any 2xx is success. Redirects are not followed. Raises
    ReceiverGoneError for a 410, NotDeliveredError for anything else.
    """
    body = json.dumps(
        {"type": event, "timestamp": datetime.fromtimestamp(at, UTC).isoformat(), "data": data}
    )
    now = datetime.now(UTC)
    signer = Webhook(callback.secret.get_secret_value())
    headers = {
        "content-type": "application/json",
        "user-agent": "provider-uploads",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signer.sign(msg_id=webhook_id, timestamp=now, data=body),
    }
    try:
        # Its body is not read: a receiver cannot make us hold what it sends.
        with httpx2.stream(
            "POST", callback.url, content=body, headers=headers, timeout=timeout_s
        ) as response:
            status = response.status_code
            retry_after = response.headers.get("retry-after", "")
    except httpx2.HTTPError as error:
        raise NotDeliveredError(type(error).__name__) from None
    if status == _GONE:
        raise ReceiverGoneError(status)
    if not 200 <= status < 300:
        wait_s = float(retry_after) if retry_after.isdecimal() else None
        raise NotDeliveredError(f"it answered {status}", wait_s)
