"""Orders for faults: by number, by chance, for a while, in a mix; and what makes no sense."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx2
import pytest

from provider_uploads.emulator import (
    EmulatorConfig,
    FaultKind,
    FaultMix,
    InvalidFaultError,
    LocalGemini,
    Operation,
)

KEY = {"x-goog-api-key": "a-key"}


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(processing_s=0, chunk_granularity_bytes=1)) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


@pytest.fixture(scope="module")
def client(gemini: LocalGemini) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gemini.url, headers=KEY, timeout=20) as http_client:
        yield http_client


def statuses(send: Callable[[], httpx2.Response], times: int) -> list[int]:
    """What the answers said; 0 stands for none."""
    seen = []
    for _ in range(times):
        try:
            seen.append(send().status_code)
        except httpx2.TransportError:
            seen.append(0)
    return seen


def upload(client: httpx2.Client, data: bytes = b"abc", **file: Any) -> httpx2.Response:
    headers = {"X-Goog-Upload-Command": "start"}
    started = client.post("/upload/v1/files", headers=headers, json={"file": file})
    if started.status_code != 200:
        return started
    headers = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
    return client.post(started.headers["x-goog-upload-url"], headers=headers, content=data)


# --- by chance -----------------------------------------------------------------------------------


def test_a_share_is_the_same_again_for_the_same_seed(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    seen = []
    for seed in (7, 7, 8):
        gemini.clear_faults()
        gemini.order_fault("list", "internal", share=0.3, seed=seed)
        seen.append(statuses(lambda: client.get("/v1/files"), 200))
    assert seen[0] == seen[1] != seen[2]
    assert set(seen[0]) == {200, 500}
    assert 35 <= seen[0].count(500) <= 85
    assert gemini.faults()[0]["applied"] == seen[2].count(500)
    assert gemini.counters()["faults"]["list"]["internal"] == sum(s.count(500) for s in seen)


def test_a_share_can_begin_late_end_soon_and_be_aimed(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    gemini.order_fault("get", "internal", share=0.9, seed=1, nth=4, count=2, match="clip")
    assert statuses(lambda: client.get("/v1/files/notes"), 9) == [403] * 9
    seen = statuses(lambda: client.get("/v1/files/clip"), 20)
    assert seen[:3] == [403, 403, 403]
    assert seen.count(500) == 2


# --- for a while ---------------------------------------------------------------------------------


def test_an_outage_lasts_as_long_as_the_servers_clock_says(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    entry = gemini.order_outage(300)
    made = upload(client).json()["file"]["name"]  # only get and list are out
    for _ in range(3):
        assert client.get(f"/v1/{made}").status_code == 500
        assert client.get("/v1/files").status_code == 500
        gemini.advance_clock(99)
    assert client.get("/v1/files").status_code == 500
    gemini.advance_clock(3)
    assert client.get(f"/v1/{made}").status_code == 200
    assert client.get("/v1/files").status_code == 200
    [seen] = gemini.faults()
    assert (seen["id"], seen["seen"], seen["applied"]) == (entry["id"], 9, 7)
    assert seen["fired"] == {"get": {"internal": 3}, "list": {"internal": 4}}
    assert seen["until"] == entry["until"] < client.get("/_emulator/clock").json()["now"]


def test_an_outage_can_be_ended(client: httpx2.Client, gemini: LocalGemini) -> None:
    other = gemini.order_fault("cancel", "reset")
    outage = gemini.order_outage(operations=["list"], kind="unavailable")
    assert outage["until"] is None
    assert statuses(lambda: client.get("/v1/files"), 3) == [503] * 3
    ended = client.delete(f"/_emulator/faults/{outage['id']}").json()
    assert (ended["id"], ended["applied"]) == (outage["id"], 3)
    assert client.get("/v1/files").status_code == 200
    assert gemini.faults() == [other]
    assert client.delete(f"/_emulator/faults/{outage['id']}").status_code == 404
    assert gemini.end_fault(outage["id"]) is None
    assert gemini.end_fault(other["id"]) == other


def test_one_kind_at_one_operation_for_a_while(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_fault("list", "rate_limited_bare", for_s=60)
    assert statuses(lambda: client.get("/v1/files"), 3) == [429] * 3
    gemini.advance_clock(60)
    assert client.get("/v1/files").status_code == 200


# --- in a mix ------------------------------------------------------------------------------------


def test_a_mix_of_everything(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_mix(0.5, 3, stall_s=0.01)
    for number in range(150):
        statuses(partial(upload, client, b"x" * 1000, name=f"files/n{number}"), 1)
    statuses(lambda: client.get("/v1/files"), 20)
    fired = gemini.counters()["faults"]
    assert set(fired) == {"start", "upload", "list"}
    assert set(fired["upload"]) == {str(kind) for kind in FaultKind}
    assert set(fired["start"]) <= {
        "rate_limited", "rate_limited_bare", "rate_limited_day", "internal", "unavailable",
        "reset", "stall", "lost_answer", "late_answer", "bad_json",
    }  # fmt: skip
    requests = {
        name: counted["requests"] for name, counted in gemini.counters()["operations"].items()
    }
    [mix] = gemini.faults()
    assert mix["seen"] == requests["start"] + requests["upload"] + requests["list"]
    assert mix["applied"] == sum(sum(kinds.values()) for kinds in fired.values())
    assert 0.4 < mix["applied"] / mix["seen"] < 0.6


def test_a_mix_gives_each_operation_its_own_chances(
    client: httpx2.Client, gemini: LocalGemini
) -> None:
    seen = []
    for between in (False, True):
        gemini.clear_faults()
        gemini.order_mix(0.2, 5, kinds=["internal", "reset", "rate_limited"])

        def ask(between: bool = between) -> httpx2.Response:
            if between:
                statuses(lambda: client.get("/v1/files/x"), 1)
            return client.get("/v1/files")

        seen.append(statuses(ask, 100))
    assert seen[0] == seen[1]
    assert set(seen[0]) == {200, 500, 429, 0}


def test_a_mix_is_a_share_of_the_replies(client: httpx2.Client, gemini: LocalGemini) -> None:
    kinds = ["file_failed", "lost_finalize", "unavailable"]
    gemini.order_mix(0.2, 11, kinds=kinds, operations=["upload"])
    statuses(lambda: upload(client), 200)
    counters = gemini.counters()
    fired = sum(counters["faults"]["upload"].values())
    assert 20 <= fired <= 60  # and not twice that, though there are two moments
    failed = [file for file in gemini.files() if file["state"] == "FAILED"]
    assert len(failed) == counters["faults"]["upload"]["file_failed"]


def test_a_mix_strikes_anywhere_in_the_bytes(client: httpx2.Client, gemini: LocalGemini) -> None:
    gemini.order_mix(1.0, 2, kinds=["reset"], operations=["upload"])
    statuses(lambda: upload(client, b"x" * 10_000), 20)
    kept = {session["received_bytes"] for session in gemini.sessions()}
    assert len(kept) > 10
    assert max(kept) < 10_000


def test_a_mix_can_be_aimed(client: httpx2.Client, gemini: LocalGemini) -> None:
    entry = gemini.order_mix(1.0, kinds=["internal"], match="clip")
    assert "list" not in entry["operations"]
    assert upload(client, display_name="notes").status_code == 200
    assert upload(client, display_name="my clip").status_code == 500


def test_a_mix_over_http(client: httpx2.Client, gemini: LocalGemini) -> None:
    order = {"share": 0.25, "seed": 4, "kinds": ["reset", "internal"], "operations": ["get"]}
    entry = client.post("/_emulator/faults/mix", json=order).json()
    assert entry == {
        "id": entry["id"],
        "share": 0.25,
        "seed": 4,
        "kinds": ["internal", "reset"],
        "operations": ["get"],
        "nth": 1,
        "count": None,
        "match": None,
        "for_s": None,
        "retry_delay_s": None,
        "stall_s": None,
        "until": None,
        "seen": 0,
        "applied": 0,
        "fired": {},
    }
    assert gemini.faults() == [entry]


def test_a_mix_of_all_is_all(gemini: LocalGemini) -> None:
    entry = gemini.order_mix(0.2)
    assert entry["kinds"] == [str(kind) for kind in FaultKind]
    assert entry["operations"] == [str(operation) for operation in Operation]


@pytest.mark.parametrize(
    ("order", "complaint"),
    [
        ([], "object"),
        ({}, "share is missing"),
        ({"share": 0}, "share must be"),
        ({"share": 1.1}, "share must be"),
        ({"share": "1"}, "share must be"),
        ({"share": True}, "share must be"),
        ({"share": 0.1, "seed": 1.5}, "seed must be"),
        ({"share": 0.1, "kind": "reset"}, "unknown: kind"),
        ({"share": 0.1, "kinds": "reset"}, "kinds must be a list"),
        ({"share": 0.1, "kinds": None}, "kinds must be a list"),
        ({"share": 0.1, "kinds": ["bang"]}, "kinds must be one of"),
        ({"share": 0.1, "kinds": [["reset"]]}, "kinds must be one of"),
        ({"share": 0.1, "operations": ["fly"]}, "operations must be one of"),
        ({"share": 0.1, "kinds": ["early_final"], "operations": ["get"]}, "early_final cannot"),
        (
            {"share": 0.1, "kinds": ["early_final"], "operations": ["get", "upload"]},
            "can happen at get",
        ),
        ({"share": 0.1, "operations": ["list"], "match": "a"}, "leave match out"),
        ({"share": 0.1, "kinds": ["reset"], "stall_s": 1}, "takes stall_s"),
        ({"share": 0.1, "stall_s": -1}, "stall_s must be"),
        ({"share": 0.1, "for_s": "60"}, "for_s must be"),
        ({"share": 0.1, "count": 0}, "count must be"),
    ],
)
def test_a_senseless_mix_is_refused(
    gemini: LocalGemini, client: httpx2.Client, order: Any, complaint: str
) -> None:
    reply = client.post("/_emulator/faults/mix", json=order)
    assert reply.status_code == 400
    assert complaint in reply.json()["error"]["message"]
    assert gemini.faults() == []
    with pytest.raises(InvalidFaultError, match=complaint):
        FaultMix.from_json(order)


def test_orders_from_python_are_refused_alike(gemini: LocalGemini) -> None:
    with pytest.raises(InvalidFaultError, match="only at upload"):
        gemini.order_fault("get", "early_final")
    with pytest.raises(InvalidFaultError, match="operation must be one of"):
        gemini.order_fault("fly", "reset")
    with pytest.raises(InvalidFaultError, match="kinds must be one of"):
        gemini.order_mix(0.2, kinds=["bang"])
