"""An upload as a browser may see it."""

from __future__ import annotations

import re
from typing import Any, Final

from provider_uploads.errors import from_record
from provider_uploads.schemas import UploadStatus
from provider_uploads.web.problems import described

#: What belongs to the server: where files, accounts and a batch's answers are, whose an upload is,
#: who is told of it.
_SERVERS: Final = {
    *("source", "profile", "place", "jobs"),
    *("owner", "tags", "deliveries"),
    *("error", "note"),
}
#: A note may name somebody else's upload, and a ticket is what lets one ask for it.
_TICKET: Final = re.compile(r"[0-9a-f]{32}")


def public(status: UploadStatus) -> dict[str, Any]:
    """Return a status as JSON without paths, accounts, owners or other people's tickets.

    ``error`` is None or the body of ``problem``; ``ended`` says that nothing more will happen.
    """
    shown = status.model_dump(mode="json", exclude=_SERVERS)
    shown["ended"] = status.stage.ended
    shown["note"] = _TICKET.sub("another upload", status.note) if status.note else None
    shown["error"] = described(from_record(status.error)) if status.error else None
    return shown
