"""A proxy that acts when some bytes pass: before they arrive, or just after they were sent on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Literal

from tests.proxy import Proxy


class Tripwire(Proxy):
    """Forwards to a port of this machine until ``wire`` is among the bytes, and then acts once.

    ``before``: those bytes are not sent on; ``after``: they are, and what is answered is not.
    """

    def __init__(
        self, port: int, wire: bytes, when: Literal["before", "after"], act: Callable[[], None]
    ) -> None:
        self._wire, self._when, self._act = wire, when, act
        self._once = threading.Lock()
        super().__init__(lambda: ("127.0.0.1", port))

    def forwarded(self, data: bytes, sink: socket.socket) -> None:
        """Send on, unless it is what is waited for."""
        if self._wire not in data or not self._once.acquire(blocking=False):
            super().forwarded(data, sink)
            return
        if self._when == "after":
            super().forwarded(data, sink)
        self._act()
