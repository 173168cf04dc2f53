"""Webhooks of the Batch API: verified, and then the job's batch is polled at once.

    webhooks = BatchWebhooks(secrets=["whsec_…"])                  # registered for the project
    webhooks = BatchWebhooks(audience="https://shop.example/batches")      # named with the job

    try:
        webhooks.receive(queue, request.headers, request.body)     # in any framework
    except errors.WebhookRefusedError:
        return 401

A static webhook is signed by the Standard Webhooks specification, a dynamic one by a token whose
claims are the event: its body is signed by nothing, and not read. What a webhook says is not
believed either way: it only makes a worker ask the service, so a late one, or one that comes twice,
does no harm, and one that never comes costs a wait until the next poll.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from provider_uploads.errors import MissingDependencyError, WebhookRefusedError
from provider_uploads.profiles import DEFAULT_PROFILE, GEMINI_URL
from provider_uploads.schemas import Record

if TYPE_CHECKING:
    from provider_uploads.client.queue import UploadQueue

#: How long the service's keys are kept, and how soon they are asked for again when a token names
#: one that is not among them.
_KEYS_KEPT_S: Final = 3600.0
_KEYS_AGAIN_S: Final = 30.0
_FETCH_S: Final = 10.0
_MOST_KEY_BYTES: Final = 256 * 1024
#: How far a token's times may be off, as the Standard Webhooks library allows for its own.
_LEEWAY_S: Final = 300
#: What signs a token: asymmetric ones only, or the public key would be a secret.
_ALGORITHMS: Final = ("RS256", "ES256")


class BatchEvent(Record):
    """What the service says of a job: ``batch.succeeded``, ``batch.failed``, ``batch.expired`` …"""

    type: str
    #: The job's name, ``batches/…``.
    job: str
    data: dict[str, Any]
    user_metadata: dict[str, Any]


class BatchWebhooks:
    """Receives webhooks; thread-safe, made once per process.

    ``secrets`` are those of static webhooks, the old one too while they are rotated; ``audience``
    is your own URL, which a dynamic webhook's token must name. ``jwks_url`` is where the service's
    public keys are. Needs the ``webhooks`` extra.
    """

    def __init__(
        self,
        *,
        secrets: Sequence[str] = (),
        audience: str | None = None,
        jwks_url: str = f"{GEMINI_URL}/.well-known/jwks.json",
    ) -> None:
        self._secrets = tuple(secrets)
        self._audience = audience
        self._keys = _PublicKeys(jwks_url)

    def receive(
        self,
        queue: UploadQueue,
        headers: Mapping[str, str],
        body: bytes,
        *,
        profile: str = DEFAULT_PROFILE,
    ) -> str | None:
        """Verify a webhook and have its batch polled now; return the ticket.

        None for a job that is not ours, which is answered with 2xx like the others: the service
        would send it again. Raises WebhookRefusedError, for a 401; QueueUnavailableError, for a
        503.
        """
        event = self.verify(headers, body)
        return queue.batch_wake(event.job, profile=profile)

    def verify(self, headers: Mapping[str, str], body: bytes) -> BatchEvent:
        """Return the event of a webhook; raises WebhookRefusedError for one that is not signed."""
        given = {name.lower(): value for name, value in headers.items()}
        signature = given.get("webhook-signature", "")
        if signature.count(".") == 2 and not signature.startswith("v1"):
            return _event(self._claims(signature.removeprefix("Bearer ")))
        return _event(self._signed(given, body))

    def _signed(self, headers: dict[str, str], body: bytes) -> Any:
        if not self._secrets:
            raise WebhookRefusedError("no secret is set for a static webhook")
        try:
            from standardwebhooks import Webhook
        except ImportError:
            raise MissingDependencyError("standardwebhooks", "webhooks") from None
        for secret in self._secrets:
            try:
                return Webhook(secret).verify(body, headers)
            except Exception as error:  # whatever a stranger may send: it is none of ours
                why = str(error) or type(error).__name__
        raise WebhookRefusedError(why)

    def _claims(self, token: str) -> Any:
        if self._audience is None:
            raise WebhookRefusedError("no audience is set for a dynamic webhook")
        try:
            from joserfc import jwt
            from joserfc.jwk import KeySet
        except ImportError:
            raise MissingDependencyError("joserfc", "webhooks") from None
        try:
            keys = KeySet.import_key_set(self._keys.get(_key_id(token)))
            found = jwt.decode(token, keys, algorithms=[*_ALGORITHMS])
            checks = jwt.JWTClaimsRegistry(
                leeway=_LEEWAY_S,
                exp={"essential": True},
                aud={"essential": True, "value": self._audience},
            )
            checks.validate(found.claims)
        except WebhookRefusedError:
            raise
        except Exception as error:  # as above
            raise WebhookRefusedError(str(error) or type(error).__name__) from None
        return found.claims


class _PublicKeys:
    """The service's keys, asked for rarely."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._keys: Any = {"keys": []}
        self._asked_at = -_KEYS_KEPT_S

    def get(self, key_id: str) -> Any:
        with self._lock:
            age_s = time.monotonic() - self._asked_at
            known = any(key.get("kid") == key_id for key in self._keys["keys"])
            if age_s > (_KEYS_KEPT_S if known else _KEYS_AGAIN_S):
                self._asked_at = time.monotonic()
                with urllib.request.urlopen(self._url, timeout=_FETCH_S) as answer:  # noqa: S310 - a setting
                    self._keys = json.loads(answer.read(_MOST_KEY_BYTES))
            return self._keys


def _key_id(token: str) -> str:
    from joserfc import jws

    return str(jws.extract_compact(token.encode()).headers().get("kid"))


def _event(said: Any) -> BatchEvent:
    data = said.get("data") if isinstance(said, dict) else None
    name = data.get("id") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(name, str) or not name:
        raise WebhookRefusedError("it names no job")
    metadata = said.get("user_metadata")
    return BatchEvent(
        type=str(said.get("type")),
        job=f"batches/{name.rpartition('/')[2]}",
        data=data,
        user_metadata=metadata if isinstance(metadata, dict) else {},
    )
