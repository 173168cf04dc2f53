"""What tests of batches share: inputs, quick policies, and what the provider saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from provider_uploads.emulator import BatchConfig, EmulatorConfig, LocalGemini
from tests.conftest import KEY

MODEL: Final = "gemini-2.5-flash"
WAIT_S: Final = 60

#: Polls and looks close together.
QUICK: Final = {
    "PROVIDER_UPLOADS_BATCH_POLL_FIRST_S": "0.1",
    "PROVIDER_UPLOADS_BATCH_POLL_MAX_S": "0.3",
    "PROVIDER_UPLOADS_BATCH_LOOK_FIRST_S": "0.1",
    "PROVIDER_UPLOADS_BATCH_LOOK_MAX_S": "0.3",
    "PROVIDER_UPLOADS_BATCH_LIST_EVERY_S": "0.1",
}


def local_gemini(running_s: float = 0.2, **batches: Any) -> EmulatorConfig:
    return EmulatorConfig(
        processing_s=0.2,
        api_keys=frozenset({KEY}),
        batches=BatchConfig(pending_s=0.1, running_s=running_s, **batches),
    )


def asked(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"contents": f"Question {n}", "metadata": {"key": f"k{n}"}, **fields} for n in range(count)
    ]


def write(path: Path, count: int) -> Path:
    """Write a file in Gemini's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            contents = [{"role": "user", "parts": [{"text": f"Question {n}"}]}]
            file.write(json.dumps({"key": f"k{n}", "request": {"contents": contents}}) + "\n")
    return path


def openai_line(n: int) -> dict[str, Any]:
    message = {"role": "user", "content": f"Question {n}"}
    body = {"model": "gpt-4o-mini", "messages": [message], "max_tokens": 100}
    return {"custom_id": f"k{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def nothing_left(gemini: LocalGemini) -> bool:
    return not gemini.files() and all(job["deleted"] for job in gemini.batches.jobs())


def counted(gemini: LocalGemini, operation: str) -> int:
    found = gemini.counters()["operations"].get(operation, {})
    return int(found.get("requests", 0))
