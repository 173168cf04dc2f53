"""Files into the Gemini File API, reliably: enqueue, watch, use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provider_uploads.client import AsyncUploadQueue, UploadQueue
    from provider_uploads.direct import (
        apreupload_and_wait_active,
        aupload_and_wait_active,
        generate,
        preupload_and_wait_active,
        upload_and_wait_active,
    )
    from provider_uploads.errors import (
        MissingCredentialsError,
        MissingDependencyError,
        PermanentError,
        ProviderUploadsError,
        QueueUnavailableError,
        ResultTimeoutError,
        SourceError,
        TransientError,
        UploadFailedError,
        UploadInactiveError,
    )
    from provider_uploads.files import Files
    from provider_uploads.questions import Answer
    from provider_uploads.schemas import ProviderFile, Stage, UploadResult, UploadStatus

__all__ = [  # noqa: RUF022 - in reading order
    "UploadQueue",
    "AsyncUploadQueue",
    # without a queue
    "upload_and_wait_active",
    "preupload_and_wait_active",
    "aupload_and_wait_active",
    "apreupload_and_wait_active",
    "generate",
    # the files at the provider
    "Files",
    "ProviderFile",
    # what comes back
    "UploadResult",
    "UploadStatus",
    "Stage",
    "Answer",
    # what goes wrong; the whole tree is in provider_uploads.errors
    "ProviderUploadsError",
    "TransientError",
    "PermanentError",
    "QueueUnavailableError",
    "ResultTimeoutError",
    "SourceError",
    "UploadFailedError",
    "UploadInactiveError",
    "MissingCredentialsError",
    "MissingDependencyError",
]

#: Where each name is; imported when it is first used, because Redis, pydantic and the settings
#: take a third of a second that a process may never need.
_MODULES = {
    "client": ("AsyncUploadQueue", "UploadQueue"),
    "direct": (
        "apreupload_and_wait_active",
        "aupload_and_wait_active",
        "generate",
        "preupload_and_wait_active",
        "upload_and_wait_active",
    ),
    "errors": (
        "MissingCredentialsError",
        "MissingDependencyError",
        "PermanentError",
        "ProviderUploadsError",
        "QueueUnavailableError",
        "ResultTimeoutError",
        "SourceError",
        "TransientError",
        "UploadFailedError",
        "UploadInactiveError",
    ),
    "files": ("Files",),
    "questions": ("Answer",),
    "schemas": ("ProviderFile", "Stage", "UploadResult", "UploadStatus"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:  # as `import provider_uploads` has it: provider_uploads.errors
        return import_module(f"{__name__}.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
