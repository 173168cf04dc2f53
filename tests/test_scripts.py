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
from provider_uploads.fleet.tiers import PAUSED
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


class TestBatchWrite:
    def write(self, raw: redis.Redis, **fields: Any) -> Any:
        once = fields.pop("once", "")
        script = read_script(LEDGER, "batch_write")
        return raw.eval(
            script, 4, "row", "open", "all", "outbox", change(**fields), "t", "channel", once
        )

    def test_a_new_batch_is_open_and_told_of(self, raw: redis.Redis) -> None:
        listener = raw.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        listener.subscribe("channel")
        now = self.write(raw, set={"stage": "QUEUED"}, stamp={"queued_at": 0})
        assert raw.hgetall("row") == {"stage": "QUEUED", "queued_at": now}
        assert raw.zscore("open", "t") == pytest.approx(float(now))
        assert raw.zscore("all", "t") == pytest.approx(float(now))
        assert raw.ttl("row") == 60
        told = [listener.get_message(timeout=1) for _ in range(2)]  # one confirms, and is None
        assert [one["data"] for one in told if one] == ["QUEUED"]
        listener.close()

    def test_one_that_is_there_stays(self, raw: redis.Redis) -> None:
        self.write(raw, set={"stage": "RUNNING"})
        assert self.write(raw, once="1", set={"stage": "QUEUED"}) is None
        assert raw.hget("row", "stage") == "RUNNING"

    def test_what_has_moved_on_is_not_touched(self, raw: redis.Redis) -> None:
        self.write(raw, set={"stage": "CANCELLED"})
        assert self.write(raw, **{"from": ["QUEUED"]}, set={"stage": "RUNNING"}) is None
        assert raw.hget("row", "stage") == "CANCELLED"

    @pytest.mark.parametrize(
        ("stage", "left", "is_open"),
        [
            ("QUEUED", None, True),
            ("RUNNING", "present", True),
            ("COLLECTING", "present", True),
            ("SUCCEEDED", "present", True),
            ("SUCCEEDED", "kept", False),
            ("SUCCEEDED", "deleted", False),
            ("FAILED", "present", True),
            ("TIMED_OUT", "deleted", False),
            ("CANCELLED", None, False),
        ],
    )
    def test_which_are_open(
        self, raw: redis.Redis, stage: str, left: str | None, is_open: bool
    ) -> None:
        self.write(raw, set={"stage": stage, **({"at_provider": left} if left else {})})
        assert (raw.zscore("open", "t") is not None) is is_open

    def test_all_that_is_kept_of_it_lives_on(self, raw: redis.Redis) -> None:
        kept = ("row:input", "row:files", "row:results", "outbox")
        for key in kept:
            raw.set(key, "x", ex=5)
        self.write(raw, set={"stage": "QUEUED"})
        assert [raw.ttl(key) for key in kept] == [60] * 4


class TestUploadWrite:
    def write(self, raw: redis.Redis, **fields: Any) -> Any:
        return raw.eval(
            read_script(LEDGER, "upload_functions", "upload_write"),
            2,
            "row",
            "open",
            change(**fields),
        )

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


class TestUploadSubmit:
    def submit(
        self, raw: redis.Redis, message: str = "m", once: str = "0", owner: str = "all"
    ) -> Any:
        script = read_script(LEDGER, "upload_functions", "upload_submit")
        order = change(set={"stage": "QUEUED"})
        keys = ["row", "open", "all", owner, "queue"]
        return raw.eval(script, 5, *keys, order, "ticket", 60, message, once)

    def test_the_row_its_place_in_the_lists_and_its_message(self, raw: redis.Redis) -> None:
        now = self.submit(raw, owner="mine")
        assert raw.hgetall("row") == {"stage": "QUEUED"}
        assert raw.lrange("queue", 0, -1) == ["m"]
        for key in ("all", "mine"):
            assert raw.zscore(key, "ticket") == pytest.approx(float(now))
            assert 0 < raw.ttl(key) <= 60

    def test_without_a_message_of_its_own(self, raw: redis.Redis) -> None:
        assert self.submit(raw, message="")
        assert not raw.exists("queue")

    def test_once(self, raw: redis.Redis) -> None:
        raw.hset("row", "stage", "ACTIVE")
        assert self.submit(raw, once="1") is None
        assert raw.hgetall("row") == {"stage": "ACTIVE"}
        assert not raw.exists("queue", "all")

    def test_what_is_too_old_leaves_the_lists(self, raw: redis.Redis) -> None:
        raw.zadd("all", {"old": 1000.0})
        self.submit(raw)
        assert raw.zrange("all", 0, -1) == ["ticket"]


class TestUploadTakeOver:
    def take(self, raw: redis.Redis) -> Any:
        script = read_script(LEDGER, "upload_functions", "upload_take_over")
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
def test_poll_begin(
    raw: redis.Redis, row: dict[Any, Any], attempt: int, tag: str, result: str
) -> None:
    raw.hset("row", mapping={**row})
    names = ("limits_functions", "breaker_functions", "poll_begin")
    script = read_script(FLEET, *names, constants=limits.CONSTANTS)
    wanted = {
        "attempt": attempt,
        "tag": tag,
        "seen": True,
        "profile": "default",
        "work": "poll",
        "rate": 0,
        "permit": "",
        "soon_s": 0,
        "failures": 2,
        "gaps": "[10, 20]",
    }
    keys = ("row", "seen", "breaker", "permits", "rates")
    said = raw.eval(script, len(keys), *keys, json.dumps(wanted))
    claim, wait, now, token, why, failures, seen, fields = said
    assert (float(wait), token, why, failures, seen) == (
        0,
        "0:0" if result == "go" else "",
        "",
        0,
        "",
    )
    seconds, _ = raw.time()
    assert (claim, int(float(now))) in {(result, seconds), (result, seconds - 1)}
    claimed = dict(zip(fields[::2], fields[1::2], strict=True))
    assert (claimed["look"] == str(attempt)) is (result == "go" or row.get("look") == str(attempt))


def test_request_begin(raw: redis.Redis) -> None:
    names = ("limits_functions", "breaker_functions", "request_begin")
    script = read_script(FLEET, *names, constants=limits.CONSTANTS)

    def begin(token: str = "") -> Any:
        args: list[Any] = ["default", "delete", 60, token, "", 2, "[10, 20]"]
        return raw.eval(script, 3, "permits", "rates", "breaker", *args)

    wait, token, outage, failures = begin()
    assert (float(wait), token[:2], float(outage), failures) == (0, "0:", 0, 0)
    wait, token, *_ = begin()
    assert 0.9 < float(wait) < 1.1
    assert begin(token)[1] == token
    before = raw.hgetall("permits")
    raw.hset("breaker", mapping={"failures": 2, "openings": 1, "probe_at": "9999999999"})
    wait, token, outage, failures = begin()
    assert (float(wait), token, float(outage) > 0, failures) == (0, "", True, 2)
    assert raw.hgetall("permits") == before
    raw.hset("breaker", "probe_at", "1")
    raw.delete("permits")
    assert begin()[2:] == ["0.000000", 2]
    assert float(begin()[2]) > 0  # that was the probe


class TestParked:
    """A ticket is parked, or its message is in the queue."""

    def park(self, raw: redis.Redis, ticket: str = "t", **given: Any) -> Any:
        keys = ["parked", "last", "facts", "messages", "few", "profiles", f"row:{ticket}"]
        args = {"wait": 5, "claimed": "", "tag": "", "least": 1, **given}
        script = read_script(LEDGER, "parked_park")
        order = [ticket, "default", args["wait"], args["claimed"], args["tag"], args["least"]]
        message = args.get("message", f"message of {ticket}")
        return raw.eval(script, len(keys), *keys, *order, "facts", message, 60)

    def wake(self, raw: redis.Redis, *args: str) -> Any:
        keys = ["parked", "last", "facts", "messages", "queue"]
        seen = [f"seen:{ticket}" for ticket in args[::2]]
        script = read_script(LEDGER, "parked_functions", "parked_wake")
        return raw.eval(script, len(keys) + len(seen), *keys, *seen, 30, *args)

    def test_parked_park(self, raw: redis.Redis) -> None:
        raw.hset("row:t", mapping={"stage": "PROCESSING", "deadline_at": "123.5"})
        assert self.park(raw, message="") == 1
        assert not raw.exists("parked", "messages")  # it only said so
        assert self.park(raw) == 1
        seconds, _ = raw.time()
        assert raw.zscore("parked", "t") == pytest.approx(seconds + 5, abs=2)
        assert raw.zscore("last", "t") == 123.5
        assert (raw.hgetall("facts"), raw.hgetall("messages")) == (
            {"t": "facts"},
            {"t": "message of t"},
        )
        assert raw.smembers("profiles") == {"default"}
        assert 0 < raw.ttl("messages") <= 60

    def test_few_are_counted_only(self, raw: redis.Redis) -> None:
        for ticket in "abc":
            raw.hset(f"row:{ticket}", mapping={"stage": "PROCESSING", "deadline_at": "1"})
        assert [self.park(raw, ticket, least=3) for ticket in "aabc"] == [0, 0, 0, 1]
        assert raw.zrange("few", 0, -1) == ["a", "b"]
        assert raw.zrange("parked", 0, -1) == ["c"]
        raw.zadd("few", {"a": 1, "b": 1})  # their countdowns are over
        raw.delete("parked")
        assert self.park(raw, "a", least=3) == 0
        assert raw.zrange("few", 0, -1) == ["a"]

    @pytest.mark.parametrize(
        "row",
        [
            {"stage": "CANCELLED", "look": "2", "tag": "mine"},
            {"stage": "PROCESSING", "look": "3", "tag": "mine"},
            {"stage": "PROCESSING", "look": "2", "tag": "another's"},
            {"stage": "PROCESSING"},
            {"look": "2", "tag": "mine"},
        ],
    )
    def test_what_was_overtaken_is_not_parked(self, raw: redis.Redis, row: dict[Any, Any]) -> None:
        raw.hset("row:t", mapping={**row})
        assert self.park(raw, claimed="2", tag="mine") == 0
        assert not raw.exists("parked", "messages", "few")

    def test_parked_wake_and_parked_functions(self, raw: redis.Redis) -> None:
        for ticket in "abc":
            raw.hset(f"row:{ticket}", mapping={"stage": "PROCESSING", "deadline_at": "1"})
            self.park(raw, ticket)
        assert self.wake(raw, "a", "what was seen", "b", "", "unknown", "seen too") == 2
        assert raw.lrange("queue", 0, -1) == ["message of b", "message of a"]
        assert raw.get("seen:a") == "what was seen"
        assert 0 < raw.ttl("seen:a") <= 30
        assert not raw.exists("seen:b", "seen:unknown")
        assert raw.zrange("parked", 0, -1) == raw.zrange("last", 0, -1) == ["c"]
        assert raw.hkeys("facts") == raw.hkeys("messages") == ["c"]
        assert self.wake(raw, "a", "") == 0  # once
        assert raw.llen("queue") == 2


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


def test_nothing_is_reserved_while_paused(raw: redis.Redis) -> None:
    TestLimits().run(raw, "limits_acquire", "", "", 0)
    script = read_script(FLEET, "limits_set")
    raw.eval(script, 2, "rates", "permits", "upload", str(PAUSED))
    said = TestLimits().run(raw, "limits_acquire", "1:0", "", 0)
    assert said == ["10.000000", "", "0", "paused"]
    raw.eval(script, 2, "rates", "permits", "upload", "")
    assert TestLimits().run(raw, "limits_acquire", "", "", 0)[0] == "0.000000"


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


class TestBatchRoom:
    KEYS = ("open", "tokens", "account", "full", "freed")

    def ended(self, raw: redis.Redis, *names: str) -> Any:
        script = read_script(FLEET, "batch_ended")
        return raw.eval(script, len(self.KEYS), *self.KEYS, "60", *names)

    def refused(self, raw: redis.Redis, name: str, created_at: float) -> Any:
        script = read_script(FLEET, "batch_refused")
        given = (name, str(created_at), "no room", "60000")
        return raw.eval(script, len(self.KEYS), *self.KEYS, *given)

    @pytest.fixture(autouse=True)
    def two_jobs(self, raw: redis.Redis) -> None:
        raw.sadd("open", "a", "b")
        raw.hset("tokens", mapping={"a": "15", "b": "15"})
        raw.sadd("account", "a", "b", "theirs")

    def now(self, raw: redis.Redis) -> float:
        seconds, microseconds = raw.time()
        return float(seconds) + float(microseconds) / 1e6

    def test_one_that_is_refused_has_others_wait(self, raw: redis.Redis) -> None:
        assert self.refused(raw, "b", self.now(raw)) == 1
        assert raw.get("full") == "no room"
        assert 0 < raw.pttl("full") <= 60_000
        assert raw.smembers("open") == {"a"}
        assert raw.hgetall("tokens") == {"a": "15"}
        assert raw.smembers("account") == {"a", "theirs"}

    def test_one_that_ends_later_ends_their_wait(self, raw: redis.Redis) -> None:
        self.refused(raw, "b", self.now(raw))
        assert self.ended(raw, "a") == 1
        assert raw.get("full") is None
        assert raw.smembers("account") == {"theirs"}
        assert raw.ttl("freed") == 60

    def test_one_that_ended_meanwhile_spares_them_the_wait(self, raw: redis.Redis) -> None:
        """It is refused while the other runs; that is seen after the other's end."""
        created_at = self.now(raw)
        self.ended(raw, "a")
        assert self.refused(raw, "b", created_at) == 0
        assert raw.get("full") is None

    def test_one_that_ended_before_it_was_created_does_not(self, raw: redis.Redis) -> None:
        self.ended(raw, "a")
        assert self.refused(raw, "b", self.now(raw) + 0.001) == 1

    def test_an_end_counts_once(self, raw: redis.Redis) -> None:
        self.ended(raw, "a")
        self.refused(raw, "b", self.now(raw) + 0.001)
        assert self.ended(raw, "a", "b") == 0
        assert raw.get("full") == "no room"


class TestUploadFinish:
    def finish(self, raw: redis.Redis, token: str = "", result: str = "", **fields: Any) -> Any:
        script = read_script(LEDGER, "upload_functions", "upload_finish")
        keys = ("row", "open", "lease", "result")
        return raw.eval(script, 4, *keys, change(**fields), token, result, 30)

    def test_all_of_it(self, raw: redis.Redis) -> None:
        raw.hset("row", "stage", "UPLOADING")
        raw.set("lease", "mine")
        listener = raw.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        listener.subscribe("result")
        active = {"from": ["UPLOADING"], "set": {"stage": "ACTIVE"}, "stamp": {"ended_at": 0}}
        assert self.finish(raw, "mine", "{}", **active, at=1234.5) == "1234.500000"
        assert raw.hgetall("row") == {"stage": "ACTIVE", "ended_at": "1234.500000"}
        assert raw.exists("lease") == 0
        assert raw.get("result") == "{}"
        assert 0 < raw.ttl("result") <= 30
        told = [listener.get_message(timeout=1) for _ in range(2)]
        assert [one["data"] for one in told if one] == ["{}"]
        listener.close()

    def test_one_that_has_ended_has_no_result_but_gives_the_lease_back(
        self, raw: redis.Redis
    ) -> None:
        raw.hset("row", "stage", "CANCELLED")
        raw.set("lease", "mine")
        assert self.finish(raw, "mine", "{}", **{"from": ["UPLOADING"]}) is None
        assert raw.exists("result", "lease") == 0

    def test_a_lease_of_somebody_else_stays(self, raw: redis.Redis) -> None:
        raw.hset("row", "stage", "UPLOADING")
        raw.set("lease", "theirs")
        living: Any = {"from": ["UPLOADING"]}
        assert self.finish(raw, "mine", **living) is not None
        assert raw.get("lease") == "theirs"
        assert raw.exists("result") == 0


class TestQuestionBegin:
    KEYS = ("lease", "permits", "rates", "one", "two")

    def begin(self, raw: redis.Redis, rate: int = 60, permit: str = "") -> Any:
        names = ("limits_functions", "question_begin")
        script = read_script(FLEET, *names, constants=limits.CONSTANTS)
        args: list[Any] = ["mine", 20_000, "default", "generate", rate, permit]
        return raw.eval(script, len(self.KEYS), *self.KEYS, *args)

    @pytest.fixture(autouse=True)
    def active(self, raw: redis.Redis) -> None:
        raw.hset("one", mapping={"stage": "ACTIVE", "file": "a"})
        raw.hset("two", mapping={"stage": "ACTIVE", "file": "b"})

    def test_all_is_taken(self, raw: redis.Redis) -> None:
        word, number, token, rows = self.begin(raw)
        assert (word, number) == ("", "0")
        assert token.startswith("0:")
        assert rows == [["stage", "ACTIVE", "file", "a"], ["stage", "ACTIVE", "file", "b"]]
        assert raw.get("lease") == "mine"
        assert 19_000 < raw.pttl("lease") <= 20_000
        assert raw.hget("permits", "next") is not None

    @pytest.mark.parametrize("stage", ["QUEUED", "UPLOADING", "PROCESSING"])
    def test_files_are_waited_for(self, raw: redis.Redis, stage: str) -> None:
        raw.hset("two", "stage", stage)
        assert self.begin(raw) == ["files", "1", "", []]
        assert raw.exists("lease", "permits") == 0

    @pytest.mark.parametrize("stage", ["FAILED", "TIMED_OUT", "CANCELLED", "of a newer version"])
    def test_one_without_a_file_is_told_of_before_others_are_waited_for(
        self, raw: redis.Redis, stage: str
    ) -> None:
        raw.hset("one", "stage", "QUEUED")
        raw.hset("two", "stage", stage)
        assert self.begin(raw) == ["ended", "1", "", [["stage", stage, "file", "b"]]]
        assert raw.exists("lease", "permits") == 0

    def test_one_that_is_not_there(self, raw: redis.Redis) -> None:
        raw.delete("two")
        assert self.begin(raw) == ["unknown", "1", "", []]

    def test_one_at_a_time(self, raw: redis.Redis) -> None:
        raw.set("lease", "theirs")
        assert self.begin(raw) == ["leased", "0", "", []]
        assert raw.get("lease") == "theirs"
        assert raw.exists("permits") == 0

    def test_a_permit_is_waited_for_without_the_lease(self, raw: redis.Redis) -> None:
        token = self.begin(raw)[2]
        raw.delete("lease")
        before = raw.hgetall("permits")
        word, wait, none, _ = self.begin(raw)
        assert (word, none) == ("permit", "")
        assert 0.9 < float(wait) < 1.1
        assert raw.exists("lease") == 0
        assert raw.hgetall("permits") == before
        assert self.begin(raw, permit=token)[:3] == ["", "0", token]
        assert raw.get("lease") == "mine"
        assert raw.hgetall("permits") == before


class TestQuestionFinish:
    def finish(
        self, raw: redis.Redis, field: str = "answer", token: str = "mine", result: str = "{}"
    ) -> Any:
        script = read_script(LEDGER, "question_finish")
        keys = ("question", "open", "lease", "result")
        return raw.eval(script, 4, *keys, "t", field, "[]", 60, token, result, 30)

    @pytest.fixture(autouse=True)
    def asked(self, raw: redis.Redis) -> None:
        raw.hset("question", "question", "{}")
        raw.zadd("open", {"t": 1, "another": 2})
        raw.set("lease", "mine")

    def test_all_of_it(self, raw: redis.Redis) -> None:
        listener = raw.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        listener.subscribe("result")
        assert self.finish(raw) == 1
        assert raw.hgetall("question") == {"question": "{}", "answer": "[]"}
        assert 0 < raw.ttl("question") <= 60
        assert raw.zrange("open", 0, -1) == ["another"]
        assert raw.exists("lease") == 0
        assert raw.get("result") == "{}"
        assert 0 < raw.ttl("result") <= 30
        told = [listener.get_message(timeout=1) for _ in range(2)]
        assert [one["data"] for one in told if one] == ["{}"]
        listener.close()

    def test_a_bad_end_has_neither_lease_nor_result(self, raw: redis.Redis) -> None:
        assert self.finish(raw, "error", "", "") == 1
        assert raw.hget("question", "error") == "[]"
        assert raw.get("lease") == "mine"
        assert raw.exists("result") == 0

    @pytest.mark.parametrize("before", ["answer", "error"])
    def test_the_first_end_counts(self, raw: redis.Redis, before: str) -> None:
        raw.hset("question", before, "it")
        assert self.finish(raw) == 0
        assert raw.hgetall("question") == {"question": "{}", before: "it"}
        assert raw.exists("lease", "result") == 0
        assert raw.zrange("open", 0, -1) == ["another"]

    def test_a_lease_of_somebody_else_stays(self, raw: redis.Redis) -> None:
        raw.set("lease", "theirs")
        assert self.finish(raw) == 1
        assert raw.get("lease") == "theirs"


class TestAttemptBegin:
    KEYS = ("row", "open", "lease", "breaker", "permits", "rates", "files", "bytes")

    def begin(self, raw: redis.Redis, *, sending: str = "", **changes: Any) -> Any:
        of_ledger = read_script(LEDGER, "upload_functions", "storage_functions")
        names = ("limits_functions", "breaker_functions", "attempt_begin")
        script = f"{of_ledger}\n{read_script(FLEET, *names, constants=limits.CONSTANTS)}"
        admission = {
            "profile": "default",
            "work": "upload",
            "rate": 0,
            "permit": "",
            "failures": 2,
            "gaps": "[10, 20]",
            "storage": {"bytes": 10, "limit": 100, "kept_s": 60},
        }
        wanted: dict[str, Any] = {"ticket": "t", "lease": "mine", "lease_ms": 20_000}
        wanted["admission"] = {**admission, **changes}
        if changes.get("admission", "") is None:
            wanted["admission"] = None
        return raw.eval(script, len(self.KEYS), *self.KEYS, json.dumps(wanted), sending)

    @pytest.fixture(autouse=True)
    def queued(self, raw: redis.Redis) -> None:
        raw.hset("row", mapping={"stage": "QUEUED", "request": "{}"})

    def everything(self, raw: redis.Redis) -> dict[str, Any]:
        keys = sorted(raw.scan_iter())
        return {key: raw.dump(key) for key in keys if key != "rates"}

    def test_all_is_taken(self, raw: redis.Redis) -> None:
        sending = change(**{"from": ["QUEUED"]}, set={"stage": "UPLOADING"}, stamp={"upload_at": 0})
        word, _, now, token, failures, row = self.begin(raw, sending=sending, rate=60)
        assert (word, failures, row) == ("", 0, ["stage", "QUEUED", "request", "{}"])
        assert token.startswith("0:")
        assert raw.hget("row", "stage") == "UPLOADING"
        assert float(raw.hget("row", "upload_at") or 0) == pytest.approx(float(now), abs=1)
        assert raw.get("lease") == "mine"
        assert 19_000 < raw.pttl("lease") <= 20_000
        assert raw.hgetall("bytes") == {"t": "10", "ours": "10"}
        assert float(raw.hget("permits", "next") or 0) > float(now)

    def test_the_lease_alone(self, raw: redis.Redis) -> None:
        assert self.begin(raw, admission=None)[0] == ""
        assert raw.get("lease") == "mine"
        assert raw.exists("bytes", "permits", "breaker") == 0

    def test_once_more_with_ones_own_lease(self, raw: redis.Redis) -> None:
        assert self.begin(raw, admission=None)[0] == ""
        assert self.begin(raw)[0] == ""

    @pytest.mark.parametrize(
        ("word", "before", "changes"),
        [
            ("unknown", lambda raw: raw.delete("row"), {}),
            ("moved_on", lambda raw: raw.hset("row", "stage", "PROCESSING"), {}),
            ("moved_on", lambda raw: raw.hset("row", "stage", "CANCELLED"), {}),
            ("leased", lambda raw: raw.set("lease", "theirs", px=20_000), {}),
            (
                "outage",
                lambda raw: raw.hset("breaker", mapping={"failures": 2, "probe_at": 2e10}),
                {},
            ),
            ("storage", lambda raw: raw.hset("bytes", mapping={"other": 95, "ours": 95}), {}),
            ("permit", lambda raw: raw.hset("permits", mapping={"until": 2e10}), {"rate": 60}),
            ("permit", lambda raw: raw.hset("permits", mapping={"next": 2e10}), {"rate": 60}),
            ("permit", lambda raw: None, {"rate": PAUSED}),
        ],
    )
    def test_or_nothing(self, raw: redis.Redis, word: str, before: Any, changes: Any) -> None:
        before(raw)
        there = self.everything(raw)
        sending = change(set={"stage": "UPLOADING"})
        assert self.begin(raw, sending=sending, **changes)[0] == word
        assert self.everything(raw) == there

    def test_a_permit_in_hand_is_enough(self, raw: redis.Redis) -> None:
        raw.hset("permits", "next", 2e10)
        assert self.begin(raw, rate=60, permit="0:1")[3] == "0:1"

    def test_the_probe_of_an_outage_is_one(self, raw: redis.Redis) -> None:
        raw.hset("breaker", mapping={"failures": 2, "probe_at": 1})
        assert self.begin(raw)[0] == ""
        raw.delete("lease")
        word, wait_s, *_ = self.begin(raw)
        assert word == "outage"
        assert 9 < float(wait_s) <= 10


def test_keys_of_ours_have_the_prefix() -> None:
    """The scripts name no key themselves: all come by KEYS."""
    assert all(protocol.KEY_PREFIX not in path.read_text("utf-8") for path in SCRIPTS)
