"""Who is to be told of an end: a caller's signatures and callbacks as notifications."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from provider_uploads.errors import InvalidRequestError
from provider_uploads.schemas import Notification, checked

if TYPE_CHECKING:
    from celery.canvas import Signature

#: The broker of whoever names none.
DEFAULT_BROKER: Final = "default"


def notifications_for(
    on_success: Any,
    on_failure: Any,
    callback: str | None,
    broker: str,
    *,
    good: str = "on_active",
) -> tuple[Notification, ...]:
    """Return the notifications of one upload or question; raises InvalidRequestError.

    ``good`` is what the caller calls the good end's option.
    """
    found = [
        _task(field, signature, on, broker)
        for field, signature, on in (
            (good, on_success, "success"),
            ("on_failed", on_failure, "failure"),
        )
        if signature is not None
    ]
    if callback is not None:
        found.append(checked(Notification, {"callback": callback}))
    return tuple(found)


def _task(field: str, signature: Any, on: str, broker: str) -> Notification:
    from celery.canvas import Signature

    if not isinstance(signature, Signature):
        raise InvalidRequestError(
            field, type(signature).__name__, "must be a Celery signature, such as done.s(42)"
        )
    return checked(
        Notification, {"on": on, "broker": broker, "signature": as_json(field, signature)}
    )


def as_json(field: str, signature: Signature[Any]) -> dict[str, Any]:
    """Return a signature as it may be kept, with the queue that its own app routes it to.

    Raises InvalidRequestError for what cannot be sent without its app's result backend, and for
    arguments that are not JSON.
    """
    from kombu.exceptions import EncodeError
    from kombu.utils.json import dumps

    routed = signature.clone()
    for first in _first(field, routed):
        _route(first)
    try:
        return cast("dict[str, Any]", json.loads(dumps(routed)))
    except (TypeError, ValueError, EncodeError) as error:
        raise InvalidRequestError(
            field, str(routed.task), f"its arguments must be JSON: {error}"
        ) from None


def _first(field: str, signature: Any) -> list[Any]:
    """Return the tasks that are sent at once."""
    from celery.canvas import _chain as chain  # the class; ``chain`` builds one
    from celery.canvas import chord, group

    if isinstance(signature, chord):
        raise InvalidRequestError(
            field,
            "chord",
            "begins with a chord, which counts in your app's result backend: start it in a task "
            "of yours",
        )
    if isinstance(signature, chain):
        return _first(field, signature.tasks[0])
    if isinstance(signature, group):
        return [one for task in signature.tasks for one in _first(field, task)]
    return [signature]


def _route(signature: Any) -> None:
    """Write down where the host's app would send a task: ours does not know its routes."""
    app = signature._app
    if app is None or signature.options.get("queue") or signature.options.get("exchange"):
        return
    route = app.amqp.router.route({}, signature.task, signature.args, signature.kwargs)
    queue = route.get("queue")
    if queue is not None:
        signature.options["queue"] = getattr(queue, "name", queue)
