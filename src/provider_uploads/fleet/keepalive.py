"""A worker step that keeps touching the messages its worker holds.

kombu's Redis transport hands a message out again when the visibility timeout has passed since it
was *received*, however alive its worker is: a long upload, or a poll that waits for its countdown,
runs twice. This step renews the received time of every message held, three times per timeout, so
the timeout comes to mean "the worker is dead".
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.utils.log import get_logger

from provider_uploads.fleet.redis_clock import redis_clock

log = get_logger(__name__)


def renewed_every_s(visibility_timeout_s: float) -> float:
    """Return the seconds between two renewals of what a worker holds."""
    return visibility_timeout_s / 3


class KeepAlive(bootsteps.StartStopStep):
    """``ZADD <unacked index> XX <now> <tag>`` for every delivery tag of this worker.

    Costs one Redis command each time, with all tags in it. It reads one private name,
    ``QoS._delivered``; the celery and kombu series are pinned for it.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """Start to renew; called again after each reconnect."""
        transport = parent.app.conf.broker_transport_options
        every_s = renewed_every_s(transport["visibility_timeout"])
        self._timer = parent.timer.call_repeatedly(every_s, self.beat, (parent,), priority=10)

    def stop(self, parent: Any) -> None:
        """Stop; what is held is delivered again after the timeout, or at once when requeued."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    shutdown = stop

    def beat(self, parent: Any) -> None:
        """Renew everything held once. A broken connection is handled by the consumer."""
        try:
            channel = parent.task_consumer.channel
            tags = list(channel.qos._delivered)
            if tags:
                now = redis_clock().now()  # as transport.py has it compared
                # Not channel.client: that connection has a BRPOP pending, whose reply, a message,
                # would be read as the answer to this command and be lost.
                with channel.conn_or_acquire() as client:
                    client.zadd(channel.unacked_index_key, dict.fromkeys(tags, now), xx=True)
        except Exception as error:  # a timer that raises is dropped, and with it our promise
            log.warning("held messages not renewed, next try soon: %r", error)
