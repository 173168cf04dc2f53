"""A worker that dies at one certain instant: ``celery -A tests.faulty_worker worker``.

``DIE_AT`` is an instant, a task and a number: "before provider_uploads.delete_on_timeout 2" is the
second time that this worker is about to publish that task; "after", when it has been published and
the message that led to it is not yet acknowledged; "done", when the task itself has run and its
message is not yet acknowledged; "retried", when that is to be delivered again, or its poll is
parked, and it is not yet acknowledged.
"""

from __future__ import annotations

import itertools
import os
import signal
from typing import Any

from celery.signals import after_task_publish, before_task_publish, task_postrun, task_retry

from tasks.celery import app as app

_INSTANT, _TASK, _NTH = os.environ["DIE_AT"].split()
_count = itertools.count(1)


_SIGNALS = {
    "before": before_task_publish,
    "after": after_task_publish,
    "done": task_postrun,
    "retried": task_retry,
}


@_SIGNALS[_INSTANT].connect
def _die(sender: Any = None, **_: Any) -> None:
    if getattr(sender, "name", sender) == _TASK and next(_count) == int(_NTH):
        os.kill(os.getpid(), signal.SIGKILL)
