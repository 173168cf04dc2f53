"""The machine and the versions behind the figures."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata

from provider_uploads.local.stack import find_redis_server


def facts() -> dict[str, str]:
    """Return what a reader must know to compare figures; raises ConfigurationError."""
    said = subprocess.run(
        [find_redis_server(), "--version"], capture_output=True, text=True, check=True
    ).stdout
    version = re.search(r"v=(\S+)", said)
    return {
        "cores": str(_cores()),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "celery": metadata.version("celery"),
        "redis-server": version.group(1) if version else said.strip(),
        "google-genai": metadata.version("google-genai"),
    }


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # a container may have fewer than the machine
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
