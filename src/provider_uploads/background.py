"""A call in a thread that nobody has to wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def begin(call: Callable[[], T]) -> Future[T]:
    """Call in a thread of its own, which ends with the process if it never ends.

    For what cannot be stopped from outside, a request or a dead mount. The future's result raises
    whatever the call raised.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # raised again where somebody waits for it
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done
