"""The queue itself: Redis, messages, tickets, waiting."""

from __future__ import annotations

from provider_uploads.errors.base import PermanentError, TransientError

#: Each by redis-py's classes and Redis's own words: it reads its data; it does not let us in.
_STARTING = {"LOADING", "BusyLoadingError"}
_WRONG_USER = {"AuthenticationError", "WRONGPASS", "NOAUTH", "AuthenticationWrongNumberOfArgsError"}
_WRONG_RIGHTS = {"NOPERM", "NoPermissionError"}

#: What to do about a Redis that is there and refuses: by redis-py's classes and Redis's own words.
_REMEDIES = (
    (
        {"OOM", "OutOfMemoryError"},
        "It is full: raise its maxmemory, or delete what fills it.",
    ),
    (
        _WRONG_USER,
        "Check the user and the password in PROVIDER_UPLOADS_REDIS_URL.",
    ),
    (
        _WRONG_RIGHTS,
        "Check the rights of its user: docs/deploy.md lists those that are needed.",
    ),
    (
        {"READONLY", "ReadOnlyError"},
        "It is a replica: point PROVIDER_UPLOADS_REDIS_URL at its primary.",
    ),
    (_STARTING, "It reads its data: try again in a while."),
    (
        {"MISCONF"},
        "It cannot write its data to disk: make room there, and look at its log.",
    ),
)


class QueueUnavailableError(TransientError):
    """Redis cannot be reached or does not answer in time.

    ``passing`` says that waiting may help: it has answered before, and refuses neither the user nor
    a right now, or it is just starting. Else its address may be wrong.
    """

    def __init__(self, server: str, reason: str, *, passing: bool = False) -> None:
        super().__init__(server, reason)
        self.server = server
        self.reason = reason
        refuses = reason in _WRONG_USER | _WRONG_RIGHTS
        self.passing = reason in _STARTING or (passing and not refuses)

    def __str__(self) -> str:
        remedy = next(
            (remedy for words, remedy in _REMEDIES if self.reason in words),
            "Start it, or point PROVIDER_UPLOADS_REDIS_URL at one that runs.",
        )
        return (
            f"Redis at {self.server} cannot be used ({self.reason}). {remedy} "
            "Whatever has a ticket goes on when it is back."
        )


#: What to look at when something does not get on, by what it is.
_STUCK = {
    "upload": "If it stays QUEUED, no worker serves the queue.",
    "batch": "If it stays QUEUED, batch_status says what it waits for; if it says nothing, no "
    "worker serves the queue.",
    "question": "It waits for its files, then for the model; if none of them gets on, no worker "
    "serves the queue.",
}


class ResultTimeoutError(TransientError, TimeoutError):
    """The wait for a result ended before its upload, batch or question did, which goes on.

    ``what`` is which of the three.
    """

    def __init__(self, ticket: str, stage: str, waited_s: float, what: str = "upload") -> None:
        super().__init__(ticket, stage, waited_s, what)
        self.args = (ticket, stage, waited_s, what)  # OSError keeps two of them
        self.ticket = ticket
        self.stage = stage
        self.waited_s = waited_s
        self.what = what

    def __str__(self) -> str:
        return (
            f"{self.what} {self.ticket} is {self.stage} after {self.waited_s:g} s of waiting. "
            f"It goes on; ask again with the same ticket. {_STUCK.get(self.what, '')}".rstrip()
        )


class NewerPayloadError(TransientError):
    """A newer client wrote this message; it is left for a newer worker."""

    def __init__(self, payload_version: int, known_version: int) -> None:
        super().__init__(payload_version, known_version)
        self.payload_version = payload_version
        self.known_version = known_version

    def __str__(self) -> str:
        return (
            f"the message has payload version {self.payload_version}, this worker reads up to "
            f"{self.known_version}. It is left for a newer worker: upgrade provider-uploads here."
        )


class NewerRowError(NewerPayloadError):
    """A newer version wrote what Redis holds of this; it is left for a newer worker."""

    def __init__(self, subject: str, problem: str) -> None:
        super().__init__(0, 0)
        self.args = (subject, problem)
        self.subject = subject
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"what Redis holds of {self.subject} is of a newer version ({self.problem}). "
            "It is left for a newer worker: upgrade provider-uploads here."
        )


class UnknownTicketError(PermanentError, LookupError):
    """Nothing is known under this ticket; ``what`` was looked for: an upload, a batch, a question.

    That may be ``upload or batch``, where either would do.
    """

    def __init__(self, ticket: str, what: str = "upload") -> None:
        super().__init__(ticket, what)
        self.ticket = ticket
        self.what = what

    def __str__(self) -> str:
        return (
            f"no {self.what} is known under ticket {self.ticket!r}: mistyped, of another Redis, "
            "or older than three days."
        )


class UnreadableStateError(PermanentError):
    """What Redis holds under a key of ours is nothing that we wrote."""

    def __init__(self, subject: str, problem: str) -> None:
        super().__init__(subject, problem)
        self.subject = subject
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"what Redis holds of {self.subject} cannot be read: {self.problem}. Nothing moves it. "
            "Delete that key when you know who wrote it, and submit again what it stood for."
        )
