"""The Lua scripts, each called as Redis calls it: by KEYS and ARGV."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import redis

from provider_uploads import protocol
from provider_uploads.fleet import limits
from provider_uploads.ledger.state import copy_wanted
from provider_uploads.lua import read_script
from provider_uploads.schemas import Copy, Stage
from tests.nodes import ROOT

SCRIPTS = sorted((ROOT / "src" / "provider_uploads").rglob("*.lua"))
LEDGER, FLEET = "provider_uploads.ledger", "provider_uploads.fleet"


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_each_says_what_it_takes_and_is_tested_here(path: Path) -> None:
    text = path.read_text("utf-8")
    head = text[: text.find("\n", text.rfind("\n-- ", 0, 2500))]
    assert head.startswith("-- ")
    for name in ("KEYS", "ARGV"):
        if f"{name}[" in text.replace(head, "") and not path.stem.endswith("_functions"):
            assert name in head or "_functions.lua" in head, f"{name} is not explained"
    assert f'"{path.stem}"' in Path(__file__).read_text("utf-8")


def change(**fields: Any) -> str:
    given: dict[str, Any] = {
        "ttl": 60,
        "from": None,
        "stamp": {},
        "set": {},
        "unset": [],
        "count": [],
    }
    return json.dumps({**given, **fields})


class TestUploadWrite:
    def write(self, raw: redis.Redis, **fields: Any) -> Any:
        return raw.eval(read_script(LEDGER, "upload_write"), 2, "row", "open", change(**fields))

    def test_a_new_row(self, raw: redis.Redis) -> None:
        listener = raw.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        listener.subscribe("row")
        listener.get_message(timeout=1)
        now = self.write(raw, stamp={"queued_at": 5}, set={"stage": "QUEUED"})
        assert float(raw.hget("row", "queued_at") or 0) == pytest.approx(float(now) + 5)
        assert raw.zscore("open", "row") == pytest.approx(float(now))
        assert 0 < raw.ttl("row") <= 60
        message = listener.get_message(timeout=1)
        assert message
        assert message["data"] == "QUEUED"
        listener.close()

    def test_only_from_the_stages_named(self, raw: redis.Redis) -> None:
        raw.hset("row", mapping={"stage": "ACTIVE", "note": "x", "stumbles": 1})
        assert self.write(raw, **{"from": ["QUEUED"]}, set={"stage": "FAILED"}) is None
        assert raw.hgetall("row") == {"stage": "ACTIVE", "note": "x", "stumbles": "1"}
        assert self.write(raw, **{"from": ["ACTIVE"]}, unset=["note"], count=["stumbles"])
        assert raw.hgetall("row") == {"stage": "ACTIVE", "stumbles": "2"}

    @pytest.mark.parametrize(
        ("stage", "copy", "released", "cleanup"),
        [
            (stage, copy, released, cleanup)
            for stage, copy, released, cleanup in product(Stage, Copy, (False, True), (False, True))
            if stage.ended or not released  # a living upload cannot be released
        ],
    )
    def test_open_is_what_has_something_left_to_do(
        self, raw: redis.Redis, stage: Stage, copy: Copy, released: bool, cleanup: bool
    ) -> None:
        """The index is decided in Lua, what is wanted in Python: nothing unwanted is missed."""
        marks = {"let_go_at": "1"} if released else {}
        self.write(raw, set={"stage": stage, "copy_at_provider": copy, **marks})
        is_open = raw.zscore("open", "row") is not None
        wanted = copy_wanted(stage, released=released, cleanup_on_timeout=cleanup)
        to_delete = copy is Copy.PRESENT and not wanted
        if not stage.ended or to_delete:
            assert is_open
        if stage is Stage.ACTIVE and wanted:
            assert not is_open
        if stage.ended and copy is not Copy.PRESENT:
            assert not is_open


class TestUploadTakeOver:
    def take(self, raw: redis.Redis) -> Any:
        script = read_script(LEDGER, "upload_take_over", "upload_write")
        ordered = change(**{"from": ["QUEUED"]}, set={"stage": "ACTIVE"})
        return raw.eval(script, 4, "taker", "open", "sender", "users", ordered, "s", "t", 60)

    def test_from_an_active_upload(self, raw: redis.Redis) -> None:
        raw.hset("taker", "stage", "QUEUED")
        raw.hset("sender", "stage", "ACTIVE")
        assert self.take(raw)
        assert raw.smembers("users") == {"s", "t"}
        assert raw.hget("taker", "stage") == "ACTIVE"

    @pytest.mark.parametrize(
        ("sender", "taker"),
        [
            ({"stage": "ACTIVE", "let_go_at": "1"}, "QUEUED"),
            ({"stage": "UPLOADING"}, "QUEUED"),
            ({"stage": "ACTIVE"}, "CANCELLED"),
        ],
    )
    def test_nothing_else(self, raw: redis.Redis, sender: dict[Any, Any], taker: str) -> None:
        raw.hset("taker", "stage", taker)
        raw.hset("sender", mapping={**sender})
        assert self.take(raw) is None
        assert not raw.exists("users")
        assert raw.hget("taker", "stage") == taker


@pytest.mark.parametrize(
    ("row", "attempt", "tag", "result"),
    [
        ({"stage": "PROCESSING"}, 0, "a", "go"),
        ({"stage": "PROCESSING", "look": "0", "tag": "a"}, 0, "a", "go"),
        ({"stage": "PROCESSING", "look": "0", "tag": "a"}, 0, "b", "stale"),
        ({"stage": "PROCESSING", "look": "2", "tag": "a"}, 1, "a", "stale"),
        ({"stage": "ACTIVE", "look": "1", "tag": "a"}, 1, "a", "answer"),
        ({"stage": "CANCELLED", "look": "1", "tag": "a"}, 2, "b", "answer"),
    ],
)
def test_upload_claim_poll(
    raw: redis.Redis, row: dict[Any, Any], attempt: int, tag: str, result: str
) -> None:
    raw.hset("row", mapping={**row})
    claim, now, fields = raw.eval(read_script(LEDGER, "upload_claim_poll"), 1, "row", attempt, tag)
    seconds, _ = raw.time()
    assert (claim, int(float(now))) in {(result, seconds), (result, seconds - 1)}
    claimed = dict(zip(fields[::2], fields[1::2], strict=True))
    assert (claimed["look"] == str(attempt)) is (result == "go" or row.get("look") == str(attempt))


def test_claim_content_and_release_content(raw: redis.Redis) -> None:
    claim, release = read_script(LEDGER, "claim_content"), read_script(LEDGER, "release_content")
    assert raw.eval(claim, 1, "claim", "a", "", 60) == "a"
    assert raw.eval(claim, 1, "claim", "b", "", 60) == "a"
    assert raw.eval(claim, 1, "claim", "b", "a", 60) == "b"
    raw.sadd("users", "b", "c")
    assert raw.eval(release, 2, "users", "claim", "b") == 1
    assert raw.get("claim") == "c"  # inherited
    assert raw.eval(release, 2, "users", "claim", "c") == 0
    assert raw.get("claim") is None


class TestStorage:
    def run(self, raw: redis.Redis, name: str, *args: str | float) -> Any:
        return raw.eval(read_script(LEDGER, "storage_functions", name), 2, "expiry", "bytes", *args)

    def test_storage_reserve_and_storage_release(self, raw: redis.Redis) -> None:
        assert self.run(raw, "storage_reserve", "a", 60, 100, 60) == 0
        assert self.run(raw, "storage_reserve", "a", 60, 100, 60) == 0  # twice is once
        assert self.run(raw, "storage_reserve", "b", 60, 100, 60) == 20
        assert self.run(raw, "storage_held") == 60
        self.run(raw, "storage_release", "a")
        self.run(raw, "storage_release", "a")
        assert self.run(raw, "storage_held") == 0

    def test_an_expired_file_holds_nothing(self, raw: redis.Redis) -> None:
        self.run(raw, "storage_reserve", "a", 60, 100, -1)
        assert self.run(raw, "storage_held") == 0

    def test_storage_reconcile(self, raw: redis.Redis) -> None:
        self.run(raw, "storage_reserve", "a", 60, 1000, 60)
        later = raw.time()[0] + 60
        self.run(raw, "storage_reconcile", "a", "", 0, "b", 7, later, "c", 8, later)
        raw.hset("bytes", "others", 100)
        assert self.run(raw, "storage_held") == 115
        assert raw.zrange("expiry", 0, -1) == ["b", "c"]


class TestLimits:
    """With a rate of 60 a minute, where no limit was hit."""

    def run(self, raw: redis.Redis, name: str, *args: str | float) -> Any:
        script = read_script(FLEET, "limits_functions", name, constants=limits.CONSTANTS)
        return raw.eval(script, 2, "permits", "rates", "default", "upload", 60, *args)

    def test_limits_acquire(self, raw: redis.Redis) -> None:
        wait, token, interval, why = self.run(raw, "limits_acquire", "", "", 0)
        assert (float(wait), why) == (0, "")
        assert token
        assert float(interval) == pytest.approx(60 / 58.8, rel=1e-3)
        wait, token, *_ = self.run(raw, "limits_acquire", "", 0.1, 0)
        assert float(wait) > 0.9
        assert token == ""  # too far ahead to be reserved

    def test_limits_cool_down_and_limits_status(self, raw: redis.Redis) -> None:
        held = self.run(raw, "limits_cool_down", "", 5, "[1, 2]", "a quota")
        assert float(held) == pytest.approx(5)
        rate, factor, on_hold = self.run(raw, "limits_status")
        assert (float(rate), float(factor)) == (60, limits.BACK_OFF)
        assert 4.5 < float(on_hold) <= 5
        wait, _, _, why = self.run(raw, "limits_acquire", "", "", 0)
        assert float(wait) > 4.5
        assert why == "a quota"

    def test_limits_set(self, raw: redis.Redis) -> None:
        self.run(raw, "limits_cool_down", "", 5, "[1]", "a quota")
        script = read_script(FLEET, "limits_set")
        raw.hset("rates", "default:upload", 7)
        raw.eval(script, 2, "rates", "permits", "upload", "120", "default:upload")
        assert raw.hgetall("rates") == {"upload": "120"}
        assert [float(x) for x in self.run(raw, "limits_status")][:2] == [120, 1]
        raw.eval(script, 2, "rates", "permits", "upload", "")
        assert raw.hgetall("rates") == {}


def test_breaker_check_and_breaker_failure(raw: redis.Redis) -> None:
    check = read_script(FLEET, "breaker_functions", "breaker_check")
    failure = read_script(FLEET, "breaker_functions", "breaker_failure")
    given = (2, "[10, 20]")
    assert raw.eval(check, 1, "breaker", *given) == ["0", 0]
    assert raw.eval(failure, 1, "breaker", *given, 60, 0) == 0
    assert raw.eval(failure, 1, "breaker", *given, 60, 0) == 1  # it opens
    wait, failures = raw.eval(check, 1, "breaker", *given)
    assert failures == 2
    assert 9 < float(wait) <= 10
    raw.hset("breaker", "probe_at", 0)
    assert raw.eval(check, 1, "breaker", *given) == ["0", 2]  # the probe
    assert raw.eval(failure, 1, "breaker", *given, 60, 1) == 1
    wait, _ = raw.eval(check, 1, "breaker", *given)
    assert 19 < float(wait) <= 20
    assert 0 < raw.ttl("breaker") <= 60


def test_keys_of_ours_have_the_prefix() -> None:
    """The scripts name no key themselves: all come by KEYS."""
    assert all(protocol.KEY_PREFIX not in path.read_text("utf-8") for path in SCRIPTS)
