"""Whatever is thrown at a living fleet, no worker exits, and what is good beside it goes on."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as examples
from hypothesis import strategies as st

from provider_uploads import UploadQueue, protocol
from provider_uploads.emulator import LocalGemini
from provider_uploads.messages import TICKETS
from tests.nodes import RedisProcess, WorkerProcess, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

QUEUES = [f"{protocol.KEY_PREFIX}{name}" for name in ("transfer", "transfer.questions", "control")]

#: What JSON can hold.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
TICKET = st.sampled_from([letter * 32 for letter in "0123abcd"])
PAYLOAD = st.fixed_dictionaries(
    {"upload_id": TICKET | JSON},
    optional={
        "version": st.sampled_from([1, 2, 3, 99]) | JSON,
        "source": st.sampled_from(["/nowhere", "/", "https://h/p", "s3://b/k", "x"]) | JSON,
        "display_name": st.text(max_size=5) | JSON,
        "mime_type": st.just("text/plain") | JSON,
        "size_bytes": st.integers(-1, 10) | JSON,
        "profile": st.sampled_from(["default", "none"]) | JSON,
        "patience": st.dictionaries(st.sampled_from(["timeout_s", "poll_s", "jitter_s"]), JSON),
        "reuse": st.booleans(),
        "notify": st.booleans(),
    },
)
ARGUMENT = TICKET | JSON | PAYLOAD | st.lists(PAYLOAD, max_size=3)
TASK = st.sampled_from([*TICKETS, "provider_uploads.later", "shop.pay"])


def encoded(body: Any) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """A message of one of our tasks, with any arguments."""
    args = draw(st.lists(ARGUMENT, max_size=3))
    kwargs = draw(st.dictionaries(st.sampled_from(["turn", "at_provider", "later"]), JSON))
    embed = draw(st.just({}) | st.dictionaries(st.sampled_from(EMBEDDED), JSON))
    return {
        "body": encoded([args, kwargs, embed]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "id": draw(st.uuids().map(str) | TICKET),
            "task": draw(TASK),
            "lang": "py",
            "retries": draw(st.integers(0, 5)),
        },
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": draw(st.uuids().map(str)),
            "delivery_info": {"exchange": "", "routing_key": "control"},
        },
    }


EMBEDDED = ["callbacks", "errbacks", "chain", "chord"]


@st.composite
def broken(draw: st.DrawFn) -> dict[str, Any]:
    """A message with one of its parts replaced, or gone."""
    message = draw(messages())
    path = draw(
        st.sampled_from(
            [
                *((name,) for name in message),
                *(("headers", name) for name in [*message["headers"], "eta", "expires", "group"]),
                *(("headers", name) for name in ("timelimit", "compression", "stamps", "shadow")),
                *(("properties", name) for name in [*message["properties"], "priority"]),
            ]
        )
    )
    inner = message
    for part in path[:-1]:
        inner = inner[part]
    if draw(st.booleans()):
        inner[path[-1]] = draw(JSON)
    else:
        inner.pop(path[-1], None)
    return message


#: What is outside of what a worker may read, or is no file.
OUTSIDE = st.sampled_from(
    [
        *("/etc/passwd", "/proc/self/environ", "/etc", "/dev/zero"),
        *("LINK", "ROOT/../../../../etc/passwd", "file:///etc/passwd"),
        *("https://127.0.0.1/p", "https://169.254.169.254/latest", "s3://b/k"),
    ]
)


@st.composite
def thieves(draw: st.DrawFn) -> dict[str, Any]:
    """A whole upload of what this worker may not read."""
    ticket = draw(st.uuids()).hex
    payload = {
        "version": 1,
        "upload_id": ticket,
        "source": draw(OUTSIDE),
        "display_name": "stolen",
        "mime_type": "text/plain",
        "size_bytes": None,
    }
    message = draw(messages())
    message["body"] = encoded([[payload], {}, {}])
    message["headers"] |= {"id": ticket, "task": protocol.UPLOAD}
    return message


ITEM = st.one_of(
    thieves().map(lambda one: json.dumps(one).encode()),
    messages().map(lambda one: json.dumps(one).encode()),
    broken().map(lambda one: json.dumps(one).encode()),
    JSON.map(lambda one: json.dumps(one).encode()),
    st.binary(max_size=50),
)


#: A hundred messages take no less.
_ROUND_S = 3.0


@pytest.fixture
def policy() -> dict[str, str]:
    return {"PROVIDER_UPLOADS_NEWER_PAYLOAD_RETRY_S": "20"}


@pytest.fixture
def default_redis_broker(tmp_path: Path) -> Iterator[RedisProcess]:
    node = RedisProcess.spawn(tmp_path)
    node.ready()
    yield node
    node.teardown()


def test_the_fleet_lives(
    request: pytest.FixtureRequest,
    default_redis_broker: RedisProcess,
    gemini: LocalGemini,
    more_workers: Callable[..., WorkerProcess],
    make_file: Callable[..., Path],
    quick: dict[str, Any],
) -> None:
    """For two minutes with --chaos, else for fifteen seconds."""
    last_s = 120.0 if request.config.getoption("--chaos") else 15.0
    raw = redis.Redis(port=default_redis_broker.port)
    workers = [more_workers("-Q", "transfer"), more_workers("-Q", "control")]
    path, thrown, thefts, slowest_s = make_file(), 0, 0, 0.0
    link = path.with_name("link.txt")
    link.symlink_to("/etc/passwd")
    places = {b"LINK": str(link).encode(), b"ROOT": str(path.parent).encode()}

    def throw(item: bytes, queue: str) -> None:
        nonlocal thrown, thefts
        with suppress(ValueError, TypeError, LookupError):  # a whole message: name real places
            message = json.loads(item)
            body = base64.b64decode(message["body"])
            for name, place in places.items():
                body = body.replace(name, place)
            thefts += b"stolen" in body
            message["body"] = base64.b64encode(body).decode()
            item = json.dumps(message).encode()
        raw.lpush(queue, item)
        thrown += 1

    next_at, ends_at = time.monotonic(), time.monotonic() + last_s
    round_ = request.config.getoption("--chaos-seed") * 1000
    with UploadQueue(default_redis_broker.url) as queue:
        while time.monotonic() < ends_at:
            round_ += 1
            # As many on a fast machine as on a slow one: each message has its lines in the log.
            time.sleep(max(0.0, next_at - time.monotonic()))
            next_at = time.monotonic() + _ROUND_S
            seed(round_)(
                examples(
                    max_examples=100,
                    database=None,
                    deadline=None,
                    phases=[Phase.generate],
                    suppress_health_check=[*HealthCheck],
                )(given(ITEM, st.sampled_from(QUEUES))(throw))
            )()
            begun = time.monotonic()
            result = queue.result(queue.submit(path, **quick), timeout_s=10)
            slowest_s = max(slowest_s, time.monotonic() - begun)
            assert result.state == "ACTIVE"
            assert [worker.exit_code for worker in workers] == [None, None]
        wait_until(lambda: all(raw.llen(name) == 0 for name in QUEUES), "the queues to be empty")
    sizes = [len(worker.logs()) for worker in workers]
    raw.close()
    print(f"{thrown} thrown, {thefts} of them thefts; slowest good one {slowest_s:.2f} s")
    print(f"logs {sizes} characters")
    for worker in workers:  # what was no outcome with a name
        print(*(fault[:3000] for fault in worker.logs().split("Traceback")[1:4]))
    good = hashlib.sha256(path.read_bytes()).hexdigest()
    assert {one["sha256"] for one in gemini.files()} == {good}
    assert [worker.exit_code for worker in workers] == [None, None]
    assert max(sizes) < 1_000_000
