"""A task of a host application, sent to the host's own broker."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from typing import Any

from celery import Celery
from celery.canvas import Signature
from kombu import Connection
from kombu.exceptions import KombuError

from provider_uploads.errors import NotDeliveredError
from provider_uploads.isolated_celery import IsolatedApp
from provider_uploads.notifications.receivers import Broker
from provider_uploads.schemas import Notification

#: Seconds to connect to a broker, and to send.
_TIMEOUT_S = 5
_REDIS_TIMEOUTS = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}


def send(broker: Broker, notification: Notification, task_id: str, data: dict[str, Any]) -> None:
    """Send the host's task with what there is to say; raises NotDeliveredError.

    A signature that has no id yet gets ``task_id``, the same for each attempt: its host can tell
    a second delivery from a second upload.
    """
    app = _app(
        broker.url.get_secret_value(),
        broker.queue,
        json.dumps(broker.transport_options, sort_keys=True),
    )
    signature = Signature.from_dict(copy.deepcopy(notification.signature or {}), app=app)
    args: tuple[Any, ...] = ()
    if notification.keyword is not None:
        signature.kwargs[notification.keyword] = data
    elif not signature.immutable:
        args = (data,)
    signature.options.setdefault("task_id", task_id)
    try:
        signature.apply_async(args, retry=False, add_to_parent=False)
    except (KombuError, OSError) as error:
        raise NotDeliveredError(type(error).__name__) from None


class _HostApp(IsolatedApp):
    """An app that sends to one broker, whatever ``CELERY_BROKER_URL`` says.

    A chain does not hand a given producer on to its first task, so the connection is the app's.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        super().__init__("provider_uploads.notifications")
        self._broker = Connection(
            url,
            connect_timeout=_TIMEOUT_S,
            transport_options={
                # One attempt: the next one is the task's, after its backoff.
                "max_retries": 1,
                "interval_start": 0,
                "interval_max": 0,
                **(_REDIS_TIMEOUTS if url.startswith("redis") else {}),
                **options,
            },
        )

    def connection_for_write(self, *_: Any, **__: Any) -> Connection:
        """Return a connection to the host's broker, not opened yet."""
        return self._broker.clone()


@lru_cache(maxsize=32)
def _app(url: str, queue: str, options: str) -> Celery:
    """Return an app whose tasks go to a queue unless they name one."""
    app = _HostApp(url, json.loads(options))
    app.conf.task_default_queue = queue
    return app
