"""The files the service holds: names, expiry, pages."""

from __future__ import annotations

import base64
import binascii
import secrets
import string
from collections import Counter
from collections.abc import Callable, Iterator

from provider_uploads.emulator.clock import Clock
from provider_uploads.emulator.errors import invalid_argument, name_taken, no_such_file
from provider_uploads.emulator.stored_file import StoredFile

DEFAULT_PAGE_SIZE = 10
MAX_PAGE_SIZE = 100

_ID_CHARS = string.ascii_lowercase + string.digits
_GENERATED_ID_CHARS = 12


def random_id() -> str:
    """An id as the service makes them."""
    return "".join(secrets.choice(_ID_CHARS) for _ in range(_GENERATED_ID_CHARS))


class FileStore:
    """All files of all projects: each owned by one key, their names in one global namespace.

    All files of a store live equally long, so the oldest is always the first to expire.
    """

    def __init__(self, clock: Clock, new_id: Callable[[], str] = random_id) -> None:
        self._clock = clock
        self._new_id = new_id
        self._files: dict[str, StoredFile] = {}  # oldest first
        self._project_bytes: Counter[str] = Counter()
        self._withheld: set[str] = set()
        self._sequence = 0

    def __iter__(self) -> Iterator[StoredFile]:
        self._forget_expired()
        return iter(tuple(self._files.values()))

    @property
    def stored_bytes(self) -> int:
        """The size of all files together."""
        self._forget_expired()
        return self._project_bytes.total()

    def project_bytes(self, owner: str) -> int:
        """The size of all files of one owner."""
        self._forget_expired()
        return self._project_bytes[owner]

    def name_for(self, chosen_id: str | None) -> str:
        """The id a new file gets; 409 if the chosen one is taken, by whomever."""
        self._forget_expired()
        if chosen_id is None:
            chosen_id = self._new_id()
            return chosen_id if chosen_id not in self._files else self.name_for(None)
        if chosen_id in self._files or chosen_id in self._withheld:
            raise name_taken(chosen_id)
        return chosen_id

    def withhold(self, file_id: str) -> None:
        """Let nobody have a name, as after an upload that broke off at the wrong moment.

        It stays taken until ``clear``: nobody outside knows for how long the service does it.
        """
        self._withheld.add(file_id)

    def next_sequence(self) -> int:
        """Numbers files in the order they were made."""
        self._sequence += 1
        return self._sequence

    def add(self, file: StoredFile) -> None:
        """Keep a new file."""
        self._files[file.file_id] = file
        self._project_bytes[file.owner] += file.size_bytes or 0

    def get(self, file_id: str, owner: str) -> StoredFile:
        """One file of this owner; 403 otherwise."""
        self._forget_expired()
        file = self._files.get(file_id)
        if file is None or file.owner != owner:
            raise no_such_file(file_id)
        return file

    def registered(self, gcs_uri: str, owner: str) -> StoredFile:
        """The file this owner registered last for that gs:// uri; 403 if there is none."""
        self._forget_expired()
        for file in reversed(self._files.values()):
            if file.owner == owner and file.gcs_uri == gcs_uri:
                return file
        raise no_such_file(gcs_uri)

    def peek(self, file_id: str) -> StoredFile | None:
        """The file of that id, whoever owns it."""
        return self._files.get(file_id)

    def delete(self, file_id: str, owner: str) -> None:
        """Forget one file of this owner; 403 otherwise."""
        self._forget(self.get(file_id, owner))

    def page(
        self, owner: str, page_size: int, page_token: str | None
    ) -> tuple[list[StoredFile], str | None]:
        """The owner's files, newest first, and the token of the next page if there is one."""
        if page_size == 0:
            page_size = DEFAULT_PAGE_SIZE
        if not 0 < page_size <= MAX_PAGE_SIZE:
            raise invalid_argument(
                f"ListFilesRequest.page_size: must be from 1 to {MAX_PAGE_SIZE}."
            )
        self._forget_expired()
        before = _sequence_of(page_token) if page_token else self._sequence + 1
        page: list[StoredFile] = []
        for file in reversed(self._files.values()):
            if file.owner == owner and file.sequence < before:
                if len(page) == page_size:
                    return page, _token_of(page[-1].sequence)
                page.append(file)
        return page, None

    def clear(self) -> None:
        """Forget all files."""
        for file in tuple(self._files.values()):
            self._forget(file)
        self._withheld.clear()

    def _forget_expired(self) -> None:
        now_ns = self._clock()
        while self._files:
            oldest = next(iter(self._files.values()))
            if oldest.expire_ns is None or now_ns < oldest.expire_ns:
                return
            self._forget(oldest)

    def _forget(self, file: StoredFile) -> None:
        del self._files[file.file_id]
        self._project_bytes[file.owner] -= file.size_bytes or 0
        if not self._project_bytes[file.owner]:
            del self._project_bytes[file.owner]
        if file.path is not None:
            file.path.unlink(missing_ok=True)


def _token_of(sequence: int) -> str:
    return base64.urlsafe_b64encode(f"before:{sequence}".encode()).decode().rstrip("=")


def _sequence_of(page_token: str) -> int:
    try:
        padded = page_token + "=" * (-len(page_token) % 4)
        word, _, number = base64.b64decode(padded, altchars=b"-_", validate=True).partition(b":")
        if word == b"before" and number.isdigit():
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise invalid_argument("ListFilesRequest.page_token: the page token is not valid.")
