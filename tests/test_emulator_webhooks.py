"""Webhooks of the local Gemini: a project's or a job's, well signed or forged, late or lost."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import httpx2
import pytest
from google import genai
from google.genai import types
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from standardwebhooks import Webhook, WebhookVerificationError

from provider_uploads.emulator import BatchConfig, EmulatorConfig, LocalGemini

KEY = "a-key"
INLINE: list[Any] = [{"contents": [{"parts": [{"text": "hello"}], "role": "user"}]}]


class Got(NamedTuple):
    headers: dict[str, str]
    body: bytes


class Endpoint:
    """Answers 200, or the next status that was ordered."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.statuses: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append(Got({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(outer.statuses.pop(0) if outer.statuses else 200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?a=1"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini(EmulatorConfig(batches=BatchConfig(pending_s=10, running_s=20))) as local:
        yield local


@pytest.fixture(autouse=True)
def _clean(gemini: LocalGemini) -> None:
    gemini.reset()


@pytest.fixture
def client(gemini: LocalGemini) -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=gemini.url, api_version="v1beta", timeout=10_000)
    with genai.Client(vertexai=False, api_key=KEY, http_options=options) as made:
        yield made


def wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until_s, "it did not come about"
        time.sleep(0.01)


def settled(gemini: LocalGemini, deliveries: int = 1) -> list[dict[str, Any]]:
    """The deliveries, once there are so many and all are done."""
    wait_until(lambda: len(gemini.webhooks.deliveries()) >= deliveries)
    wait_until(lambda: all(delivery["done"] for delivery in gemini.webhooks.deliveries()))
    return gemini.webhooks.deliveries()


def create(client: genai.Client, *uris: str, **metadata: str) -> str:
    config = types.CreateBatchJobConfig(
        display_name="nightly",
        webhook_config=types.WebhookConfig(uris=list(uris), user_metadata=metadata)
        if uris or metadata
        else None,
    )
    return client.batches.create(model="gemini-x", src=INLINE, config=config).name or ""


def claims_of(gemini: LocalGemini, got: Got) -> dict[str, Any]:
    """What a receiver reads from a dynamic delivery; JoseError if it must not believe it."""
    keys = KeySet.import_key_set(httpx2.get(f"{gemini.url}/.well-known/jwks.json").json())
    token = jwt.decode(got.headers["webhook-signature"], keys, algorithms=["RS256"])
    jwt.JWTClaimsRegistry(exp={"essential": True}).validate(token.claims)
    return token.claims


# --- registered for a project ---------------------------------------------------------------------


def test_a_registered_webhook_is_told_of_the_end(
    gemini: LocalGemini, client: genai.Client, endpoint: Endpoint
) -> None:
    made = client.webhooks.create(
        name="mine", uri=endpoint.url, subscribed_events=["batch.succeeded", "batch.failed"]
    )
    assert (made.new_signing_secret or "").startswith("whsec_")
    name = create(client, job="7")
    gemini.advance_clock(30)
    [delivery] = settled(gemini)
    assert (delivery["answers"], delivery["dynamic"]) == (["200"], False)
    [got] = endpoint.got
    event = Webhook(made.new_signing_secret or "").verify(got.body, got.headers)
    assert (event["type"], event["data"]) == ("batch.succeeded", {"id": name})
    assert (event["version"], event["user_metadata"]) == ("v1", {"job": "7"})


@pytest.mark.parametrize(
    ("state", "event", "data"),
    [
        (
            "BATCH_STATE_FAILED",
            "batch.failed",
            {"error_code": 13, "error_message": "The batch failed to be processed."},
        ),
        ("BATCH_STATE_EXPIRED", "batch.expired", {}),
        ("BATCH_STATE_CANCELLED", "batch.cancelled", {}),
    ],
)
def test_every_end_has_its_event(
    gemini: LocalGemini, client: genai.Client, endpoint: Endpoint, state: str, event: str, data: Any
) -> None:
    gemini.webhooks.register(endpoint.url, key=KEY, events=(event,))
    gemini.webhooks.register(endpoint.url, key=KEY, events=("batch.succeeded",))
    gemini.webhooks.register(endpoint.url, key="another-key", events=(event,))
    gemini.batches.order(state=state)
    name = create(client)
    gemini.advance_clock(30)
    [delivery] = settled(gemini)
    assert delivery["type"] == event
    body = httpx2.Response(200, content=endpoint.got[0].body).json()
    assert body["data"] == {"id": name, **data}


def test_the_calls_about_webhooks(
    gemini: LocalGemini, client: genai.Client, endpoint: Endpoint
) -> None:
    made = client.webhooks.create(uri=endpoint.url, subscribed_events=["batch.succeeded"])
    webhook_id = made.id or ""
    shown = client.webhooks.get(id=webhook_id)
    assert shown.new_signing_secret is None
    assert (shown.uri, shown.state) == (endpoint.url, "enabled")
    assert [webhook.id for webhook in client.webhooks.list().webhooks or []] == [webhook_id]
    client.webhooks.update(id=webhook_id, subscribed_events=["batch.failed"])
    assert client.webhooks.get(id=webhook_id).subscribed_events == ["batch.failed"]

    rotated = client.webhooks.rotate_signing_secret(id=webhook_id)
    client.webhooks.ping(id=webhook_id)
    settled(gemini)
    for secret in (made.new_signing_secret, rotated.secret):  # both, for a day
        got = endpoint.got[0]
        assert Webhook(secret or "").verify(got.body, got.headers)["type"] == "webhook.ping"

    client.webhooks.delete(id=webhook_id)
    assert not client.webhooks.list().webhooks
    assert gemini.counters()["operations"]["webhook"]["requests"] == 9


def test_an_address_or_an_event_that_makes_no_sense_is_refused(client: genai.Client) -> None:
    for wrong in ({"uri": "ftp://x"}, {"subscribed_events": ["batch.begun"]}):
        given: Any = {"uri": "https://x/y", "subscribed_events": ["batch.failed"], **wrong}
        with pytest.raises(Exception, match=next(iter(wrong))):
            client.webhooks.create(**given)


# --- given with a job -----------------------------------------------------------------------------


def test_a_jobs_own_webhook_goes_before_those_registered(
    gemini: LocalGemini, client: genai.Client, endpoint: Endpoint
) -> None:
    gemini.webhooks.register(endpoint.url, key=KEY)
    name = create(client, endpoint.url, job="7")
    gemini.advance_clock(30)
    [delivery] = settled(gemini)
    assert delivery["dynamic"]
    [got] = endpoint.got
    claims = claims_of(gemini, got)
    assert claims["aud"] == endpoint.url
    assert (claims["type"], claims["data"]) == ("batch.succeeded", {"id": name})
    assert claims["user_metadata"] == {"job": "7"}
    assert httpx2.Response(200, content=got.body).json()["data"] == {"id": name}
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 60  # not the shifted clock


# --- what can be ordered --------------------------------------------------------------------------


def test_absent_late_and_doubled(
    gemini: LocalGemini, client: genai.Client, endpoint: Endpoint
) -> None:
    gemini.webhooks.order(absent=True)
    gemini.webhooks.order(copies=3)
    gemini.webhooks.order(late_s=600)
    for _ in range(3):
        create(client, endpoint.url)
    gemini.advance_clock(30)
    wait_until(lambda: len(endpoint.got) == 3)
    absent, doubled, late = gemini.webhooks.deliveries()
    assert (absent["done"], absent["answers"]) == (True, [])
    assert {got.headers["webhook-id"] for got in endpoint.got} == {doubled["id"]}
    assert (late["done"], late["answers"]) == (False, [])
    gemini.advance_clock(600)
    settled(gemini)
    assert [got.headers["webhook-id"] for got in endpoint.got[3:]] == [late["id"]]


@pytest.mark.parametrize("forged", ["secret", "body", "unsigned", "old"])
def test_no_forgery_of_a_registered_webhook_verifies(
    gemini: LocalGemini, client: genai.Client, endpoint: Endpoint, forged: str
) -> None:
    secret = gemini.webhooks.register(endpoint.url, key=KEY)
    gemini.webhooks.order(forged=forged)
    create(client)
    gemini.advance_clock(30)
    settled(gemini)
    [got] = endpoint.got
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(got.body, got.headers)


@pytest.mark.parametrize("forged", ["secret", "unsigned", "old"])
def test_no_forgery_of_a_jobs_own_webhook_verifies(
    gemini: LocalGemini, client: genai.Client, endpoint: Endpoint, forged: str
) -> None:
    name = create(client, endpoint.url)
    gemini.webhooks.send(name, "batch.succeeded", forged=forged)  # though the job is pending
    settled(gemini)
    [got] = endpoint.got
    with pytest.raises((JoseError, ValueError)):
        claims_of(gemini, got)


def test_a_changed_body_does_not_agree_with_its_token(
    gemini: LocalGemini, client: genai.Client, endpoint: Endpoint
) -> None:
    name = create(client, endpoint.url)
    gemini.webhooks.send(name, forged="body")
    settled(gemini)
    [got] = endpoint.got
    assert claims_of(gemini, got)["data"]["id"] == name
    assert httpx2.Response(200, content=got.body).json()["data"]["id"] != name


def test_what_is_not_answered_well_is_sent_again(
    gemini: LocalGemini, client: genai.Client, endpoint: Endpoint
) -> None:
    endpoint.statuses = [500, 302]
    create(client, endpoint.url)
    gemini.advance_clock(30)
    for tries in (1, 2):
        wait_until(lambda tries=tries: len(endpoint.got) == tries)  # type: ignore[misc]
        wait_until(lambda tries=tries: len(gemini.webhooks.deliveries()[0]["answers"]) == tries)  # type: ignore[misc]
        gemini.advance_clock(10)
    [delivery] = settled(gemini)
    assert delivery["answers"] == ["500", "302", "200"]
    assert len({got.headers["webhook-id"] for got in endpoint.got}) == 1


def test_nobody_there_is_given_up_after_a_day(gemini: LocalGemini, client: genai.Client) -> None:
    create(client, "http://127.0.0.1:9/none")
    gemini.advance_clock(30)
    wait_until(lambda: bool(gemini.webhooks.deliveries()))

    def hours_pass() -> bool:
        gemini.advance_clock(3600)
        return bool(gemini.webhooks.deliveries()[0]["done"])

    wait_until(hours_pass)
    answers = gemini.webhooks.deliveries()[0]["answers"]
    assert set(answers) == {"ConnectionRefusedError"}
    assert len(answers) > 5


def test_orders_over_http(gemini: LocalGemini) -> None:
    path = f"{gemini.url}/_emulator/webhooks/orders"
    made = httpx2.post(path, json={"absent": True, "share": 0.5, "seed": 3}).json()
    assert (made["absent"], made["share"], made["count"]) == (True, 0.5, None)
    assert httpx2.get(path).json() == {"orders": [made]} == {"orders": gemini.webhooks.orders()}
    odd: list[Any] = [{"forged": "badly"}, {"copies": 0}, {"late_s": -1}, {"what": 1}, []]
    for wrong in odd:
        assert httpx2.post(path, json=wrong).status_code == 400
    assert httpx2.delete(path).json() == {}
    assert gemini.webhooks.orders() == []
    send = f"{gemini.url}/_emulator/webhooks/send"
    assert httpx2.post(send, json={"job": "batches/no", "type": "batch.failed"}).status_code == 400


def test_it_stops_at_once_though_an_endpoint_hangs() -> None:
    silent = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # accepts, says nothing
    try:
        config = BatchConfig(pending_s=0, running_s=0)
        with LocalGemini(EmulatorConfig(batches=config)) as local:
            options = types.HttpOptions(base_url=local.url, api_version="v1beta")
            with genai.Client(vertexai=False, api_key=KEY, http_options=options) as client:
                create(client, f"http://127.0.0.1:{silent.server_port}/")
            wait_until(lambda: bool(local.webhooks.deliveries()))
            before_s = time.monotonic()
        assert time.monotonic() - before_s < 3
    finally:
        silent.server_close()
