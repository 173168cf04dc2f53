"""Whatever fails on the way, the provider holds the source's very bytes, once, or nothing."""

from __future__ import annotations

import hashlib
import os
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from provider_uploads.emulator import (
    EmulatorConfig,
    FaultKind,
    InvalidFaultError,
    LocalGemini,
    Operation,
)
from provider_uploads.errors import PermanentError, TransientError
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.providers.gemini import Gemini
from provider_uploads.providers.verification import BLOCK_BYTES
from provider_uploads.schemas import UploadRequest
from provider_uploads.sources.open import open_source
from provider_uploads.transfer import Interrupted, transfer
from tests.conftest import KEY, profile_at
from tests.nodes import RedisProcess

#: EXAMPLES=5000 pytest tests/test_transfer_properties.py searches for longer.
EXAMPLES = int(os.environ.get("EXAMPLES", "60"))

SIZES = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7]
ASKED = (Operation.START, Operation.UPLOAD, Operation.QUERY, Operation.GET, Operation.DELETE)
#: Those that only take time are for other tests.
KINDS = sorted(set(FaultKind) - {FaultKind.STALL, FaultKind.LATE_ANSWER})

faults = st.lists(
    st.tuples(
        st.sampled_from(ASKED),
        st.sampled_from(KINDS),
        st.integers(1, 2),
        st.integers(0, 3 * BLOCK_BYTES),
    ),
    max_size=5,
)
#: Before which attempts the ledger forgets the session, as when Redis lost its last second; and
#: after how many blocks an attempt is stopped.
forgets = st.sets(st.integers(1, 5), max_size=2)
stops = st.dictionaries(st.integers(0, 4), st.integers(0, 3), max_size=2)


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    config = EmulatorConfig(processing_s=0, api_keys=frozenset({KEY}), chunk_granularity_bytes=1)
    with LocalGemini(config) as running:
        yield running


@pytest.fixture(scope="module")
def provider(gemini: LocalGemini) -> Iterator[Gemini]:
    with Gemini(profile_at(gemini.url), timeout_s=5) as made:
        yield made


@pytest.fixture(scope="module")
def rows(shared_redis: RedisProcess) -> Iterator[Ledger]:
    made = Ledger(shared_redis.url)
    yield made
    made.close()


class Held:
    """A lease that nobody takes away."""

    lost = False


def order(gemini: LocalGemini, faults: list[tuple[Operation, FaultKind, int, int]]) -> None:
    for operation, kind, nth, after_bytes in faults:
        cut: dict[str, Any] = {"after_bytes": after_bytes} if kind is FaultKind.RESET else {}
        try:
            gemini.order_fault(operation, kind, nth=nth, **cut)
        except InvalidFaultError:  # this cannot happen to that
            event(f"no {kind} of {operation}")
        else:
            event(f"{kind} of {operation}")


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 60,  # the same ones every time, but for a long search
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    size_bytes=st.sampled_from(SIZES),
    faults=faults,
    forgets=forgets,
    stops=stops,
    seed=st.integers(),
)
def test_the_file_is_identical_or_absent(
    gemini: LocalGemini,
    provider: Gemini,
    rows: Ledger,
    tmp_path: Path,
    size_bytes: int,
    faults: list[tuple[Operation, FaultKind, int, int]],
    forgets: set[int],
    stops: dict[int, int],
    seed: int,
) -> None:
    gemini.reset()
    content = random.Random(seed).randbytes(size_bytes)
    path = tmp_path / "source.bin"
    path.write_bytes(content)
    ticket = uuid.uuid4().hex  # a row that is there already stays as it is
    request = UploadRequest(
        upload_id=ticket,
        source=str(path),
        display_name="source.bin",
        mime_type="video/mp4",
        size_bytes=size_bytes,
    )
    rows.open([request])
    order(gemini, faults)
    done = failed = None
    for number in range(30):
        if number in forgets:
            rows.redis.hdel(f"provider_uploads:upload:{ticket}", "session_url")
        blocks = iter(range(stops.get(number, 1_000_000)))

        def stopping(left: Iterator[int] = blocks) -> bool:
            return next(left, None) is None

        try:
            with open_source(path) as source:
                _, done = transfer(
                    rows,
                    provider,
                    rows.read(ticket),
                    source,
                    lease=Held(),
                    stopping=stopping,
                    progress_every_s=0.0,
                )
            break
        except (TransientError, Interrupted):
            continue
        except PermanentError as error:
            failed = error
            break
    assert failed is None, failed
    assert done is not None, "30 attempts did not do"
    # What we call done is there, with these bytes.
    (file,) = [f for f in gemini.files() if f["name"] == done.name]
    assert file["sha256"] == done.sha256 == hashlib.sha256(content).hexdigest()
    assert file["size_bytes"] == done.size_bytes == size_bytes
    row: Any = rows.read(ticket)
    # Whatever else there is bears one of this upload's earlier names: the sweep knows it by that.
    others = {f["name"] for f in gemini.files()} - {done.name}
    assert others <= set(row.names)
