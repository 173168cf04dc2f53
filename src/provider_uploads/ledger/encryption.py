"""URLs that hold a credential, encrypted while they wait in Redis.

Redis keeps what was written in its append-only file until that is rewritten, and in snapshots and
backups for longer. With ``PROVIDER_UPLOADS_ENCRYPTION_KEY`` set at clients and workers, a source's
whole URL is written as a Fernet token:

    fernet:gAAAAABm…
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from provider_uploads.errors import ConfigurationError, MissingDependencyError
from provider_uploads.settings import settings

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

_MARK: Final = "fernet:"


def encrypted(url: str) -> str:
    """Return a URL as Redis may keep it: as it is where no key is set."""
    if settings().encryption_key is None:
        return url
    return _MARK + _fernet().encrypt(url.encode()).decode()


def decrypted(kept: str) -> str:
    """Return the URL of what Redis kept; raises ConfigurationError without its key."""
    if not kept.startswith(_MARK):
        return kept
    if settings().encryption_key is None:
        raise ConfigurationError(
            "the source's URL is encrypted, and there is no key here. Set "
            "PROVIDER_UPLOADS_ENCRYPTION_KEY as at the client, for all workers."
        )
    from cryptography.fernet import InvalidToken

    try:
        return _fernet().decrypt(kept.removeprefix(_MARK)).decode()
    except InvalidToken:
        raise ConfigurationError(
            "the source's URL was encrypted with another key. Set PROVIDER_UPLOADS_ENCRYPTION_KEY "
            "to the client's for all workers; several keys, separated by commas, are tried in turn."
        ) from None


def _fernet() -> MultiFernet:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError:
        raise MissingDependencyError("cryptography", "encryption") from None
    keys = settings().encryption_key
    given = keys.get_secret_value() if keys else ""
    return MultiFernet([Fernet(key.strip()) for key in given.split(",")])
