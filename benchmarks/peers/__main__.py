"""A peer's client process: ``python -m benchmarks.peers <module>`` enqueues and waits.

{"paths": ["/tmp/a.txt"], "mime_type": "text/plain", "poll_s": 0.5}    a line in
{"wall_s": 0.012, "polls": 1}                                          a line out

The wall time runs from before the first file is enqueued to the end of the last, which each result
tells: reading the results back does not count.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module


def main(name: str) -> None:
    """Serve jobs until the input ends."""
    peer = import_module(f"benchmarks.peers.{name}")
    for line in sys.stdin:
        job = json.loads(line)
        begun_at = time.time()
        results = peer.deliver(job.pop("paths"), **job)
        wall_s = max(result["ended_at"] for result in results) - begun_at
        polls = sum(result["polls"] for result in results)
        print(json.dumps({"wall_s": wall_s, "polls": polls}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
