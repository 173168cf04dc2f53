"""The web app's side: submit files, ask how they are, fetch results."""

from provider_uploads.client.queue import UploadQueue

__all__ = ["UploadQueue"]
