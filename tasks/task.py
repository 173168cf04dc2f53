"""What all our tasks have in common, those to come included."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Reject, Retry

from provider_uploads.errors import ProviderUploadsError
from tasks.arguments import Arguments
from tasks.later import coming_back


class UploadsTask(Task[Any, Any]):
    """A task whose message ends or comes back later, whatever stands in it or in Redis."""

    # How often to retry is decided by the tasks. Celery's default is 3, and
    # ``retry(max_retries=None)`` means that default, not "no limit".
    max_retries = None
    # An error with a name is an outcome, logged as a line; only faults get a traceback.
    throws = (ProviderUploadsError,)
    # ``Arguments`` checks them: Celery would not send a newer version's message on.
    typing = False
    Request = "tasks.request:Request"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it: the message ends, or it comes back as ``coming_back`` says.

        Celery formats the traceback of what brings a message back, and shows it to nobody: it gets
        a short one.
        """
        try:
            with coming_back(self):
                return self.run(*self._arguments.checked(args, kwargs))
        except (Ignore, Reject, Retry) as end:
            end.__cause__ = end.__context__ = None
            back = end.with_traceback(None)
        raise back

    @cached_property
    def _arguments(self) -> Arguments:
        return Arguments(self.run)
