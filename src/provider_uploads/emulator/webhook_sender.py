"""Telling endpoints how batches ended: events, deliveries, and trying again.

    POST <uri>                      {"type": "batch.succeeded", "version": "v1",
    webhook-id: msg_…                "timestamp": "2026-01-22T12:00:00Z",
    webhook-timestamp: …             "data": {"id": "batches/…", "output_file_uri": "files/…"}}
    webhook-signature: …

What does not answer 2xx within a few seconds is tried again for 24 hours, less and less often.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from provider_uploads.emulator.batch_jobs import CANCELLED, EXPIRED, BatchJob
from provider_uploads.emulator.batch_orders import FAILED
from provider_uploads.emulator.config import SECOND_NS, Clock, rfc3339
from provider_uploads.emulator.orders import OrderBook
from provider_uploads.emulator.webhook_orders import DeliveryFate, Forgery
from provider_uploads.emulator.webhook_signing import SigningKey, new_secret, sign, unsigned_token
from provider_uploads.emulator.webhook_store import StaticWebhook, WebhookStore

# Documented: answered within a few seconds, else tried again for 24 hours.
PATIENCE_S = 5.0
GIVE_UP_NS = 24 * 3600 * SECOND_NS
FIRST_RETRY_S = 1.0
MAX_RETRY_S = 3600.0

_TICK_S = 0.05
# Older than any receiver should accept.
_OLD_S = 3600
# Of so many deliveries the latest are told.
_MAX_TOLD = 10_000

_PING = "webhook.ping"
_EVENTS = {FAILED: "batch.failed", CANCELLED: "batch.cancelled", EXPIRED: "batch.expired"}


@dataclass(kw_only=True)
class Delivery:
    """One event for one endpoint, until it is there or given up; all times are the server's.

    ``webhook`` is None for a dynamic one: those are signed with the service's own key.
    """

    event: dict[str, Any]
    uri: str
    webhook: StaticWebhook | None
    fate: DeliveryFate
    start_ns: int
    due_ns: int
    message_id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")
    answers: list[str] = field(default_factory=list)
    done: bool = False
    under_way: bool = False

    def json(self) -> dict[str, Any]:
        """What happened to it, for the control endpoints."""
        return {
            "id": self.message_id,
            "type": self.event["type"],
            "job": self.event["data"].get("id"),
            "uri": self.uri,
            "dynamic": self.webhook is None,
            "due": rfc3339(self.due_ns),
            "answers": list(self.answers),
            "done": self.done,
            **self.fate.json(),
        }


class WebhookSender:
    """All deliveries, under one clock; ``ticking`` is what sends them."""

    def __init__(self, store: WebhookStore, clock: Clock) -> None:
        self.orders = OrderBook(DeliveryFate)
        self.key = SigningKey()
        self._store = store
        self._clock = clock
        self._deliveries: dict[str, Delivery] = {}  # oldest first
        self._waiting = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()

    def batch_ended(self, job: BatchJob) -> None:
        """Tell those who want to know."""
        self.tell(job, _EVENTS.get(job.state, "batch.succeeded"))

    def tell(self, job: BatchJob, event_type: str, forged: Forgery | None = None) -> None:
        """Send an event about a job, true or not, to whom it would go."""
        now_ns = self._clock()
        data: dict[str, Any] = {"id": job.name}
        if event_type == "batch.succeeded" and job.output_file is not None:
            data["output_file_uri"] = f"files/{job.output_file}"
        if event_type == "batch.failed" and job.error is not None:
            data["error_code"] = job.error.get("code")
            data["error_message"] = job.error.get("message")
        event = _event(event_type, now_ns, data)
        config = job.spec.webhook
        if config is not None and config.user_metadata is not None:
            event["user_metadata"] = config.user_metadata
        endpoints: list[tuple[str, StaticWebhook | None]]
        if config is not None and config.uris:  # instead of those that are registered
            endpoints = [(uri, None) for uri in config.uris]
        else:
            endpoints = [
                (webhook.uri, webhook)
                for webhook in self._store.of(job.owner)
                if webhook.state == "enabled" and event_type in webhook.events
            ]
        for uri, webhook in endpoints:
            if forged is None:
                fate = self.orders.fate_for((event_type, uri, *job.labels))
            else:
                fate = DeliveryFate(forged=forged)
            self._add(event, uri, webhook, fate)

    def ping(self, webhook: StaticWebhook) -> None:
        """Send something that is about nothing."""
        event = _event(_PING, self._clock(), {"id": webhook.webhook_id})
        self._add(event, webhook.uri, webhook, self.orders.fate_for((_PING, webhook.uri)))

    def json(self) -> list[dict[str, Any]]:
        """The deliveries, oldest first."""
        return [delivery.json() for delivery in self._deliveries.values()]

    def clear(self) -> None:
        """Forget deliveries and orders; what is under way is cut off."""
        for task in tuple(self._under_way):
            task.cancel()
        self._deliveries.clear()
        self._waiting.clear()
        self.orders.clear()

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """Send what is due, for as long as the block lasts."""

        async def tick() -> None:
            while await self._waiting.wait():
                self._send_due()
                await asyncio.sleep(_TICK_S)

        ticks = asyncio.create_task(tick())
        try:
            yield
        finally:
            ends = [ticks, *self._under_way]
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    def _add(
        self, event: dict[str, Any], uri: str, webhook: StaticWebhook | None, fate: DeliveryFate
    ) -> None:
        now_ns = self._clock()
        delivery = Delivery(
            event=event,
            uri=uri,
            webhook=webhook,
            fate=fate,
            start_ns=now_ns,
            due_ns=now_ns + int(fate.late_s * SECOND_NS),
            done=fate.absent,
        )
        if len(self._deliveries) == _MAX_TOLD:
            del self._deliveries[next(iter(self._deliveries))]
        self._deliveries[delivery.message_id] = delivery
        self._waiting.set()

    def _send_due(self) -> None:
        waiting = [delivery for delivery in self._deliveries.values() if not delivery.done]
        if not waiting:
            self._waiting.clear()
        now_ns = self._clock()
        for delivery in waiting:
            if not delivery.under_way and delivery.due_ns <= now_ns:
                delivery.under_way = True
                task = asyncio.create_task(self._send(delivery))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def _send(self, delivery: Delivery) -> None:
        for _ in range(delivery.fate.copies):
            headers, body = self._signed(delivery)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    status = await _post(delivery.uri, headers, body)
            except (OSError, TimeoutError, ValueError) as error:
                delivery.answers.append(type(error).__name__)
                continue
            delivery.answers.append(str(status))
            delivery.done = delivery.done or 200 <= status < 300
        tries = len(delivery.answers)
        retry_s = min(FIRST_RETRY_S * 2.0 ** min(tries - 1, 20), MAX_RETRY_S)
        delivery.due_ns = self._clock() + int(retry_s * SECOND_NS)
        # Nobody tries again with what is not theirs to send.
        if delivery.fate.forged or delivery.due_ns > delivery.start_ns + GIVE_UP_NS:
            delivery.done = True
        delivery.under_way = False

    def _signed(self, delivery: Delivery) -> tuple[dict[str, str], bytes]:
        """Headers and body; the time in them is the real one, whatever the server's clock says."""
        event, forged, webhook = delivery.event, delivery.fate.forged, delivery.webhook
        body = json.dumps(event, ensure_ascii=False).encode()
        now_s = int(time.time()) - (_OLD_S if forged is Forgery.OLD else 0)
        signature: str | None
        if webhook is None and forged is Forgery.UNSIGNED:
            signature = unsigned_token(event, delivery.uri, now_s)
        elif webhook is None:
            wrong_key = forged is Forgery.SECRET
            signature = self.key.token(event, delivery.uri, now_s, forged=wrong_key)
        elif forged is Forgery.UNSIGNED:
            signature = None
        else:
            signing = webhook.signing_secrets(self._clock())
            signing = [new_secret()] if forged is Forgery.SECRET else signing
            signature = sign(signing, delivery.message_id, now_s, body)
        if forged is Forgery.BODY:
            other = {**event, "data": {**event["data"], "id": f"batches/{secrets.token_hex(18)}"}}
            body = json.dumps(other, ensure_ascii=False).encode()
        headers = {"webhook-id": delivery.message_id, "webhook-timestamp": str(now_s)}
        if signature is not None:
            headers["webhook-signature"] = signature
        return headers, body


def _event(event_type: str, now_ns: int, data: dict[str, Any]) -> dict[str, Any]:
    timestamp = rfc3339(now_ns, fraction_digits=0)
    return {"type": event_type, "version": "v1", "timestamp": timestamp, "data": data}


async def _post(uri: str, headers: dict[str, str], body: bytes) -> int:
    """Send one request and return the status of its answer; OSError if there is none."""
    url = urlsplit(uri)
    secure = url.scheme == "https"
    if url.hostname is None:
        raise ValueError(f"{uri} names no host")
    port = url.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(url.hostname, port, ssl=secure or None)
    try:
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        lines = [f"POST {target} HTTP/1.1", f"host: {url.netloc.rpartition('@')[2]}"]
        fixed = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "user-agent": "Google-Gemini-API-Webhooks",
            "connection": "close",
        }
        lines += [f"{name}: {value}" for name, value in (fixed | headers).items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()
        version, _, rest = (await reader.readline()).decode("latin-1").partition(" ")
        if not version.startswith("HTTP/"):
            raise ConnectionResetError(f"{uri} hung up without an answer")
        return int(rest.split(" ")[0])
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
