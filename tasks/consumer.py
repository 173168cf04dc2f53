"""A worker's consumer: what it does with messages that it cannot make a task of."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.utils.json import dumps

from config.policy import policy
from provider_uploads.fleet.transport import set_aside
from provider_uploads.protocol import OUR_TASKS
from tasks.connections import log
from tasks.later import returns, say


class Consumer(CeleryConsumer):
    """Celery's, which drops what it does not understand, and logs it whole.

    Here it becomes a dead letter; a task of ours that this version does not know is left for a
    newer worker.
    """

    qos: Any
    connection_errors: Any

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Leave a task of ours for a newer worker; set others aside."""
        name, ticket = message.headers["task"], message.headers["id"]
        if not name.startswith(OUR_TASKS):
            self._set_aside(message, f"no task {name} here")
            return
        if returns.waited(ticket) >= policy.newer_payload_tries:
            self._set_aside(message, f"no worker with a task {name} came for a day")
            return
        say(ticket, "unknown", "%s waits for a newer worker: no task %s here", ticket, name)
        # Held and not requeued at once, as a countdown is: it takes no slot.
        self.qos.increment_eventually()
        self.timer.call_after(policy.newer_payload_retry_s, self._give_back, (message,))

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Set it aside."""
        self._set_aside(message, "no message of Celery's")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Set it aside."""
        self._set_aside(message, f"{type(exc).__name__}: {exc}")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Set it aside."""
        self._set_aside(message, f"{type(exc).__name__}: {exc}")

    def _give_back(self, message: Any) -> None:
        message.reject_log_error(log, self.connection_errors, requeue=True)
        self.qos.decrement_eventually()

    def _set_aside(self, message: Any, reason: str) -> None:
        queue = str(message.delivery_info.get("routing_key"))
        set_aside(queue, dumps(message._raw).encode(), reason)
        message.ack_log_error(log, self.connection_errors)
