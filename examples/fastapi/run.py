"""Everything on this machine: Redis, the local Gemini, our workers, and the app."""

import os
import socket
import tempfile
from pathlib import Path

import uvicorn

from provider_uploads.local.stack import Stack, StackOptions


def main():
    """Start all, serve until Ctrl-C, end all."""
    port = int(os.environ.get("PORT", 8000))
    with socket.create_server(("127.0.0.1", 0)) as free:
        redis_port = free.getsockname()[1]
    os.environ["PROVIDER_UPLOADS_REDIS_URL"] = f"redis://127.0.0.1:{redis_port}/0"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROVIDER_UPLOADS_STAGING"] = str(Path(folder).resolve())
        options = StackOptions(redis_port=redis_port, processing_s=3, bandwidth_mib_s=2, beat=True)
        with Stack(options):
            print(f"http://127.0.0.1:{port}  Ctrl-C stops everything.", flush=True)
            # Streams of events would keep it from stopping.
            uvicorn.run("app:app", port=port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
