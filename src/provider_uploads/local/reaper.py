"""Ends what a supervisor started, when the supervisor was killed and could not.

A process of its own that reads from a pipe. The kernel closes the pipe when the supervisor is gone,
however it ended; what is still running then is stopped, and the folders named as arguments are
removed:

    + 4711      this process group was started
    - 4711      it has ended
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

#: Between SIGTERM and SIGKILL.
_GRACE_S = 5.0
_CHECK_S = 0.05


def main() -> None:
    """Read until the pipe is closed, then stop what is left."""
    running: set[int] = set()
    for line in sys.stdin:
        sign, _, group = line.partition(" ")
        (running.add if sign == "+" else running.discard)(int(group))
    if running:
        _stop(running)
        for folder in sys.argv[1:]:
            shutil.rmtree(folder, ignore_errors=True)


def _stop(groups: Iterable[int]) -> None:
    left = _signalled(groups, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    while left and time.monotonic() < deadline:
        time.sleep(_CHECK_S)
        left = _signalled(left, 0)
    _signalled(left, signal.SIGKILL)


def _signalled(groups: Iterable[int], number: int) -> set[int]:
    """Send a signal (0: none) to process groups; return those that were there."""
    found = set()
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            found.add(group)
    return found


if __name__ == "__main__":
    main()
