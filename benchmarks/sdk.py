"""The peer's process: google-genai in threads, as its manual shows it.

{"paths": ["/tmp/a.txt"], "mime_type": "text/plain", "look": true, "wait_s": 0}    a line in
{"wall_s": 0.012, "looks": 1}                                                      a line out
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from google import genai
from google.genai import types

#: As many as the worker's pool has.
THREADS = 16


def main(base_url: str) -> None:
    """Serve jobs until the input ends."""
    client = genai.Client(
        api_key="local", vertexai=False, http_options=types.HttpOptions(base_url=base_url)
    )
    with ThreadPoolExecutor(THREADS) as pool:
        for line in sys.stdin:
            job = json.loads(line)
            begun = time.perf_counter()
            looks = sum(pool.map(lambda path, job=job: _upload(client, path, job), job["paths"]))
            wall_s = time.perf_counter() - begun
            print(json.dumps({"wall_s": wall_s, "looks": looks}), flush=True)


def _upload(client: genai.Client, path: str, job: dict[str, Any]) -> int:
    """Upload a file and look until it is ACTIVE; return the looks taken."""
    file = client.files.upload(file=path, config=types.UploadFileConfig(mime_type=job["mime_type"]))
    looks = 0
    while job["look"] and not (looks and file.state is types.FileState.ACTIVE):
        time.sleep(job["wait_s"])
        file = client.files.get(name=file.name or "")
        looks += 1
        if file.state is types.FileState.FAILED:
            raise RuntimeError(f"{path} failed")
    if file.state is not types.FileState.ACTIVE:
        raise RuntimeError(f"{path} is {file.state}")
    return looks


if __name__ == "__main__":
    main(sys.argv[1])
