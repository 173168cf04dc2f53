"""Everything that can go wrong, as one tree.

    ProviderUploadsError
    ├── TransientError                  worth trying again: the same call may succeed later
    │   ├── NotDeliveredError           a webhook or a broker did not take a notification
    │   ├── ProviderUnavailableError    5xx, a reset, a timeout, a malformed answer
    │   │   └── RateLimitedError        429
    │   ├── ServiceDownError            an outage: one worker probes the provider, the others wait
    │   ├── StorageFullError            the account's storage is full
    │   ├── SessionLostError            the provider no longer knows the upload session
    │   ├── NameTakenError              409: the provider holds another file of this name
    │   ├── VerificationError           the provider's copy differs from the source
    │   ├── QueueUnavailableError       Redis cannot be reached or does not answer
    │   ├── ResultTimeoutError          the wait ended before what was waited for, which goes on
    │   ├── NewerPayloadError           a newer client wrote this; a newer worker can read it
    │   │   └── NewerRowError           a newer version wrote what Redis holds of it
    │   └── SourceUnavailableError      the source cannot be reached: network, 5xx, cut off
    └── PermanentError                  trying again changes nothing
        ├── BatchInputError             a request of a batch cannot be sent (also a ValueError)
        ├── BatchFailedError            a batch's job ended without results
        ├── BatchExpiredError           a batch's job had no results when its time was up
        ├── BatchCancelledError         somebody cancelled the batch
        ├── BatchTooLargeError          more than can be taken at once (also a ValueError)
        ├── WebhookRefusedError         a webhook is not signed, or not for us
        ├── ReceiverGoneError           a webhook answered 410: nothing more is sent
        ├── UnknownProviderError        (also a NotImplementedError)
        ├── UnsupportedOperationError   this provider cannot do that (also a NotImplementedError)
        ├── ProviderRefusedError        a 4xx that trying again does not change
        │   ├── InvalidCredentialsError the provider does not know the API key
        │   └── FileGoneError           deleted, expired, or never ours: it does not say which
        ├── FileExpiredError            the provider deleted the file, 48 h after its upload
        ├── FileNotActiveError          a file was to be used that is not ACTIVE
        ├── UnknownTicketError          nothing is known under this ticket
        ├── UnreadableStateError        what Redis holds of it is nothing that we wrote
        ├── InvalidRequestError         an invalid argument (also a ValueError)
        ├── ConfigurationError          the settings of this process do not work
        │   ├── MissingDependencyError  an optional package is not installed
        │   └── MissingCredentialsError no API key where one is needed
        ├── SourceError                 the source cannot be used
        │   ├── SourceNotFoundError     (also a FileNotFoundError)
        │   ├── SourceKindError         a directory, a FIFO, a device
        │   ├── SourceNotAllowedError   outside the folders this worker may read
        │   ├── SourceSchemeError       a URL scheme that is not read here
        │   ├── SourceAddressError      a host that is not on the public internet
        │   ├── SourceUnreadableError   the operating system, or the server, refuses
        │   ├── SourceTooLargeError     more than the provider takes
        │   └── SourceChangedError      it changed while it was sent
        ├── UploadFailedError           the provider could not process the file
        ├── UploadInactiveError         still not ACTIVE when the time was up
        ├── UploadCancelledError        somebody cancelled the upload
        └── UnexpectedError             a fault in this software

Two branches decide everything: the class *is* the decision, and nobody reads message texts.

All data is positional and JSON-able and goes through ``args``, because that is what survives
Celery's JSON results: the class that a worker raised is the class that the client catches.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from provider_uploads.errors.base import PermanentError, ProviderUploadsError, TransientError
from provider_uploads.errors.batches import (
    BatchCancelledError,
    BatchExpiredError,
    BatchFailedError,
    BatchInputError,
    BatchTooLargeError,
    WebhookRefusedError,
)
from provider_uploads.errors.notifications import NotDeliveredError, ReceiverGoneError
from provider_uploads.errors.provider import (
    FileExpiredError,
    FileGoneError,
    FileNotActiveError,
    InvalidCredentialsError,
    NameTakenError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
    ServiceDownError,
    SessionLostError,
    StorageFullError,
    UnknownProviderError,
    UnsupportedOperationError,
    VerificationError,
)
from provider_uploads.errors.queue import (
    NewerPayloadError,
    NewerRowError,
    QueueUnavailableError,
    ResultTimeoutError,
    UnknownTicketError,
    UnreadableStateError,
)
from provider_uploads.errors.setup import (
    ConfigurationError,
    InvalidRequestError,
    MissingCredentialsError,
    MissingDependencyError,
)
from provider_uploads.errors.sources import (
    SourceAddressError,
    SourceChangedError,
    SourceError,
    SourceKindError,
    SourceNotAllowedError,
    SourceNotFoundError,
    SourceSchemeError,
    SourceTooLargeError,
    SourceUnavailableError,
    SourceUnreadableError,
)
from provider_uploads.errors.uploads import (
    UnexpectedError,
    UploadCancelledError,
    UploadFailedError,
    UploadInactiveError,
)

__all__ = [  # noqa: RUF022 - in the order of the tree
    "ProviderUploadsError",
    "TransientError",
    "NotDeliveredError",
    "ProviderUnavailableError",
    "RateLimitedError",
    "ServiceDownError",
    "StorageFullError",
    "SessionLostError",
    "NameTakenError",
    "VerificationError",
    "QueueUnavailableError",
    "ResultTimeoutError",
    "NewerPayloadError",
    "NewerRowError",
    "SourceUnavailableError",
    "PermanentError",
    "BatchInputError",
    "BatchFailedError",
    "BatchExpiredError",
    "BatchCancelledError",
    "BatchTooLargeError",
    "WebhookRefusedError",
    "ReceiverGoneError",
    "UnknownProviderError",
    "UnsupportedOperationError",
    "ProviderRefusedError",
    "InvalidCredentialsError",
    "FileGoneError",
    "FileExpiredError",
    "FileNotActiveError",
    "UnknownTicketError",
    "UnreadableStateError",
    "InvalidRequestError",
    "ConfigurationError",
    "MissingDependencyError",
    "MissingCredentialsError",
    "SourceError",
    "SourceNotFoundError",
    "SourceKindError",
    "SourceNotAllowedError",
    "SourceSchemeError",
    "SourceAddressError",
    "SourceUnreadableError",
    "SourceTooLargeError",
    "SourceChangedError",
    "UploadFailedError",
    "UploadInactiveError",
    "UploadCancelledError",
    "UnexpectedError",
    "from_record",
]


def _tree(cls: type[ProviderUploadsError]) -> dict[str, type[ProviderUploadsError]]:
    found = {cls.__name__: cls}
    for child in cls.__subclasses__():
        found |= _tree(child)
    return found


# Results name an error's module, and other versions of this library read them.
for _error in _tree(ProviderUploadsError).values():
    _error.__module__ = __name__


def from_record(record: dict[str, Any]) -> ProviderUploadsError:
    """Return the error that ``as_record`` wrote.

    A class that a newer worker knows, or knows with other data, becomes an UnexpectedError.
    """
    cls = _tree(ProviderUploadsError).get(record["type"])
    if cls is not None:
        with suppress(TypeError):
            return cls(*record["args"])
    return UnexpectedError(record["type"], record.get("message", ""))
