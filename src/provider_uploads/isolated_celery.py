"""A Celery app that keeps to itself."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.loaders.base import BaseLoader


class _NoConfiguration(BaseLoader):
    """A loader that reads nothing: neither a module nor ``CELERY_CONFIG_MODULE``."""

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> dict[str, Any]:
        return {}


class IsolatedApp(Celery):
    """An app that neither reads nor becomes the host application's.

    It has no result backend, whatever ``CELERY_RESULT_BACKEND`` says: a backend would subscribe to
    each result, and can hang a web thread for 19 s and more when Redis is down; our results are in
    the ledger.
    """

    backend_cls = "disabled"
    # Celery's own fixup for Django reads the configuration of whatever app there is, and a web
    # app that runs Django has one of its own.
    builtin_fixups: set[str] = set()  # noqa: RUF012 - as Celery declares it

    def __init__(self, name: str) -> None:
        super().__init__(name, loader=_NoConfiguration, set_as_current=False)
        self.conf.update(task_serializer="json", accept_content=["json"], task_always_eager=False)
