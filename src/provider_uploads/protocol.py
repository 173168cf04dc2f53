"""What clients and workers must agree on: names, queues, keys and the payload's version."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

#: Raised when a payload gains a field that an older worker would misread. A payload that uses no
#: such field is written in the older version, so that every worker can read it.
PAYLOAD_VERSION: Final = 2

#: How the names of all tasks of ours begin, those of newer versions included.
OUR_TASKS: Final = "provider_uploads."

UPLOAD: Final = "provider_uploads.upload"
POLL: Final = "provider_uploads.poll_until_active"
DELETE: Final = "provider_uploads.delete_on_timeout"
INGEST: Final = "provider_uploads.ingest"
GENERATE: Final = "provider_uploads.generate"
SWEEP: Final = "provider_uploads.sweep"
UNSTAGE: Final = "provider_uploads.remove_staged"
NOTIFY: Final = "provider_uploads.notify"
CREATE_BATCH: Final = "provider_uploads.create_batch"
POLL_BATCH: Final = "provider_uploads.poll_batch"
COLLECT_BATCH: Final = "provider_uploads.collect_batch"
CLEAN_UP_BATCH: Final = "provider_uploads.clean_up_batch"

#: Not a task but a remote-control command: each worker answers with its WorkerInfo.
WORKER_INFO: Final = "provider_uploads.about"

#: Work that moves bytes and holds a slot for long.
TRANSFER_QUEUE: Final = "transfer"
#: Work that is one short request; it must never wait behind a transfer.
CONTROL_QUEUE: Final = "control"


class PriorityQueue(StrEnum):
    """A profile's transfer queues, by the ending of their names. Workers take from all in turn."""

    #: Uploads that were submitted one by one.
    SINGLE = ""
    #: Uploads that came many at once.
    BULK = ".bulk"
    QUESTIONS = ".questions"


def transfer_queue(profile: str, kind: PriorityQueue = PriorityQueue.SINGLE) -> str:
    """Return the name of one of a profile's queues: ``transfer``, ``transfer@batch.bulk``."""
    own = "" if profile == "default" else f"@{profile}"
    return f"{TRANSFER_QUEUE}{own}{kind}"


#: The File API's limits (ai.google.dev/gemini-api/docs/files): 2 GB a file, kept for 48 h, display
#: names of at most 512 characters.
MAX_FILE_BYTES: Final = 2 * 1024**3
KEPT_S: Final = 48 * 3600
MAX_DISPLAY_NAME: Final = 512

#: The Batch API's limits and its target (ai.google.dev/gemini-api/docs/batch-api): 20 MB of
#: requests within the call, 2 GB in a file; most jobs end within 24 h, and at 48 h a job expires.
MAX_INLINE_BYTES: Final = 20_000_000
MAX_BATCH_FILE_BYTES: Final = 2_000_000_000
BATCH_TARGET_S: Final = 24 * 3600
BATCH_EXPIRY_S: Final = 48 * 3600

#: The schemes of sources that can be switched on with ``PROVIDER_UPLOADS_SOURCES``.
SOURCE_SCHEMES: Final = ("s3", "gs", "https")

#: Before every broker key of ours. Without it, kombu's ``unacked`` keys are shared with every
#: other Celery application in the same Redis database, and our 30 s visibility timeout would
#: hand *their* long tasks out a second time.
KEY_PREFIX: Final = "provider_uploads:"

#: An upload's or a question's id.
TICKET: Final = re.compile(r"[0-9a-f]{32}")

#: The provider's file names we make: ``files/pu-<32 hex of the upload id>-<generation>``.
NAME_PREFIX: Final = "pu-"


def file_name(upload_id: str, generation: int) -> str:
    """Return the provider's name for one generation of an upload (at most 40 characters)."""
    return f"files/{NAME_PREFIX}{upload_id}-{generation}"


_OUR_JOB = re.compile(rf"{NAME_PREFIX}([0-9a-f]{{32}})-(\d+)(?: |$)")


def job_label(ticket: str, number: int) -> str:
    """Return what the display name of a batch's job number so-and-so begins with."""
    return f"{NAME_PREFIX}{ticket}-{number}"


def batch_of(display_name: str) -> tuple[str, int] | None:
    """Return ticket and number of a job whose display name we chose."""
    found = _OUR_JOB.match(display_name)
    return (found[1], int(found[2])) if found else None


_OUR_NAME = re.compile(rf"(?:files/)?{NAME_PREFIX}([0-9a-f]{{32}})-(\d+)(?:-|$)")


#: What a file bears before its display name where the provider chooses the names.
LABEL = re.compile(rf"{NAME_PREFIX}[0-9a-f]{{32}}-\d+-")


def upload_of(name: str) -> tuple[str, int] | None:
    """Return upload id and generation of a file name, or of a label, that we chose."""
    found = _OUR_NAME.match(name)
    return (found[1], int(found[2])) if found else None


def is_our_name(name: str) -> bool:
    """Whether a provider's file name is one that we chose."""
    return name.startswith(f"files/{NAME_PREFIX}")
