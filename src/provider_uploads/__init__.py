"""Files into the Gemini File API, reliably: enqueue, watch, use."""

from provider_uploads.client import UploadQueue
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
