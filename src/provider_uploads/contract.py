"""What clients and workers must agree on: names, queues, keys and the payload's version."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from celery import Celery
    from celery.canvas import Signature

    from provider_uploads.records import UploadRequest

#: Raised when a payload gains a field that an older worker would misread.
PAYLOAD_VERSION: Final = 1

UPLOAD: Final = "provider_uploads.upload"
POLL: Final = "provider_uploads.poll_until_active"
DELETE: Final = "provider_uploads.delete_on_timeout"
INGEST: Final = "provider_uploads.ingest"
GENERATE: Final = "provider_uploads.generate"
SWEEP: Final = "provider_uploads.sweep"
UNSTAGE: Final = "provider_uploads.remove_staged"

#: Not a task but a question to all workers, through Celery's remote control.
ABOUT: Final = "provider_uploads.about"

#: Work that moves bytes and holds a slot for long.
TRANSFER_QUEUE: Final = "transfer"
#: Work that is one short request; it must never wait behind a transfer.
CONTROL_QUEUE: Final = "control"


class Lane(StrEnum):
    """A profile's transfer queues, by what ends their names. Workers take from all in turn."""

    #: Uploads that were submitted one by one.
    SINGLE = ""
    #: Uploads that came many at once.
    BULK = ".bulk"
    QUESTIONS = ".questions"


def transfer_queue(profile: str, lane: Lane = Lane.SINGLE) -> str:
    """Return the queue of one of a profile's lanes: ``transfer``, ``transfer@batch.bulk``."""
    own = "" if profile == "default" else f"@{profile}"
    return f"{TRANSFER_QUEUE}{own}{lane}"


#: Before every broker key of ours. Without it, kombu's ``unacked`` keys are shared with every
#: other Celery application in the same Redis database, and our 30 s visibility timeout would
#: hand *their* long tasks out a second time.
KEY_PREFIX: Final = "provider_uploads:"

#: The provider's file names we make: ``files/pu-<32 hex of the upload id>-<generation>``.
NAME_PREFIX: Final = "pu-"


def file_name(upload_id: str, generation: int) -> str:
    """Return the provider's name for one generation of an upload (at most 40 characters)."""
    return f"files/{NAME_PREFIX}{upload_id}-{generation}"


_OUR_NAME = re.compile(rf"(?:files/)?{NAME_PREFIX}([0-9a-f]{{32}})-(\d+)(?:-|$)")


def upload_of(name: str) -> tuple[str, int] | None:
    """Return upload id and generation of a file name, or of a label, that we chose."""
    found = _OUR_NAME.match(name)
    return (found[1], int(found[2])) if found else None


def is_our_name(name: str) -> bool:
    """Whether a provider's file name is one that we chose."""
    return name.startswith(f"files/{NAME_PREFIX}")


def poll_signature(app: Celery[Any], request: UploadRequest, look: int = 0) -> Signature[Any]:
    """Return the message that looks until the file is ACTIVE; ``look`` is the first one's number.

    The first look comes after one ``poll_s``, a later one at once.
    """
    return app.signature(
        POLL,
        args=(request.upload_id, request.profile),
        immutable=True,
        queue=CONTROL_QUEUE,
        **({"countdown": request.patience.looks.delay(0)} if look == 0 else {"retries": look}),
    )


def ask_signature(app: Celery[Any], question_id: str, queue: str) -> Signature[Any]:
    """Return the message that waits for a question's files and asks. Its id is the ticket."""
    return app.signature(
        GENERATE,
        args=(question_id,),
        task_id=question_id,
        immutable=True,
        queue=queue,
    )


def delete_signature(app: Celery[Any], upload_id: str) -> Signature[Any]:
    """Return the message that deletes what an ended upload left at the provider."""
    return app.signature(DELETE, args=(upload_id,), immutable=True, queue=CONTROL_QUEUE)


def upload_signature(
    app: Celery[Any], request: UploadRequest, queue: str = TRANSFER_QUEUE
) -> Signature[Any]:
    """Return the message that uploads one file; both sides send this one. Its id is the ticket."""
    return app.signature(
        UPLOAD,
        args=(request.model_dump(mode="json"),),
        task_id=request.upload_id,
        queue=queue,
        immutable=True,
        # What logs and Flower show of the arguments. Celery's own walk through the payload would
        # be 15 % of a submit's time.
        argsrepr=repr((request.source,)),
        kwargsrepr="{}",
    )
