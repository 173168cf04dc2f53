"""The webhooks that projects have registered, with their secrets."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from provider_uploads.emulator.config import SECOND_NS, Clock, rfc3339
from provider_uploads.emulator.errors import invalid_argument, not_found
from provider_uploads.emulator.webhook_signing import new_secret

EVENTS = (
    "batch.succeeded",
    "batch.expired",
    "batch.failed",
    "batch.cancelled",
    "interaction.requires_action",
    "interaction.completed",
    "interaction.failed",
    "interaction.cancelled",
    "video.generated",
)

_STATES = ("enabled", "disabled", "disabled_due_to_failed_deliveries")
_GRACE_NS = 24 * 3600 * SECOND_NS
_SHOWN_CHARS = 10


@dataclass
class Secret:
    """A signing secret; ``expire_ns`` is when it stops being used, once another replaced it."""

    text: str = field(repr=False)
    expire_ns: int | None = None

    def json(self) -> dict[str, Any]:
        """What is shown of it: not enough to sign with."""
        shown = {"truncated_secret": f"{self.text[:_SHOWN_CHARS]}…"}
        if self.expire_ns is not None:
            shown["expire_time"] = rfc3339(self.expire_ns)
        return shown


@dataclass(kw_only=True)
class StaticWebhook:
    """An endpoint of a project, told of every event it is subscribed to."""

    webhook_id: str
    owner: str = field(repr=False)
    uri: str
    events: tuple[str, ...]
    secrets: list[Secret]
    create_ns: int
    update_ns: int
    name: str | None = None
    state: str = "enabled"

    def signing_secrets(self, now_ns: int) -> list[str]:
        """The secrets in use, newest first."""
        return [s.text for s in self.secrets if s.expire_ns is None or now_ns < s.expire_ns]

    def json(self) -> dict[str, Any]:
        """The Webhook resource."""
        shown: dict[str, Any] = {} if self.name is None else {"name": self.name}
        return {
            **shown,
            "id": self.webhook_id,
            "uri": self.uri,
            "subscribed_events": list(self.events),
            "state": self.state,
            "signing_secrets": [secret.json() for secret in self.secrets],
            "create_time": rfc3339(self.create_ns),
            "update_time": rfc3339(self.update_ns),
        }


class WebhookStore:
    """All registered webhooks, each owned by one key."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._webhooks: dict[str, StaticWebhook] = {}  # oldest first

    def create(self, owner: str, given: Any) -> StaticWebhook:
        """Register an endpoint; 400 if its description makes no sense."""
        known = _checked(given)
        for name in ("uri", "subscribed_events"):
            if name not in known:
                raise invalid_argument(f"Webhook.{name}: is required.")
        now_ns = self._clock()
        webhook = StaticWebhook(
            webhook_id=secrets.token_hex(12),
            owner=owner,
            uri=known["uri"],
            events=known["subscribed_events"],
            name=known.get("name"),
            secrets=[Secret(new_secret())],
            create_ns=now_ns,
            update_ns=now_ns,
        )
        self._webhooks[webhook.webhook_id] = webhook
        return webhook

    def update(self, webhook: StaticWebhook, given: Any) -> None:
        """Change what is given; 400 if it makes no sense."""
        known = _checked(given)
        webhook.uri = known.get("uri", webhook.uri)
        webhook.events = known.get("subscribed_events", webhook.events)
        webhook.name = known.get("name", webhook.name)
        webhook.state = known.get("state", webhook.state)
        webhook.update_ns = self._clock()

    def rotate(self, webhook: StaticWebhook, *, at_once: bool) -> str:
        """A new secret; those before stay in use for a day, unless they are to end at once."""
        now_ns = self._clock()
        end_ns = now_ns if at_once else now_ns + _GRACE_NS
        for secret in webhook.secrets:
            secret.expire_ns = min(secret.expire_ns or end_ns, end_ns)
        webhook.secrets.insert(0, Secret(new_secret()))
        webhook.update_ns = now_ns
        return webhook.secrets[0].text

    def get(self, webhook_id: str, owner: str) -> StaticWebhook:
        """One webhook of this owner; 404 otherwise."""
        webhook = self._webhooks.get(webhook_id)
        if webhook is None or webhook.owner != owner:
            raise not_found()
        return webhook

    def delete(self, webhook: StaticWebhook) -> None:
        """Tell it nothing any more."""
        del self._webhooks[webhook.webhook_id]

    def of(self, owner: str) -> Iterator[StaticWebhook]:
        """The webhooks of one owner, oldest first."""
        return (w for w in tuple(self._webhooks.values()) if w.owner == owner)

    def clear(self) -> None:
        """Forget all of them."""
        self._webhooks.clear()


def _checked(given: Any) -> dict[str, Any]:
    """The known fields of a description, each as it should be; 400 otherwise."""
    if not isinstance(given, dict):
        raise invalid_argument("Webhook: must be an object.")
    known: dict[str, Any] = {}
    for name in ("name", "uri", "state"):
        value = given.get(name)
        if value is not None and not isinstance(value, str):
            raise invalid_argument(f"Webhook.{name}: must be a string.")
        if value is not None:
            known[name] = value
    if "uri" in known and not known["uri"].startswith(("http://", "https://")):
        raise invalid_argument("Webhook.uri: must begin with https://.")
    if known.get("state", "enabled") not in _STATES:
        raise invalid_argument(f"Webhook.state: must be one of {', '.join(_STATES)}.")
    events = given.get("subscribed_events")
    if events is not None:
        if not isinstance(events, list) or not events or not set(events) <= set(EVENTS):
            raise invalid_argument(
                f"Webhook.subscribed_events: must be a list of some of {', '.join(EVENTS)}."
            )
        known["subscribed_events"] = tuple(events)
    return known
