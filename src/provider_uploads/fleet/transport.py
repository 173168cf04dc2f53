"""The broker's transport as our workers use it: kombu's for Redis, which nothing unreadable stops.

kombu takes an item from a queue and trusts it: one that is no JSON ends the worker, one whose body
is no base64 also goes back for the next worker to meet. Here an item is looked at before kombu has
it, and one that no worker can read becomes a dead letter.

``Amqp`` is Celery's way to its connections; they keep the scheme of their URL, and with it what
kombu makes of ``rediss://``. ``Transport._deliver`` is private, and kombu's series pinned by
celery's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import cache
from typing import Any

from celery.app.amqp import AMQP
from celery.utils.log import get_logger
from kombu import Connection as KombuConnection
from kombu.exceptions import OperationalError
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.json import dumps
from redis.exceptions import RedisError

from provider_uploads.errors import QueueUnavailableError
from provider_uploads.fleet.dead_letters import DeadLetters
from provider_uploads.fleet.readable import unreadable
from provider_uploads.fleet.redis_clock import redis_clock
from provider_uploads.ledger.connection import Connection
from provider_uploads.settings import settings

log = get_logger(__name__)

#: What says something about the connection, and nothing about an item.
_CONNECTION = (OSError, RedisError, OperationalError)


@cache
def dead_letters() -> DeadLetters:
    """Return this process's; not by kombu's connections, on which replies of a BRPOP come in."""
    return DeadLetters(Connection(settings().redis_url, timeout_s=settings().redis_timeout_s))


def set_aside(queue: str, item: bytes, reason: str) -> None:
    """Make a dead letter of an item, and say so; without Redis, say it only."""
    try:
        dead_letters().put(queue, item, reason)
    except QueueUnavailableError as error:
        log.error("an item of queue %s was dropped: %s; and %s", queue, reason, error)
    else:
        log.error(
            "an item of queue %s was set aside: %s. See: provider-uploads dead-letters",
            queue,
            reason,
        )


class _Client(kombu_redis.PrefixedStrictRedis):
    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """Return a reply; one with an item that nobody can read is as good as none."""
        reply = super().parse_response(connection, command_name, **options)
        if command_name == "BRPOP" and reply:
            queue, item = reply
            if reason := unreadable(item):
                set_aside(queue.decode(errors="replace"), item, reason)
                return None
        return reply


class _QoS(kombu_redis.QoS):
    @property
    def visibility_timeout(self) -> Any:
        """As kombu compares it with this machine's clock; the times are Redis's."""
        channel: Any = self.channel
        return channel.visibility_timeout + redis_clock().ahead_s()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Write down that this worker holds a message, and since when on Redis's clock."""
        channel: Any = self.channel
        delivery = message.delivery_info
        held = dumps([message._raw, delivery["exchange"], delivery["routing_key"]])
        with channel.conn_or_acquire() as redis, redis.pipeline() as pipe:
            pipe.zadd(channel.unacked_index_key, {delivery_tag: redis_clock().now()})
            pipe.hset(channel.unacked_key, delivery_tag, held)
            pipe.execute()
        virtual.QoS.append(self, message, delivery_tag)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back into its queue; one that cannot go there must not hold up others."""
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)
        except _CONNECTION:
            raise
        except Exception as error:
            channel: Any = self.channel
            with channel.conn_or_acquire(client) as redis:
                held = redis.hget(channel.unacked_key, tag) or b""
                with redis.pipeline() as pipe:
                    pipe.zrem(channel.unacked_index_key, tag).hdel(channel.unacked_key, tag)
                    pipe.execute()
            set_aside("unacked", held, f"{type(error).__name__}: {error}")


class Channel(kombu_redis.Channel):
    """A channel that sets aside what it cannot read."""

    QoS = _QoS
    _last_client: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Return a client; for commands the same one, where kombu makes one for each of them."""
        kombus: Any = super()
        if asynchronous:
            return kombus._create_client(asynchronous=True)
        client = self._last_client
        if client is None or client.connection_pool is not self.pool:
            client = self._last_client = kombus._create_client()
        return client

    def _get_client(self) -> Callable[..., Any]:
        return functools.partial(_Client, global_keyprefix=self.global_keyprefix)


class Transport(kombu_redis.Transport):
    """kombu's Redis transport, whose deliveries raise for nothing but the connection."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str | None) -> None:
        try:
            super()._deliver(message, queue)
        except _CONNECTION:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            set_aside(str(queue), dumps(message).encode(), reason)
            tag = message["properties"]["delivery_tag"] if isinstance(message, dict) else ""
            channels: list[Any] = self.channels or []
            for channel in channels:
                if tag in channel.qos._delivered:
                    channel.basic_ack(tag)


class _Connection(KombuConnection):
    def get_transport_cls(self) -> Any:
        """Return ours in the place of kombu's for Redis."""
        found = super().get_transport_cls()
        return Transport if found is kombu_redis.Transport else found


class Amqp(AMQP):
    """Celery's, with connections of ours."""

    Connection = _Connection
