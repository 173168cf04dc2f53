"""Google Cloud's credentials, as google-auth finds them in the environment."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from provider_uploads.errors import MissingCredentialsError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_only",)


def google_credentials() -> Credentials:
    """Return credentials that may read buckets; raises MissingCredentialsError without any."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        found, _ = google.auth.default(scopes=_SCOPES)
    except GoogleAuthError:
        raise MissingCredentialsError("Google Cloud") from None
    return found


@cache
def cached_google_credentials() -> Credentials | None:
    """Return this process's credentials, or None; looked for once, which may take seconds."""
    try:
        return google_credentials()
    except MissingCredentialsError:
        return None
